import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, ModelCheckpoint, OneCycle, WarmupCosine

GENERATOR = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 2, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(5)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def make_model(optimizer=sgd):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", optimizer)
    return model


class Rates(kt.Callback):
    """Notes what each step is made with."""

    def __init__(self, *names):
        self.names = names or ("lr",)
        self.rows = []

    def on_optimizer_step_begin(self, step):
        groups = self.run.state.optimizer.param_groups
        self.rows.append([group[name] for group in groups for name in self.names])


def fit(callback, *, epochs=4, model=None, data=DATA, names=("lr",), others=(), **arguments):
    model, rates = model or make_model(), Rates(*names)
    model.fit(epochs, data, callbacks=[callback, rates, *others], verbose=0, **arguments)
    return model, rates.rows


def by_hand(make_scheduler, *, steps=20, make_optimizer=sgd, names=("lr",)):
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    optimizer = make_optimizer(net.parameters())
    scheduler, rows = make_scheduler(optimizer), []
    for step in range(steps):
        x, y = DATA[step % len(DATA)]
        loss = nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        rows.append([group[name] for group in optimizer.param_groups for name in names])
        optimizer.step()
        scheduler.step()
    return net.weight, rows, optimizer


@pytest.mark.parametrize(
    ("optimizer", "names"), [(sgd, ("lr", "momentum")), (torch.optim.Adam, ("lr", "betas"))], ids=["SGD", "Adam"]
)
def test_one_cycle_is_that_of_torch(optimizer, names):
    callback = OneCycle(0.5)
    model, rows = fit(callback, model=make_model(optimizer), names=names)
    weight, expected, _ = by_hand(
        lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=20), make_optimizer=optimizer, names=names
    )
    assert rows == expected
    assert torch.equal(model.net.weight, weight)
    assert callback.scheduler.get_last_lr() == rows[-1][:1]
    assert model.history["lr"] == [row[0] for row in expected[4::5]]


def test_its_options_are_those_of_torch():
    options = {"pct_start": 0.5, "div_factor": 10.0, "final_div_factor": 100.0, "cycle_momentum": False}
    _, rows = fit(OneCycle(0.5, **options), names=("lr", "momentum"))
    _, expected, _ = by_hand(
        lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=20, **options), names=("lr", "momentum")
    )
    assert rows == expected


def two_groups(net):
    groups = [{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.4}]
    return torch.optim.SGD(groups, momentum=0.9)


def test_every_group_has_its_own_highest_rate():
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", two_groups(model.net))
    _, rows = fit(OneCycle([0.5, 1.0]), model=model)
    assert [max(column) for column in zip(*rows, strict=True)] == pytest.approx([0.5, 1.0], rel=0.1)


@settings(max_examples=30)
@given(
    steps=st.integers(2, 40),
    warmup=st.one_of(st.integers(0, 10), st.floats(0, 0.9)),
    min_lr=st.floats(0, 0.05),
)
def test_warmup_cosine_is_composed_of_those_of_torch(steps, warmup, min_lr):
    rising = warmup if isinstance(warmup, int) else int(warmup * steps)
    if rising >= steps:
        return
    _, rows = fit(WarmupCosine(warmup, min_lr=min_lr), epochs=1, data=(DATA * 8)[:steps])

    def make_scheduler(optimizer):
        cosine = CosineAnnealingLR(optimizer, T_max=steps - rising, eta_min=min_lr)
        if not rising:
            return cosine
        linear = LinearLR(optimizer, start_factor=1 / (rising + 1), end_factor=1.0, total_iters=rising)
        return SequentialLR(optimizer, [linear, cosine], [rising])

    _, expected, _ = by_hand(make_scheduler, steps=steps)
    assert [row[0] for row in rows] == pytest.approx([row[0] for row in expected], rel=1e-9, abs=1e-12)


def test_the_weights_equal_a_loop_written_by_hand():
    callback = WarmupCosine(4, min_lr=0.01)
    model, rows = fit(callback)
    lambdas = callback.scheduler.lr_lambdas
    weight, expected, _ = by_hand(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambdas))
    assert rows == expected
    assert torch.equal(model.net.weight, weight)
    assert [row[0] for row in rows[:5]] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert callback.scheduler.get_last_lr() == rows[-1]


