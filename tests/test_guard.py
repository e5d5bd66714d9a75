import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch import guard
from kerastorch.callbacks import LambdaCallback, TerminateOnNaN
from kerastorch.errors import DataError, NonFiniteError

MODES = ["raise", "skip", "warn"]


def batches(*bad, value=math.nan, part=0, count=6):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 2, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(count)]
    for place in bad:
        data[place][part].view(-1)[3] = value
    return data


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


def compiled(net=None, loss="mse", metrics=None, kind=kt.Model):
    model = kind(make_net() if net is None else net)
    model.compile(loss, lambda parameters: torch.optim.Adam(parameters, lr=0.01), metrics)
    return model


def state_of(model):
    """Return copies of weights, buffers and what Adam keeps."""
    return copy.deepcopy([model.net.state_dict(), model.optimizer.state_dict()["state"]])


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return len(one) == len(other) and all(map(same, one, other))


def no_hooks(net):
    return all(not part._forward_hooks and not part._forward_pre_hooks for part in net.modules())


class Seen(kt.Callback):
    """Keeps this `fit`, and its state at the end of each batch."""

    def on_train_begin(self, logs):
        self.states, self.logs, self.first = [], [], state_of(self.model)

    def on_train_batch_end(self, batch, logs):
        self.states.append(state_of(self.model))
        self.logs.append(dict(logs))


@pytest.fixture
def deferred(monkeypatch):
    """As on an accelerator, whose losses arrive at once."""
    monkeypatch.setattr(guard, "looks_first", lambda run: False)


def text_of(model, data, *callbacks, epochs=2, **options):
    with pytest.raises(NonFiniteError) as caught:
        model.fit(epochs, data, callbacks=list(callbacks), verbose=0, **options)
    assert no_hooks(model.net)
    return str(caught.value)


# --- raise ---


@pytest.mark.parametrize("bad", [1, 3, 5])
def test_the_batch_makes_no_step_and_nothing_of_it_is_left(bad):
    model, seen = compiled(), Seen()
    text = text_of(model, batches(bad), seen)
    assert text == (
        f"loss is nan in batch {bad + 1} of epoch 1 (learning rate 0.01): the inputs of the batch hold nan. The batch "
        "made no step. Type torch.nan_to_num(x), or fillna(...) or dropna() for a data frame, or fit(..., nan='skip') "
        "leaves such batches out."
    )
    assert len(seen.states) == bad
    assert same(state_of(model), seen.states[-1])
    assert seen.run.state.step == bad
    assert not seen.run.lost


def test_the_sums_do_not_hold_the_batch():
    model, kept = compiled(no_dropout(), metrics=["mae"]), {}
    keep = LambdaCallback(
        on_exception=lambda error: kept.update(keep.run.state.metrics, n=keep.run.state.metrics.samples)
    )
    good = compiled(no_dropout(), metrics=["mae"]).fit(1, batches(count=3), verbose=0)
    text_of(model, batches(3), keep)
    assert kept == {"loss": good["loss"][0], "mae": good["mae"][0], "n": 24}


def test_the_error_has_the_batch_and_other_callbacks_hear_of_it():
    heard = []
    with pytest.raises(NonFiniteError) as caught:
        compiled().fit(1, batches(2), callbacks=[LambdaCallback(on_exception=heard.append)], verbose=0)
    assert heard == [caught.value]
    assert caught.value.__notes__ == [
        "kerastorch: epoch 1, batch 3 of its data: x float32 (8, 2) cpu, y float32 (8, 1) cpu"
    ]


def test_a_later_epoch_is_told():
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[4][1].fill_(math.inf) if epoch == 1 else None)
    text = text_of(compiled(), data, spoil, epochs=5)
    assert text.startswith("loss is inf in batch 5 of epoch 3 (learning rate 0.01): the targets of the batch hold inf.")


