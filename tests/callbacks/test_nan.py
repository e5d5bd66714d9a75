import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint, TerminateOnNaN
from kerastorch.strategy import Strategy
from kerastorch.strategy.processes import join
from tests.distributed.together import together


def batches(bad=None, *, value=math.nan, count=6):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 2, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]
    if bad is not None:
        data[bad][1].fill_(value)
    return data


def fit(callback, data, *others, epochs=2, verbose=0, **options):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    seen = []
    count = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    try:
        model.fit(epochs, data, callbacks=[callback, count, *others], verbose=verbose, **options)
    finally:
        model.seen = seen
    return model


class Unsized:
    """Batches of which nobody knows how many they are."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [1, 3, 5])
def test_it_stops_at_the_batch_and_names_it(bad, value, capsys):
    model = fit(TerminateOnNaN(), batches(bad, value=value))
    assert model.seen == list(range(bad + 1))
    assert capsys.readouterr().err == (
        f"Stopped by TerminateOnNaN (loss is {value} in batch {bad + 1}) in epoch 1 after batch {bad + 1}. "
        "The history keeps 0 finished epochs.\n"
    )


@pytest.mark.parametrize("raise_error", [False, True])
def test_training_that_is_well_is_left_alone(raise_error):
    model = fit(TerminateOnNaN(raise_error=raise_error), batches())
    assert len(model.history) == 2
    assert len(model.seen) == 12


def test_raised_it_names_batch_and_value_and_no_train_end_is_called():
    ended = []
    with pytest.raises(RuntimeError, match=r"loss is nan in batch 3 of epoch 1\. Try a lower learning rate"):
        fit(TerminateOnNaN(raise_error=True), batches(2), LambdaCallback(on_train_end=ended.append))
    assert ended == []


def test_a_later_epoch_is_watched_too(capsys):
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[4][1].fill_(math.nan) if epoch == 1 else None)
    model = fit(TerminateOnNaN(), data, spoil, epochs=5)
    assert len(model.history) == 2
    assert "in batch 5) in epoch 3" in capsys.readouterr().err


def test_the_lost_net_is_not_validated_and_not_written(tmp_path, capsys):
    tested = []
    fit(
        TerminateOnNaN(),
        batches(5),
        ModelCheckpoint(tmp_path / "{epoch}.pt", "loss"),
        LambdaCallback(on_test_begin=tested.append),
        dl_val=batches(),
    )
    assert list(tmp_path.iterdir()) == []
    assert tested == []


def test_the_best_weights_come_back(scripted, capsys):
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[0][1].fill_(math.nan) if epoch == 1 else None)
    early = EarlyStopping("loss", restore_best_weights=True, patience=5)
    model = fit(TerminateOnNaN(), data, scripted(), early, spoil, epochs=5)
    assert early.best_epoch is not None
    assert torch.equal(model.net.bias, torch.full((1,), float(early.best_epoch)))


def test_a_table_keeps_the_epochs_before(tmp_path, capsys):
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[0][1].fill_(math.nan))
    fit(TerminateOnNaN(), data, CSVLogger(tmp_path / "log.csv"), spoil, epochs=5)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("bad", "every", "seen", "where"),
    [(1, 4, 4, "batches 1 to 4"), (4, 4, 6, "batches 5 to 6"), (3, 4, 4, "batches 1 to 4"), (2, 1, 3, "batch 3")],
)
def test_it_may_look_less_often_and_always_at_the_last(bad, every, seen, where, capsys):
    model = fit(TerminateOnNaN(every=every), batches(bad))
    assert len(model.seen) == seen
    assert len(model.history) == 0
    assert f"in {where})" in capsys.readouterr().err


def test_data_of_unknown_length_are_looked_at_when_the_epoch_is_over(capsys):
    model = fit(TerminateOnNaN(every=4), Unsized(batches(5)))
    assert len(model.seen) == 6
    assert len(model.history) == 1
    assert "TerminateOnNaN (loss is nan in batches 5 to the last) after epoch 1" in capsys.readouterr().err


def test_between_looks_nothing_is_read():
    reads = []

    class Logs(dict):
        def items(self):
            reads.append(1)
            return super().items()

    class Place:
        device = torch.device("cuda")
        train_data = kt.data.NoData()
        strategy = Strategy()

        class state:
            epoch = 0

    Place.train_data.steps = 100
    callback = TerminateOnNaN()
    callback.run = Place
    for batch in range(100):
        callback.on_train_batch_end(batch, Logs(loss=1.0))
    assert len(reads) == 5
    Place.device = torch.device("cpu")
    callback.on_train_batch_end(6, Logs(loss=1.0))
    assert len(reads) == 6
    Place.strategy.group.size = 2  # processes that wait for each other
    callback.on_train_batch_end(7, Logs(loss=1.0))
    assert len(reads) == 6


def test_losses_of_a_step_of_ones_own_are_watched(capsys):
    class Gan(kt.Model):
        def train_step(self, batch):
            return {"generator_loss": batch.y.mean(), "discriminator_loss": 1.0, "ratio": math.nan}

    model = Gan(nn.Linear(2, 1))
    model.compile()
    model.fit(2, batches(2), callbacks=[TerminateOnNaN()], verbose=0)
    assert "generator_loss is nan in batch 3" in capsys.readouterr().err


def test_a_validation_that_is_nan_does_not_end_training():
    assert len(fit(TerminateOnNaN(), batches(), dl_val=batches(0)).history) == 2


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_every_is_a_number_of_batches(every):
    with pytest.raises(ValueError, match="every is a number of batches, 1 or more"):
        TerminateOnNaN(every=every)


def test_repr_is_the_call():
    assert repr(TerminateOnNaN(every=10)) == "TerminateOnNaN(every=10, raise_error=False, diagnose=False)"


class Root(nn.Module):
    """Its gradient at 0 is nan."""

    def forward(self, x):
        return (x * x).sqrt()


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def zeros(run):
    run.current.x.zero_()
    run.state.module[0].bias.data.zero_()


class Spoil(kt.Callback):
    """Does something to the net, or to the data, before a batch of the first epoch."""

    def __init__(self, batch, spoil):
        self.batch = batch
        self.spoil = spoil

    def on_train_batch_begin(self, batch, logs):
        if batch == self.batch:
            self.spoil(self.run)


def fill(name, value):
    def spoil(run):
        dict(run.state.module.named_parameters())[name].data.view(-1)[0] = value

    return spoil


def fill_data(part, value):
    def spoil(run):
        getattr(run.current, part).view(-1)[0] = value

    return spoil


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1))


def no_hooks(net):
    return all(not part._forward_hooks and not part._forward_pre_hooks for part in net.modules())


def diagnosed(net, *others, data=None, loss="mse", lr=0.1, every=None, epochs=2):
    """Return what the error says between the batch and the advice."""
    model = kt.Model(net)
    model.compile(loss, lambda parameters: torch.optim.SGD(parameters, lr=lr))
    callback = TerminateOnNaN(raise_error=True, diagnose=True, every=every)
    with pytest.raises(RuntimeError, match="Try a lower learning rate or clipped gradients") as caught:
        model.fit(epochs, data or batches(), callbacks=[*others, callback], verbose=0)
    assert no_hooks(net)
    return str(caught.value).removesuffix(". Try a lower learning rate or clipped gradients.")


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ("x", math.nan, "loss is nan in batch 3 of epoch 1: the inputs of the batch hold nan"),
        ("y", math.inf, "loss is inf in batch 3 of epoch 1: the targets of the batch hold inf"),
    ],
)
def test_data_come_first(part, value, text):
    assert diagnosed(deep(), Spoil(2, fill_data(part, value))) == text


def test_a_layer_and_its_weight_are_named():
    assert diagnosed(deep(), Spoil(2, fill("2.0.weight", math.nan))) == (
        "loss is nan in batch 3 of epoch 1: the output of '2.0' (Linear) is the first that is not finite, it holds "
        "nan; its input is finite, its '2.0.weight' held nan before this batch"
    )


def test_a_layer_whose_weights_are_finite_is_named():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), Log(), nn.Linear(4, 1))
    text = diagnosed(net, Spoil(0, fill("0.bias", -100.0)))
    assert text.endswith(
        "in batch 1 of epoch 1: the output of '2' (Log) is the first that is not finite, it holds inf; its input is "
        "finite"
    )


def test_what_forward_does_between_its_modules_is_told_from_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.second(self.first(x).relu().log())

    text = diagnosed(Net(), Spoil(0, fill("first.bias", -100.0)))
    assert text.endswith("'second' (Linear) is the first that is not finite, it holds inf; its input holds inf "
                         "already, which forward makes before it")  # fmt: skip


def test_what_forward_does_at_its_end_is_the_nets():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return {"a": (self.layer(x), None), "log": self.layer(x).relu().log()}

    def loss(output, target):
        return output["log"].mean()

    text = diagnosed(Net(), Spoil(1, fill("layer.bias", -100.0)), loss=loss, data=batches(count=3), lr=0.0)
    assert (
        "the output of the net (Net) is the first that is not finite, it holds inf; the outputs of the modules in it "
        in text
    )
    assert text.endswith("are finite")


def test_a_layer_that_is_called_twice_is_named_at_its_first_bad_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            self.layer.weight.data = torch.eye(2) * 1e25
            self.again, self.head = self.layer, nn.Linear(2, 1)

        def forward(self, x):
            return self.head(self.again(self.layer(x)))

    text = diagnosed(Twice(), lr=0.0, data=[(torch.ones(4, 2), torch.ones(4, 1))])
    assert (
        "the output of 'layer' (Linear) at its call 2 is the first that is not finite, it holds inf; its input is"
        in text
    )


def test_half_precision_that_overflows_is_said_with_its_dtype():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).half()
    nn.init.constant_(net[0].bias, 6e4)
    nn.init.constant_(net[2].weight, 3.0)
    data = [(torch.randn(4, 2).half(), torch.randn(4, 1).half())]
    assert diagnosed(net, data=data).endswith(
        "the output of '2' (Linear) is the first that is not finite, it holds inf in float16; its input is finite, and "
        "so are its weights"
    )


def test_a_loss_that_makes_it_of_finite_outputs_is_named():
    def loss(output, target):
        return (output * 0).log().mean() if target.mean() > 5 else output.mean()

    data = batches()
    data[3][1].fill_(9.0)
    assert diagnosed(deep(), data=data, loss=loss) == (
        "loss is -inf in batch 4 of epoch 1: all outputs of the net are finite, so it begins in the loss"
    )


@pytest.mark.parametrize("batch", [2, 5])
def test_a_gradient_that_spoils_the_next_batch_is_named(batch):
    net = nn.Sequential(nn.Linear(2, 4), Root(), nn.Linear(4, 1))
    text = diagnosed(net, Spoil(batch, zeros))
    place = "in batch 3, " if batch == 2 else "in batch 6 of epoch 1, "
    where = "batch 4 of epoch 1" if batch == 2 else "batch 1 of epoch 2"
    assert f"loss is nan in {where}: {place}all outputs and the loss are finite, but the gradient of '0." in text
    assert "is not (nan)" in text


def test_between_looks_the_batch_is_found_and_what_is_not_known_is_not_said():
    net = nn.Sequential(nn.Linear(2, 4), Root(), nn.Linear(4, 1))
    text = diagnosed(net, Spoil(2, zeros), every=6)
    assert text == (
        "loss is nan in batches 1 to 6 of epoch 1: in batch 3, all outputs are finite, but the loss is not, or else "
        "the gradient of '0.bias' is not (nan)"
    )
    text = diagnosed(deep(), Spoil(2, fill_data("x", math.nan)), every=6)
    assert text == "loss is nan in batches 1 to 6 of epoch 1: in batch 3, the inputs of the batch hold nan"


@pytest.mark.parametrize("every", [1, 6])
def test_what_is_always_infinite_and_does_no_harm_is_not_accused(every):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores, self.mask, self.head = nn.Linear(2, 4), nn.Identity(), nn.Linear(4, 1)

        def forward(self, x):
            hidden = self.mask(self.scores(x).masked_fill(torch.tensor([False, False, False, True]), -math.inf))
            return self.head(hidden.softmax(1))

    text = diagnosed(Masked(), Spoil(3, fill("head.weight", math.nan)), every=every)
    assert "the output of 'head' (Linear) is the first" in text
    assert "its 'head.weight' held nan" in text


@pytest.mark.parametrize("every", [1, 6])
def test_a_gradient_whose_step_is_left_out_is_not_accused(every):
    class Overflow(kt.Callback):
        def on_optimizer_step_begin(self, step):
            if step in (0, 1):
                self.model.net[0].weight.grad.fill_(math.inf)

    class Scaler(kt.Callback):
        stage = "display"  # after the others

        def on_optimizer_step_begin(self, step):
            for parameter in self.model.parameters():
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)

    text = diagnosed(deep(), Overflow(), Scaler(), Spoil(3, fill("3.weight", math.nan)), every=every)
    assert "the output of '3' (Linear) is the first" in text


def test_without_an_error_the_cause_is_the_reason(capsys):
    model = fit(TerminateOnNaN(diagnose=True), batches(), Spoil(3, fill_data("x", math.nan)))
    assert no_hooks(model.net)
    assert capsys.readouterr().err == (
        "Stopped by TerminateOnNaN (loss is nan in batch 4: the inputs of the batch hold nan) in epoch 1 after batch "
        "4. The history keeps 0 finished epochs.\n"
    )


def test_watching_changes_nothing_and_leaves_nothing():
    def train(*callbacks):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        model = kt.Model(net)
        model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.01))
        model.fit(2, batches(), batches(), callbacks=list(callbacks), verbose=0)
        assert no_hooks(net)
        return net.state_dict().values()

    for value, other in zip(train(TerminateOnNaN(diagnose=True)), train(), strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_no_hook_is_left(error):
    def fail(run):
        raise error

    net = deep()
    model = kt.Model(net)
    model.compile("mse", "sgd")
    if error is ValueError:
        with pytest.raises(ValueError):
            model.fit(1, batches(), callbacks=[TerminateOnNaN(diagnose=True), Spoil(2, fail)], verbose=0)
    else:
        with pytest.raises(KeyboardInterrupt):
            model.fit(1, batches(), callbacks=[TerminateOnNaN(diagnose=True), Spoil(2, fail)], verbose=0)
    assert no_hooks(net)


def test_evaluations_inside_fit_are_not_noted_and_do_not_end_the_watch():
    calls = []

    class Evaluates(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            data = batches(0)
            data[0][0].fill_(math.nan)
            self.model.evaluate(data, callbacks=[callback], verbose=0)
            with pytest.raises(RuntimeError, match="mat1"):
                self.model.evaluate([(torch.ones(2, 7), torch.ones(2, 1))], callbacks=[callback], verbose=0)
            calls.append(batch)

    callback = TerminateOnNaN(diagnose=True, raise_error=True)
    model = kt.Model(deep())
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    with pytest.raises(RuntimeError, match="in batch 4 of epoch 1: the inputs of the batch hold nan"):
        model.fit(1, batches(), callbacks=[Evaluates(), Spoil(3, fill_data("x", math.nan)), callback], verbose=0)
    assert len(calls) == 4


def test_a_step_of_ones_own_is_watched_without_its_gradients():
    class Own(kt.Model):
        def train_step(self, batch):
            loss = self(batch.x).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    model = Own(deep())
    model.compile(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    watch = TerminateOnNaN(diagnose=True, raise_error=True, every=6)
    with pytest.raises(
        RuntimeError, match=r"in batch 3, the output of '3' \(Linear\) is the first.*its '3.bias' held nan"
    ):
        model.fit(1, batches(), callbacks=[Spoil(2, fill("3.bias", math.nan)), watch], verbose=0)


def test_recurrent_and_sparse_layers_are_watched():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4, sparse=True)
            self.rnn, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.rnn(self.embed(x))[0][:, -1])

    data = [(torch.randint(5, (4, 3)), torch.randn(4, 1)) for _ in range(4)]
    text = diagnosed(Net(), Spoil(2, fill("rnn.weight_hh_l0", math.nan)), data=data)
    assert "the output of 'rnn' (LSTM) is the first that is not finite, it holds nan; its input is finite, its " in text


def test_complex_values_are_looked_at():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x) * torch.tensor([1.0, math.inf])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.fourier = nn.Linear(2, 2), Fourier()

        def forward(self, x):
            return self.fourier(self.layer(x)).abs()

    text = diagnosed(Net(), data=[(torch.randn(4, 2), torch.zeros(4, 2))])
    assert "the output of 'fourier' (Fourier) is the first that is not finite, it holds" in text


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_nets_that_nobody_can_look_into_are_trained_and_said_to_be_so():
    scripted = torch.jit.script(deep())
    text = diagnosed(scripted, Spoil(2, fill("0.weight", math.nan)))
    assert text.endswith("where it begins is not known, since nothing looks into a net that is compiled")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_net_is_watched_as_a_whole():
    compiled = torch.compile(deep(), backend="eager")
    text = diagnosed(compiled, Spoil(2, fill("_orig_mod.0.weight", math.nan)))
    assert "the output of the net (OptimizedModule) is the first that is not finite, it holds nan" in text
    net = deep()
    net[2].compile(backend="eager")
    assert "the output of '3' (Linear) is the first" in diagnosed(net, Spoil(2, fill("2.0.weight", math.nan)))


def test_it_is_used_again():
    callback = TerminateOnNaN(diagnose=True)
    for _ in range(2):
        model = fit(callback, batches(2, value=math.inf))
        assert no_hooks(model.net)
    assert len(fit(callback, batches()).history) == 2


def agreed():
    group = join(torch.device("cpu"))
    said, ended = [], []

    class Place:
        strategy = Strategy(group=group)
        lost = False

        @staticmethod
        def interrupt(reason):
            ended.append(reason)

    callback = TerminateOnNaN()
    callback.run = Place
    callback._look(0, 1, {"loss": 1.0})
    said.append(list(ended))
    callback._look(0, 2, {"loss": math.nan if group.rank == 1 else 1.0})
    return said, ended, Place.lost


def test_processes_end_together():
    expected = ([[]], ["TerminateOnNaN (loss is nan in batch 2)"], True)
    assert together(2, agreed) == [expected] * 2