def test_groups_keep_their_own_rates_and_one_floor():
    model = kt.Model(nn.Linear(2, 1))
    groups = [{"params": [model.net.weight], "lr": 0.4}, {"params": [model.net.bias], "lr": 0.05}]
    model.compile("mse", torch.optim.SGD(groups))
    _, rows = fit(WarmupCosine(0, min_lr=0.1), model=model)
    assert rows[10] == pytest.approx([0.25, 0.05])
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.4, 0.05]
    zero = make_model(lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    assert fit(WarmupCosine(0), model=zero)[1] == [[0.0]] * 20


@pytest.mark.parametrize("make", [lambda: OneCycle(0.5), lambda: WarmupCosine(0.2)], ids=["OneCycle", "WarmupCosine"])
def test_a_second_fit_is_a_new_cycle(make):
    callback = make()
    model, first = fit(callback)
    _, second = fit(callback, model=model)
    _, shorter = fit(callback, model=model, epochs=2)
    assert first == second
    assert shorter[0] == first[0] or make is not OneCycle
    assert len(shorter) == 10
    assert max(shorter)[0] == pytest.approx(max(first)[0], rel=0.2)


def test_one_after_the_other_begins_with_the_rate_of_the_optimizer():
    model, _ = fit(OneCycle(0.5))
    _, rows = fit(WarmupCosine(0), model=model)
    assert rows[0] == [0.1]


def test_initial_epoch_leaves_fewer_steps():
    _, rows = fit(OneCycle(0.5), epochs=4, initial_epoch=2)
    assert rows == by_hand(lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=10), steps=10)[1]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(x[0], y[0]) for x, y in DATA])


@pytest.mark.parametrize(("make", "name"), [(lambda: OneCycle(0.5), "OneCycle"), (WarmupCosine, "WarmupCosine")])
def test_data_without_length_is_an_error_before_the_first_step(make, name):
    loader = torch.utils.data.DataLoader(Stream(), batch_size=1)
    message = f"{name} must know how many steps there will be, but dl_train has no length. Type fit.*steps_per_epoch="
    seen = []
    note = LambdaCallback(on_train_batch_begin=lambda *_: seen.append(1))
    with pytest.raises(kt.errors.DataError, match=message):
        fit(make(), data=loader, others=[note])
    assert seen == []
    assert len(fit(make(), data=loader, steps_per_epoch=3)[1]) == 12


def test_more_batches_than_promised_end_no_run():
    class Longer:
        def __len__(self):
            return 3

        def __iter__(self):
            return iter(DATA)

    with pytest.warns(UserWarning, match="OneCycle has planned 6 steps, and there are more: dl_train gives") as seen:
        _, rows = fit(OneCycle(0.5), epochs=2, data=Longer())
    assert len(seen) == 1
    expected = by_hand(lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=6), steps=6)
    assert rows == expected[1] + expected[1][-1:] * 4


def test_a_last_epoch_that_is_too_long():
    class Growing:
        calls = 0

        def __len__(self):
            return 3

        def __iter__(self):
            self.calls += 1
            return iter(DATA[: 3 if self.calls == 1 else 4])

    _, rows = fit(OneCycle(0.5), epochs=1, data=Growing())
    assert len(rows) == 3


def options(optimizer):
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in copy.deepcopy(optimizer.param_groups)
    ]


@pytest.mark.parametrize("make", [lambda: OneCycle(0.5), lambda: WarmupCosine(3)], ids=["OneCycle", "WarmupCosine"])
@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("way", ["the last epoch", "stop", "interrupt", "error"])
def test_the_optimizer_is_as_it_was_however_training_ends(way, optimizer, make):
    def end(batch, logs):
        if batch == 2 and way == "error":
            raise RuntimeError("the test")
        if batch == 2 and way == "stop":
            model.stop()
        if batch == 2 and way == "interrupt":
            callback.run.interrupt("the test")

    model, callback = make_model(optimizer), make()
    before = options(model.optimizer)
    try:
        fit(callback, model=model, others=[LambdaCallback(on_train_batch_end=end)])
    except RuntimeError:
        assert way == "error"
    assert options(model.optimizer) == before


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    rate = torch.tensor(0.1)
    model = make_model(lambda parameters: torch.optim.Adam(parameters, lr=rate, foreach=False))
    fit(OneCycle(0.5), model=model)
    assert model.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.1)


def test_a_rate_that_is_set_by_hand_between_two_fits_is_used():
    model, _ = fit(WarmupCosine(0))
    model.optimizer.param_groups[0]["lr"] = 0.02
    assert fit(WarmupCosine(0), model=model)[1][0] == [0.02]
    assert model.fit(1, DATA, verbose=0)["lr"] == [0.02]


def test_the_rate_of_a_scheduler_before_is_the_peak():
    model = make_model()
    halves = kt.callbacks.LearningRateScheduler(torch.optim.lr_scheduler.StepLR(model.optimizer, 1, 0.5))
    model.fit(1, DATA, callbacks=[halves], verbose=0)
    assert fit(WarmupCosine(0), model=model)[1][0] == [0.05]
    assert model.optimizer.param_groups[0]["initial_lr"] == 0.1