def test_the_last_good_state_is_told():
    def begin(logs):
        callback.run.last_good = "runs/x/backup-0003-0000120.pt"

    callback = LambdaCallback(on_train_begin=begin)
    text = text_of(compiled(), batches(2), callback)
    assert text.endswith("leaves such batches out. The last good state is in runs/x/backup-0003-0000120.pt.")


def test_a_layer_is_named_by_which_the_outputs_stop_being_finite():
    class Log(nn.Module):
        def forward(self, x):
            return x.clamp(min=0).log()

    net = nn.Sequential(nn.Linear(2, 4), Log(), nn.Linear(4, 1))
    text = text_of(compiled(net, lambda output, target: output.mean()), batches())
    assert text.replace("is inf in", "is nan in") == (  # the sum of some infinities
        "loss is nan in batch 1 of epoch 1 (learning rate 0.01): the output of '1' (Log) is the first that is not "
        "finite, it holds inf; its input is finite. The batch made no step. Try a lower learning rate or clipped "
        "gradients, or fit(..., nan='skip') leaves such batches out."
    )


def test_a_loss_that_makes_it_of_finite_outputs_is_named():
    def loss(output, target):
        return (output * 0).log().mean() if target.max() > 5 else output.mean()

    text = text_of(compiled(loss=loss), batches(3, value=9.0, part=1))
    assert "): all outputs of the net are finite, so it begins in the loss. The batch made no step. Try a" in text


@pytest.mark.parametrize("nan", ["raise", "skip"])
@pytest.mark.parametrize("name", ["3.weight", "1.running_mean"])
def test_a_net_that_was_lost_before_is_told(name, nan):
    def spoil(batch, logs):
        if batch == 1:
            model.net.state_dict()[name].view(-1)[0] = math.nan
            model.net[1].eval()  # where it uses its statistics

    model = compiled()
    callback = LambdaCallback(on_train_batch_end=spoil)
    text = text_of(model, batches(), callback, nan=nan)
    assert text.startswith(f"loss is nan in batch 3 of epoch 1 (learning rate 0.01): the output of '{name[0]}' (")
    assert f"'{name}' " in text
    assert text.endswith(". The net was lost by a step before. Try a lower learning rate or clipped gradients.")
    assert callback.run.lost


def test_a_weight_that_no_module_uses_is_told_and_so_is_a_net_that_fails_when_it_is_called_again():
    class Net(nn.Module):
        def __init__(self, calls):
            super().__init__()
            self.layer, self.scale, self.calls, self.most = nn.Linear(2, 1), nn.Parameter(torch.ones(1)), 0, calls

        def forward(self, x):
            self.calls += 1
            if self.calls > self.most:
                raise RuntimeError("never again")
            return self.layer(x) * self.scale * (math.nan if self.calls == 3 else 1)

    for most, rest in (
        (9, "the output of the net is not finite, but is when it is called again: it depends on"),
        (3, ""),
    ):
        text = text_of(compiled(Net(most)), batches())
        assert text.startswith(
            "loss is nan in batch 3 of epoch 1 (learning rate 0.01)" + (f": {rest}" if rest else ". ")
        )

    def spoil(batch, logs):
        model.net.scale.data.fill_(math.nan)

    model = compiled(Net(99))
    text = text_of(model, batches(), LambdaCallback(on_train_batch_end=spoil))
    assert "the outputs of the modules in it are finite, its 'scale' held nan before this batch" in text


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_into_a_script_nothing_looks():
    text = text_of(compiled(torch.jit.script(nn.Linear(2, 1)), lambda output, target: output.log().mean()), batches())
    assert "): where it begins is not known, since nothing looks into a net that is compiled. The batch made" in text


def test_finding_out_leaves_no_trace():
    def random(net):
        torch.manual_seed(1)
        model = compiled(net)
        with pytest.raises(NonFiniteError):
            model.fit(1, batches(2, part=1), verbose=0)
        return torch.rand(3), model.net.state_dict()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "_cause", lambda *arguments: "")
        without = random(make_net())
    assert same(list(without), list(random(make_net())))