@pytest.mark.parametrize("make", [lambda: OneCycle(0.5), lambda: WarmupCosine(0)], ids=["OneCycle", "WarmupCosine"])
def test_an_error_before_training_begins_changes_no_optimizer(make):
    class Fails(kt.Callback):
        stage = "transfer"

        def on_train_begin(self, logs):
            raise RuntimeError("the test")

    callback = make()
    fit(callback)
    other = make_model(lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.5))
    before = options(other.optimizer)
    with pytest.raises(RuntimeError, match="the test"):
        fit(callback, model=other, others=[Fails()])
    with pytest.raises(kt.errors.DataError):
        fit(callback, model=other, data=torch.utils.data.DataLoader(Stream(), batch_size=1))
    assert options(other.optimizer) == before


def test_a_group_that_is_added_in_training_keeps_its_rate():
    class Adds(kt.Callback):
        def on_train_end(self, logs):
            self.run.state.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.7})

    model = make_model()
    fit(WarmupCosine(), model=model, others=[Adds()])
    fit(WarmupCosine(), model=model)
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.1, 0.7]


def test_an_evaluation_that_fails_is_nothing_to_it():
    callback = OneCycle(0.5)

    class Fails(kt.Callback):
        def on_test_begin(self, logs):
            raise RuntimeError("the test")

    def evaluate(epoch, logs):
        with pytest.raises(RuntimeError, match="the test"):
            model.evaluate(DATA, callbacks=[callback, Fails()])

    model = make_model()
    _, rows = fit(callback, model=model, others=[LambdaCallback(on_epoch_end=evaluate)])
    assert rows == by_hand(lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=20))[1]


@pytest.mark.parametrize("make", [lambda: OneCycle(0.5), lambda: WarmupCosine(3)], ids=["OneCycle", "WarmupCosine"])
def test_its_state_lets_it_go_on(make):
    saved, callback = [], make()

    class Save(kt.Callback):
        stage = "checkpoint"

        def on_epoch_end(self, epoch, logs):
            optimizer = self.run.state.optimizer.state_dict()
            saved.append(copy.deepcopy((self.run.state.module.state_dict(), optimizer, callback.state_dict())))

    model, rows = fit(callback, others=[Save()])
    other, second = make(), make_model()

    class Restore(kt.Callback):
        stage = "checkpoint"

        def on_train_begin(self, logs):
            self.run.state.module.load_state_dict(saved[1][0])
            self.run.state.optimizer.load_state_dict(saved[1][1])
            other.load_state_dict(saved[1][2])
            self.run.state.epoch = 2

    rest = fit(other, model=second, others=[Restore()])[1]
    assert rest == rows[10:]
    assert torch.equal(model.net.weight, second.net.weight)
    assert options(model.optimizer) == options(second.optimizer)
    fresh = make()
    assert fresh.state_dict() == {}
    fresh.load_state_dict(saved[1][2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneCycle(0.0), "max_lr is a number above 0, or one for each parameter group; got 0.0"),
        (lambda: OneCycle([]), "max_lr is a number above 0"),
        (lambda: OneCycle(0.1, pct_start=2), "pct_start is a share of the steps, from 0 to 1; got 2"),
        (lambda: WarmupCosine(1.5), "warmup is a number of steps, or a share from 0.0 to below 1; got 1.5"),
        (lambda: WarmupCosine(-1), "warmup is a number of steps"),
        (lambda: WarmupCosine(min_lr=-1.0), "min_lr is a number from 0; got -1.0"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_this_training_is_an_error_when_it_begins():
    with pytest.raises(
        ValueError,
        match=r"warmup=20 steps are not fewer than the 20 steps of this fit\. Type fewer, or a share of them",
    ):
        fit(WarmupCosine(20))
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1 with `cycle_momentum`"):
        fit(OneCycle(0.5), model=make_model(torch.optim.Adagrad))


def test_repr_is_the_constructor_call():
    for text in (
        "OneCycle(0.1, pct_start=0.2, div_factor=10.0, final_div_factor=100.0, cycle_momentum=False, "
        "base_momentum=0.8, max_momentum=0.9)",
        "OneCycle([0.1, 0.2], pct_start=0.3, div_factor=25.0, final_div_factor=10000.0, cycle_momentum=True, "
        "base_momentum=0.85, max_momentum=0.95)",
        "WarmupCosine(0.1, min_lr=0.001)",
    ):
        assert repr(eval(text)) == text


SAME = [DATA[0]] * 4  # so that the weights tell how many steps were made, and with which rates


class Resume(kt.Callback):
    """Loads the net, the optimizer, the counters and a callback from a file."""

    stage = "display"

    def __init__(self, path, callback):
        self.content, self.callback = kt.checkpoint.load(path), callback

    def on_train_begin(self, logs):
        state, content = self.run.state, self.content
        state.module.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.step = content["progress"]["step"]
        self.callback.load_state_dict(content["callbacks"][type(self.callback).__name__])


@pytest.mark.parametrize("make", [lambda: OneCycle(0.5), lambda: WarmupCosine(0.3)], ids=["OneCycle", "WarmupCosine"])
@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (1, 2), (1, 4), (2, 1), (2, 3), (4, 2)])
def test_it_goes_on_from_a_file(tmp_path, make, epoch, batch):
    save = ModelCheckpoint(tmp_path / "{epoch}_{batch}.pt", save_freq=1)
    whole, rows = fit(make(), data=SAME, names=("lr", "momentum"), others=[save])
    done = 4 * (epoch - 1) + batch
    callback, model = make(), make_model()

    def end(batch, logs):
        if model._session.state.step == 16:
            callback.run.interrupt("the test")

    others = [Resume(tmp_path / f"{epoch}_{batch}.pt", callback), LambdaCallback(on_train_batch_end=end)]
    _, rest = fit(callback, model=model, data=SAME, names=("lr", "momentum"), others=others, initial_epoch=epoch - 1)
    assert rest == rows[done:]
    assert torch.equal(model.net.weight, whole.net.weight)
    assert options(model.optimizer) == options(whole.optimizer)