def test_the_default_is_for_one_batch_as_well():
    model = compiled()
    data = batches(1)
    model.train_on_batch(*data[0])
    before = state_of(model)
    data[1][0].zero_()
    data[1][1].fill_(3e38)
    with pytest.raises(
        NonFiniteError, match=r"loss is inf in this batch \(learning rate 0.01\): all outputs of the net"
    ):
        model.train_on_batch(*data[1])
    assert same(state_of(model), before)
    assert math.isnan(model.test_on_batch(*batches(0)[0])["loss"])


def test_the_data_of_the_first_batch_have_an_error_of_their_own_unless_they_may_be_bad():
    with pytest.raises(DataError, match=r"The first loss is nan, and the inputs hold 1 values"):
        compiled().fit(1, batches(0), verbose=0)
    with pytest.warns(UserWarning, match="loss is nan in batch 1 of epoch 1"):
        compiled().fit(1, batches(0), verbose=0, nan="skip")


def test_a_batch_without_a_label_that_counts_is_no_error():
    torch.manual_seed(0)
    data = [(torch.randn(4, 2), torch.randint(3, (4,))) for _ in range(4)]
    data[2][1].fill_(-100)
    for nan in MODES:
        model = compiled(nn.Linear(2, 3), nn.CrossEntropyLoss())
        assert all(map(math.isfinite, model.fit(2, data, verbose=0, nan=nan)["loss"]))


def test_a_validation_that_is_nan_is_no_error():
    assert len(compiled().fit(2, batches(), batches(2), verbose=0)) == 2


# --- skip ---


@pytest.mark.parametrize("bad", [(0,), (2,), (5,), (1, 4), (0, 1, 2)])
def test_what_is_left_out_was_never_there(bad):
    data = batches(*bad)
    model, other = compiled(no_dropout(), metrics=["mae"]), compiled(no_dropout(), metrics=["mae"])
    seen = Seen()
    with pytest.warns(UserWarning, match="by nan='skip', and so do others after it") as caught:
        model.fit(2, data, callbacks=[seen], verbose=0, nan="skip")
    assert len(caught) == 1
    other.fit(2, [batch for place, batch in enumerate(data) if place not in bad], verbose=0)
    assert same(state_of(model), state_of(other))
    assert (model.history["loss"], model.history["mae"]) == (other.history["loss"], other.history["mae"])
    assert seen.run.left_out == [(epoch, place) for epoch in range(2) for place in bad]
    assert seen.run.state.step == 2 * (6 - len(bad))


def no_dropout():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_the_first_is_told_in_full_and_the_others_by_their_number(capsys):
    with pytest.warns(UserWarning) as caught:
        compiled().fit(2, batches(2, 4), verbose=2, nan="skip")
    assert str(caught[0].message) == (
        "loss is nan in batch 3 of epoch 1 (learning rate 0.01): the inputs of the batch hold nan. It makes no step, "
        "by nan='skip', and so do others after it."
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "made no step" in line]
    assert lines == [
        f"Epoch {epoch}: 2 of 6 batches made no step, since their loss was not finite." for epoch in (1, 2)
    ]


def test_an_epoch_that_is_left_out_as_a_whole_is_an_error():
    with pytest.warns(UserWarning):
        text = text_of(compiled(), batches(0, 1, 2, count=3), nan="skip")
    assert text == (
        "No batch of epoch 1 has a finite loss, so all of them were left out. Try a lower learning rate or clipped "
        "gradients."
    )


# --- warn ---


def test_training_goes_on_with_one_warning():
    model, seen = compiled(), Seen()
    with pytest.warns(UserWarning) as caught:
        model.fit(2, batches(2, 3), callbacks=[seen], verbose=0, nan="warn")
    assert [str(each.message) for each in caught] == [
        "loss is nan in batch 3 of epoch 1 (learning rate 0.01): the inputs of the batch hold nan. Training goes on, "
        "by nan='warn'."
    ]
    assert len(seen.states) == 12
    assert model.net[0].weight.isnan().all()


# --- what may be given ---