def test_a_training_that_goes_on_for_more_epochs_than_planned_warns(tmp_path):
    _, rows = fit(OneCycle(0.5), others=[ModelCheckpoint(tmp_path / "last.pt")])
    callback = OneCycle(0.5)
    resume = Resume(tmp_path / "last.pt", callback)
    with pytest.warns(UserWarning, match="planned 20 steps, .* for more epochs than the checkpoint was made in"):
        _, rest = fit(callback, others=[resume], epochs=5, initial_epoch=4)
    assert rest == rows[-1:] * 5


def test_it_goes_on_from_the_end_of_an_epoch(tmp_path):
    for make in (lambda: OneCycle(0.5), lambda: WarmupCosine(0.3)):
        whole, rows = fit(make(), others=[ModelCheckpoint(tmp_path / "{epoch}.pt")])
        for epoch in (1, 2, 3):
            callback = make()
            resume = Resume(tmp_path / f"{epoch}.pt", callback)
            model, rest = fit(callback, others=[resume], initial_epoch=epoch)
            assert rest == rows[5 * epoch :]
            assert torch.equal(model.net.weight, whole.net.weight)


def test_a_file_written_when_the_rates_were_put_back_is_enough(tmp_path):
    """As after an interrupt: checkpoints come after the plan has ended."""

    class SaveAtEnd(kt.Callback):
        stage = "checkpoint"

        def on_train_end(self, logs):
            kt.checkpoint.save(self.run.state.state_dict(), tmp_path / "end.pt")

    def end(batch, logs):
        if batch == 4:
            callback.run.interrupt("the test")

    whole, rows = fit(OneCycle(0.5), names=("lr", "momentum"))
    callback, second = OneCycle(0.5), OneCycle(0.5)
    fit(callback, others=[LambdaCallback(on_train_batch_end=end), SaveAtEnd()])
    resume = Resume(tmp_path / "end.pt", second)
    model, rest = fit(second, names=("lr", "momentum"), others=[resume], initial_epoch=1)
    assert rest == rows[5:]
    assert torch.equal(model.net.weight, whole.net.weight)


def test_a_checkpoint_keeps_them_by_their_own_names(tmp_path):
    fit(OneCycle(0.5), others=[WarmupCosine(), ModelCheckpoint(tmp_path / "last.pt")])
    assert list(kt.checkpoint.load(tmp_path / "last.pt")["callbacks"]) == [
        "OneCycle",
        "WarmupCosine",
        "ModelCheckpoint",
    ]


def test_numbers_of_numpy_are_kept_as_plain_ones(tmp_path):
    numpy = pytest.importorskip("numpy")
    callback = OneCycle(numpy.float64(0.5), div_factor=numpy.float64(10), pct_start=1)
    fit(callback, others=[ModelCheckpoint(tmp_path / "last.pt")])
    assert "OneCycle" in kt.checkpoint.load(tmp_path / "last.pt")["callbacks"]