@pytest.mark.parametrize(
    ("nan", "text"),
    [
        ("rise", "Unknown nan='rise'. Did you mean 'raise'? There are 'raise', 'skip' and 'warn'."),
        ("off", "Unknown nan='off'. There are 'raise', 'skip' and 'warn'."),
        (None, "Unknown nan=None. There are 'raise', 'skip' and 'warn'."),
        ([], "Unknown nan=[]. There are 'raise', 'skip' and 'warn'."),
    ],
)
def test_another_value_is_refused_before_anything(nan, text):
    with pytest.raises(ValueError) as caught:
        kt.Model(nn.Linear(2, 1)).fit(1, None, nan=nan)
    assert str(caught.value) == text


@pytest.mark.parametrize("nan", MODES)
def test_with_its_callback(nan, capsys):
    callback = TerminateOnNaN()
    model = compiled(no_dropout())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(2, batches(2), callbacks=[callback], verbose=0, nan=nan)
    stopped = "Stopped by TerminateOnNaN (loss is nan in batch 3)" in capsys.readouterr().err
    assert (stopped, len(caught)) == {"raise": (True, 0), "skip": (False, 1), "warn": (True, 1)}[nan]
    assert callback.run.lost is stopped


# --- steps of the user's own ---


class Own(kt.Model):
    looks = False

    def train_step(self, batch):
        loss = functional.mse_loss(self(batch.x), batch.y)
        if loss.isfinite() or not self.looks:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"loss": loss, "word_loss": 1.0, "ratio": math.nan}


class Looks(Own):
    looks = True


class Calls(kt.Model):
    def train_step(self, batch):
        super().train_step(batch)
        return {"norm": 2.0}


@pytest.mark.parametrize("nan", ["raise", "skip"])
def test_a_step_of_ones_own_is_made_by_then(nan):
    seen = Seen()
    text = text_of(compiled(no_dropout(), kind=Own), batches(2), seen, nan=nan)
    assert text == (
        "loss is nan in batch 3 of epoch 1 (learning rate 0.01): the inputs of the batch are not finite, and "
        "'0.weight' is not finite after it. A train_step of your own has made its step by then, so the net is lost. "
        "Look before optimizer.step(). Try a lower learning rate or clipped gradients."
    )
    assert seen.run.lost
    assert len(seen.logs) == 2


def test_a_step_of_ones_own_that_looks_by_itself_is_left_out_of_the_sums():
    net = nn.Linear(2, 1)
    model, other = compiled(copy.deepcopy(net), kind=Looks), compiled(copy.deepcopy(net), kind=Looks)
    with pytest.warns(UserWarning, match="the inputs of the batch are not finite. It makes no step"):
        model.fit(1, batches(2), verbose=0, nan="skip")
    data = batches(2)
    del data[2]
    other.fit(1, data, verbose=0)
    assert model.history["loss"] == other.history["loss"]
    text = text_of(compiled(net, kind=Looks), batches(2))
    assert text.startswith(
        "loss is nan in batch 3 of epoch 1 (learning rate 0.01): the inputs of the batch are not fin"
    )


def test_a_step_of_ones_own_may_go_on():
    with pytest.warns(UserWarning, match=r"after it\. Training goes on, by nan='warn'") as caught:
        assert len(compiled(no_dropout(), kind=Own).fit(2, batches(2), verbose=0, nan="warn")) == 2
    assert len(caught) == 1


def test_a_step_of_ones_own_that_calls_the_ordinary_one_is_stopped_before_it():
    model, seen = compiled(no_dropout(), kind=Calls), Seen()
    text = text_of(model, batches(2), seen)
    assert "The batch made no step" in text
    assert same(state_of(model), seen.states[-1])
    with pytest.warns(UserWarning, match="by nan='skip'"):
        history = compiled(no_dropout(), kind=Calls).fit(2, batches(2), verbose=0, nan="skip")
    assert history["norm"] == [2.0, 2.0]


# --- as on an accelerator ---


def test_on_an_accelerator_the_step_is_made(deferred):
    seen = Seen()
    data = batches(2, part=1)
    text = text_of(compiled(), data, seen)
    assert text == (
        "loss is nan in batch 3 of epoch 1 (learning rate 0.01). This was known when its step was made, so the net is "
        "lost. Try a lower learning rate or clipped gradients; nan='skip' looks before each step, and "
        "kt.callbacks.TerminateOnNaN(diagnose=True) says where it begins."
    )
    assert len(seen.states) == 3  # batch 3 is told of in batch 4
    assert seen.run.lost


def test_the_error_then_has_no_other_batch(deferred):
    with pytest.raises(NonFiniteError) as caught:
        compiled().fit(1, batches(2), verbose=0)
    assert getattr(caught.value, "__notes__", []) == []


@pytest.mark.parametrize("kind", [kt.Model, Own])
def test_the_last_batch_is_told_before_the_validation(deferred, kind):
    tested = []
    text = text_of(compiled(kind=kind), batches(5), LambdaCallback(on_test_begin=tested.append), dl_val=batches())
    assert text.startswith("loss is nan in batch 6 of epoch 1 (learning rate 0.01). This was known")
    assert tested == []


def test_what_arrives_late_is_told_of_its_own_batch(deferred, monkeypatch):
    queue = []

    def send(value, cell):
        queue.append((value.clone(), cell))
        if len(queue) > 2:
            late, place = queue.pop(0)
            place.copy_(late)

    monkeypatch.setattr("kerastorch.health._send", send)
    seen = Seen()
    assert text_of(compiled(), batches(1), seen).startswith("loss is nan in batch 2 of epoch 1")
    assert len(seen.states) == 4


def test_on_an_accelerator_one_warning(deferred):
    with pytest.warns(
        UserWarning, match=r"^loss is nan in batch 3 of epoch 1 \(learning rate 0.01\)\. Training"
    ) as caught:
        assert len(compiled().fit(2, batches(2), verbose=0, nan="warn")) == 2
    assert len(caught) == 1


def test_on_an_accelerator_a_batch_without_a_label_that_counts_is_no_error(deferred):
    torch.manual_seed(0)
    data = [(torch.randn(4, 2), torch.randint(3, (4,))) for _ in range(4)]
    data[2][1].fill_(-100)
    assert len(compiled(nn.Linear(2, 3), nn.CrossEntropyLoss()).fit(2, data, verbose=0)) == 2
    data[1][0].fill_(math.nan)
    text = text_of(compiled(nn.Linear(2, 3), nn.CrossEntropyLoss()), data)
    assert text.startswith("loss is nan in batch 2 of epoch 1")


def test_on_an_accelerator_one_batch_raises_too(deferred):
    with pytest.raises(NonFiniteError, match=r"loss is inf in this batch \(learning rate 0.01\). This was known when"):
        compiled().train_on_batch(torch.ones(4, 2), torch.full((4, 1), 3e38))


def test_weights_are_those_of_a_loop_by_hand_where_all_is_well(deferred):
    data, model = batches(), compiled()
    model.fit(2, data, verbose=0)
    other = make_net().train()
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    for x, y in data * 2:
        loss = functional.mse_loss(other(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert same(model.net.state_dict(), other.state_dict())


def test_skip_waits_for_an_accelerator_and_raise_does_not():
    class Run:
        device, nan = torch.device("cuda"), "raise"

    assert not guard.looks_first(Run)
    Run.nan = "skip"
    assert guard.looks_first(Run)
    Run.nan, Run.device = "raise", None
    assert guard.looks_first(Run)


def test_missing_values_in_the_validation_are_said_once(capsys):
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    holes = x.clone()
    holes[3, 1] = torch.nan
    model = kt.Model(nn.Linear(3, 1))
    model.compile("mse", "sgd")
    model.fit(2, (x, y), {"good": (x, y), "bad": (holes, y)}, verbose=2)
    assert capsys.readouterr().out.count("is nan. Are there missing values in it?") == 1
