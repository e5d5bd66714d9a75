import copy
import itertools
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kerastorch as kt
from kerastorch.errors import DataError
from kerastorch.hooks import HOOKS

LOSS = nn.CrossEntropyLoss()


def make_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def make_data(samples=50, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator)
    return x, torch.randint(3, (samples,), generator=generator)


class Noisy(Dataset):
    """Draws from all three generators, as augmentation does."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        noise = torch.randn(6) + random.random() + np.random.rand()
        return self.x[index] + 0.1 * noise.float(), self.y[index]


def seed_everything(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def train_by_hand(net, optimizer, loader, epochs):
    net.train()
    losses = []
    for _ in range(epochs):
        total = 0.0
        for x, y in loader:
            loss = LOSS(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / len(loader.dataset))
    return losses


def assert_same_state(one, other):
    for (name, value), (_, twin) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, twin), name


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
}


@settings(max_examples=25)
@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    samples=st.integers(20, 50),
    batch_size=st.sampled_from([4, 7, 16]),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
    validated=st.booleans(),
)
def test_fit_equals_a_loop_by_hand_bit_for_bit(optimizer, samples, batch_size, epochs, shuffle, validated):
    if samples % batch_size == 1:
        samples += 1  # BatchNorm refuses a batch of one
    data = Noisy(*make_data(samples))

    def loader():
        return DataLoader(data, batch_size, shuffle=shuffle)

    by_hand = make_net()
    seed_everything(3)
    losses = train_by_hand(by_hand, OPTIMIZERS[optimizer](by_hand.parameters()), loader(), epochs)

    by_fit = make_net()
    model = kt.Model(by_fit)
    model.compile(LOSS, OPTIMIZERS[optimizer], ["accuracy"])
    seed_everything(3)
    history = model.fit(epochs, loader(), loader() if validated else None, verbose=0)

    assert_same_state(by_hand, by_fit)
    assert history["loss"] == pytest.approx(losses, rel=1e-5)


def test_a_second_fit_trains_on_as_one_longer_loop_would():
    data = TensorDataset(*make_data())
    by_hand, by_fit = make_net(), make_net()
    torch.manual_seed(0)
    train_by_hand(by_hand, OPTIMIZERS["adam"](by_hand.parameters()), DataLoader(data, 10, shuffle=True), 4)
    model = kt.Model(by_fit)
    model.compile(LOSS, OPTIMIZERS["adam"])
    torch.manual_seed(0)
    model.fit(2, DataLoader(data, 10, shuffle=True), verbose=0)
    model.fit(2, DataLoader(data, 10, shuffle=True), DataLoader(data, 50), verbose=0)
    assert_same_state(by_hand, by_fit)


class Recorder(kt.Callback):
    def __init__(self):
        self.events = []


def _record(name):
    def hook(self, *arguments):
        shown = [argument for argument in arguments if isinstance(argument, int)]
        self.events.append((name, *shown))

    return hook


for _name in HOOKS:
    if _name != "prepare_batch":
        setattr(Recorder, _name, _record(_name))


def compiled(net=None, **options):
    model = kt.Model(make_net() if net is None else net)
    model.compile(LOSS, OPTIMIZERS["sgd"], **options)
    return model


def test_hooks_come_in_the_order_of_the_text():
    recorder = Recorder()
    x, y = make_data(8)
    compiled().fit(1, [(x[:4], y[:4]), (x[4:], y[4:])], [(x, y)], callbacks=[recorder], verbose=0)
    assert recorder.events == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        ("on_train_batch_begin", 0),
        ("on_optimizer_step_begin", 0),
        ("on_train_batch_end", 0),
        ("on_train_batch_begin", 1),
        ("on_optimizer_step_begin", 1),
        ("on_train_batch_end", 1),
        ("on_test_begin",),
        ("on_test_batch_begin", 0),
        ("on_test_batch_end", 0),
        ("on_test_end",),
        ("on_epoch_end", 0),
        ("on_train_end",),
    ]


def test_predict_has_hooks_of_its_own():
    recorder = Recorder()
    compiled().predict([make_data(4)[0]], callbacks=[recorder])
    assert [name for name, *_ in recorder.events] == [
        "on_predict_begin",
        "on_predict_batch_begin",
        "on_predict_batch_end",
        "on_predict_end",
    ]


class Lookahead(kt.callbacks.DeviceTransfer):
    """Behaves as on an accelerator."""

    def __init__(self, events):
        super().__init__("cpu")
        self.events = events

    def on_train_begin(self, logs):
        super().on_train_begin(logs)
        self.run.lookahead = True

    def prepare_batch(self, batch):
        self.events.append(f"prepare {batch.index}")
        return super().prepare_batch(batch)


def test_a_batch_is_prepared_while_the_one_before_is_worked_on_and_none_is_lost():
    events = []
    x, y = make_data(12)
    batches = [(x[start : start + 4], y[start : start + 4]) for start in (0, 4, 8)]
    watch = kt.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: events.append(f"train {batch}"))
    ahead, plain = compiled(), compiled()
    torch.manual_seed(5)
    ahead.fit(1, batches, callbacks=[Lookahead(events), watch], verbose=0)
    assert events == ["prepare 0", "prepare 1", "train 0", "prepare 2", "train 1", "train 2"]
    torch.manual_seed(5)
    plain.fit(1, batches, verbose=0)
    assert_same_state(ahead.module, plain.module)


def test_without_an_accelerator_no_batch_is_read_ahead_of_its_step():
    events = []

    def batches():
        for index in range(3):
            events.append(f"read {index}")
            yield make_data(4)

    watch = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: events.append(f"trained {batch}"))
    compiled().fit(1, batches(), callbacks=[watch], verbose=0)
    assert events == ["read 0", "trained 0", "read 1", "trained 1", "read 2", "trained 2"]


def test_stop_ends_after_the_batch_but_validation_and_the_end_of_the_epoch_still_come():
    recorder = Recorder()

    class StopAt(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if batch == 1:
                self.run.stop("enough")

    history = compiled().fit(5, make_data(), make_data(20), callbacks=[StopAt(), recorder], verbose=0, batch_size=10)
    names = [name for name, *_ in recorder.events]
    assert names.count("on_train_batch_end") == 2
    assert names[-3:] == ["on_test_end", "on_epoch_end", "on_train_end"]
    assert history.epoch == [0]
    assert "val_loss" in history


def test_model_stop_ends_training_at_the_end_of_an_epoch():
    model = compiled()
    stop = kt.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.stop("seen enough") if epoch == 1 else None
    )
    assert model.fit(9, make_data(), callbacks=[stop], verbose=0).epoch == [0, 1]
    model.stop("nothing runs")  # no error, no effect on the next run
    assert model.fit(2, make_data(), verbose=0).epoch == [0, 1]


def test_the_logs_of_a_batch_are_the_running_means_of_the_epoch():
    seen = []
    watch = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    x, y = make_data(10)
    net = nn.Linear(6, 3)
    model = kt.Model(net)
    model.compile(LOSS, lambda parameters: torch.optim.SGD(parameters, lr=0.0), ["accuracy"])
    model.fit(1, [(x[:8], y[:8]), (x[8:], y[8:])], callbacks=[watch], verbose=0)
    assert seen[0]["loss"] == pytest.approx(LOSS(net(x[:8]), y[:8]).item(), rel=1e-6)
    assert seen[1]["loss"] == pytest.approx(LOSS(net(x), y).item(), rel=1e-6)
    assert seen[1]["accuracy"] == pytest.approx((net(x).argmax(1) == y).float().mean().item())


def test_what_a_callback_writes_into_the_logs_of_an_epoch_is_history():
    note = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(temperature=epoch * 2.0))
    history = compiled().fit(2, make_data(), callbacks=[note], verbose=0)
    assert history["temperature"] == [0.0, 2.0]


def test_evaluate_counts_every_sample_once_whatever_the_batch_size():
    x, y = make_data(10)
    model = compiled(metrics=["accuracy"])
    net = model.module.eval()
    whole = {"loss": LOSS(net(x), y).item(), "accuracy": (net(x).argmax(1) == y).float().mean().item()}
    for size in (1, 3, 8, 10, 32):
        assert model.evaluate((x, y), batch_size=size) == pytest.approx(whole, rel=1e-6)


def test_batches_of_eight_and_two_give_the_accuracy_of_all_ten():
    class FirstIsRight(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.bias

    x = torch.eye(3)[[0] * 10]
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])  # 4 of the first 8 right, none of the last 2
    model = kt.Model(FirstIsRight())
    model.compile(
        LOSS,
        OPTIMIZERS["sgd"],
        {"accuracy": lambda p, t: (p.argmax(1) == t).float().mean(), "named": kt.metrics.Accuracy()},
    )
    values = model.evaluate(DataLoader(TensorDataset(x, y), 8))
    assert values["accuracy"] == pytest.approx(0.4)
    assert values["named"] == pytest.approx(0.4)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "summary"])
def test_modes_parameters_buffers_and_random_numbers_are_untouched(verb):
    model = compiled()
    net = model.module
    net.train()
    net[1].eval()  # a frozen BatchNorm
    before = copy.deepcopy(net.state_dict())
    flags = [part.training for part in net.modules()]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    data = DataLoader(Noisy(*make_data(12)), 4, shuffle=True)
    if verb == "summary":
        model.summary((6,), print_fn=lambda text: None)
    else:
        getattr(model, verb)(data)
    assert [part.training for part in net.modules()] == flags
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_modes_come_back_after_an_exception(verb):
    model = compiled()
    model.module[1].eval()
    flags = [part.training for part in model.module.modules()]
    with pytest.raises(RuntimeError):
        getattr(model, verb)([(torch.randn(4, 5), torch.zeros(4).long())])
    assert [part.training for part in model.module.modules()] == flags


def test_a_batch_norm_frozen_by_hand_stays_frozen_in_fit():
    model = compiled()
    norm = model.module[1].eval()
    before = norm.running_mean.clone()
    model.fit(2, make_data(), make_data(), verbose=0)
    assert torch.equal(norm.running_mean, before)
    assert not norm.training
    assert model.module.training


class Freezing(nn.Module):
    """Keeps its norm frozen, as detectors do."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(self.norm(x))

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


def test_a_train_method_of_the_nets_own_is_called_also_inside_a_larger_net():
    for net in (Freezing(), nn.Sequential(nn.BatchNorm1d(6), Freezing())):
        norm = next(part for part in net.modules() if isinstance(part, Freezing)).norm
        compiled(net).fit(1, make_data(), make_data(), verbose=0)
        assert not norm.running_mean.any()
    net[0].eval()  # frozen by hand, beside it
    before = net[0].running_mean.clone()
    compiled(net).fit(1, make_data(), verbose=0)
    assert torch.equal(net[0].running_mean, before)


def test_metrics_see_the_output_as_it_was_before_the_weights_changed():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.mean.expand(len(x))

    model = kt.Model(Constant())
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.25), ["mse"])
    history = model.fit(1, [(torch.zeros(4, 1), torch.ones(4))], verbose=0)
    assert history["mse"] == history["loss"] == [1.0]


def test_a_metric_that_fails_fails_before_the_first_step():
    model = compiled(metrics={"broken": lambda p, t: "text"})
    before = copy.deepcopy(dict(model.module.named_parameters()))
    with pytest.raises(kt.errors.MismatchError, match=r"The metric 'broken' must be one number.*; got 'text'"):
        model.fit(1, make_data(), verbose=0)
    assert all(torch.equal(value, before[name]) for name, value in model.module.named_parameters())


def test_validation_data_that_end_do_not_end_training():
    model = compiled()
    validation = iter([make_data(4), make_data(4)])

    class ReadOnce:
        def __iter__(self):
            return validation

    with pytest.warns(UserWarning, match="dl_val has no more batches; training goes on without validation"):
        history = model.fit(3, make_data(), ReadOnce(), verbose=0)
    assert history.epoch == [0, 1, 2]
    assert [value == value for value in history["val_loss"]] == [True, False, False]


def test_a_net_in_evaluation_mode_is_trained_in_training_mode_and_left_as_it_was():
    model = compiled()
    model.module.eval()
    before = model.module[1].running_mean.clone()
    model.fit(1, make_data(), verbose=0)
    assert not torch.equal(model.module[1].running_mean, before)
    assert not any(part.training for part in model.module.modules())


def line_added_to(error, capsys):
    if sys.version_info >= (3, 11):
        return error.__notes__
    return capsys.readouterr().err.splitlines()


def test_an_error_in_forward_keeps_its_traceback_and_gets_one_line(capsys):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            self.calls += 1
            if self.calls == 3:
                raise KeyError("from the user's own code")
            return self.layer(x)

    recorder = Recorder()
    model = compiled(Broken())
    with pytest.raises(KeyError, match="from the user's own code") as caught:
        model.fit(2, make_data(20), callbacks=[recorder], verbose=0, batch_size=10)
    assert caught.traceback[-1].name == "forward"
    assert line_added_to(caught.value, capsys) == [
        "kerastorch: epoch 2, batch 1 of its data: x float32 (10, 6) cpu, y int64 (10,) cpu"
    ]
    assert recorder.events[-1][0] == "on_exception"
    assert model.history.epoch == [0]


def test_an_error_in_predict_names_its_batch_without_an_epoch(capsys):
    with pytest.raises(RuntimeError) as caught:
        compiled().predict([torch.randn(4, 6), torch.randn(4, 7)])
    assert line_added_to(caught.value, capsys) == [
        "kerastorch: batch 2 of its data: x float32 (4, 7) cpu, y None",
        "A layer nn.Linear(6, ...) was given 7 features. Type nn.Linear(7, ...), or nn.LazyLinear(...).",
    ]


def test_an_error_of_the_loader_is_not_laid_at_the_door_of_the_batch_before(capsys):
    def batches():
        yield make_data(4)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        compiled().fit(1, batches(), verbose=0)
    assert line_added_to(caught.value, capsys) == ["kerastorch: while batch 2 of dl_train was read."]


@pytest.mark.parametrize("stopped", [False, True])
def test_an_error_outside_any_batch_gets_no_line(stopped, capsys):
    def fail(epoch, logs):
        raise ValueError("own")

    model = compiled()
    callback = kt.callbacks.LambdaCallback(on_epoch_end=fail)
    if stopped:
        callback.on_train_batch_end = lambda batch, logs: model.stop()
    with pytest.raises(ValueError, match="own") as caught:
        model.fit(1, make_data(), callbacks=[callback], verbose=0)
    assert not hasattr(caught.value, "__notes__")
    assert not capsys.readouterr().err


def test_a_one_shot_iterable_keeps_its_first_batch():
    model = compiled()
    model.fit(1, (make_data(4) for _ in range(5)), verbose=0)
    assert model._session.state.step == 5


def test_an_endless_generator_goes_on_in_the_next_epoch():
    seen = []

    def endless():
        for index in itertools.count():
            seen.append(index)
            yield make_data(4)

    model = compiled()
    model.fit(3, endless(), verbose=0, steps_per_epoch=4)
    assert seen == list(range(12))
    assert model._session.state.step == 12


def test_a_generator_for_several_epochs_is_refused_before_the_first_step():
    model = compiled()
    with pytest.raises(
        DataError, match=r"dl_train is a generator .* can be read once, but 2 epochs .* steps_per_epoch"
    ):
        model.fit(2, (make_data(4) for _ in range(5)), verbose=0)
    assert model._session._state is None


def test_an_iterator_that_ends_stops_training_and_keeps_what_was_learned(capsys):
    class ReadOnce:
        def __init__(self):
            self.items = iter([make_data(4), make_data(4)])

        def __iter__(self):
            return self.items

    model = compiled()
    history = model.fit(3, ReadOnce(), verbose=0)
    assert history.epoch == [0]
    expected = "Stopped by the end of dl_train after epoch 1. The history keeps 1 finished epoch."
    assert expected in capsys.readouterr().err  # with verbose=0 nothing goes to stdout


@pytest.mark.parametrize("verb", ["fit", "evaluate", "predict"])
def test_data_that_never_give_a_batch_are_an_error(verb):
    class Nothing:
        def __iter__(self):
            return iter(())

    model = compiled()
    for _ in range(2):
        with pytest.raises(DataError, match="gave no batch at all"):
            model.fit(1, Nothing(), verbose=0) if verb == "fit" else getattr(model, verb)(Nothing())
        model.fit(1, make_data(), verbose=0)


def test_a_loader_that_gives_fewer_or_more_batches_than_its_length_is_counted_right():
    class Liar:
        def __init__(self, promised):
            self.promised = promised

        def __len__(self):
            return self.promised

        def __iter__(self):
            return iter([make_data(4, seed) for seed in range(3)])

    x, y = (torch.cat(parts) for parts in zip(*(make_data(4, seed) for seed in range(3)), strict=True))
    model = compiled(metrics=["accuracy"])
    for promised in (2, 3, 7):
        assert model.evaluate(Liar(promised)) == pytest.approx(model.evaluate((x, y)), rel=1e-6)


def test_validation_freq_and_a_later_validation_set_give_columns_of_one_length():
    model = compiled()
    history = model.fit(4, make_data(), make_data(10), verbose=0, validation_freq=2)
    assert [value == value for value in history["val_loss"]] == [False, True, False, True]
    assert {len(column) for column in history.history.values()} == {4}
    assert "val_loss" not in model.fit(1, make_data(), verbose=0)
    assert "val_loss" in model.fit(1, make_data(), make_data(5), verbose=0)


def test_initial_epoch_renumbers():
    numbers = []
    watch = kt.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: numbers.append(epoch))
    history = compiled().fit(5, make_data(), callbacks=[watch], verbose=0, initial_epoch=3)
    assert numbers == history.epoch == [3, 4]


@pytest.mark.parametrize("metric", ["accuracy", "waits"])
def test_nothing_waits_for_the_device_in_a_step_unless_the_user_does(monkeypatch, metric):
    def refuse(*arguments):
        raise AssertionError("a step waited for the device")

    steps = []
    monkeypatch.setattr("kerastorch.metrics.set.read_if_free", lambda part: part)  # as on an accelerator
    monkeypatch.setattr("kerastorch.metrics.sums.read_if_free", lambda part: part)
    monkeypatch.setattr("kerastorch.losses.single.surely_not_negative", lambda labels: False)
    monkeypatch.setattr("kerastorch.metrics.accuracy.surely_not_negative", lambda labels: False)
    monkeypatch.setattr("kerastorch.guard.looks_first", lambda run: False)

    def watch(batch, logs):
        if batch == 0:
            for name in ("item", "tolist", "numpy", "__float__", "__int__", "__bool__", "__index__"):
                monkeypatch.setattr(torch.Tensor, name, refuse)
        steps.append(batch)
        if batch == 4:
            monkeypatch.undo()

    model = compiled(nn.Linear(6, 3))
    metrics = {"a": "accuracy", "b": lambda p, t: (p.argmax(1) == t).float().mean()}
    if metric == "waits":
        metrics["c"] = lambda p, t: (p.argmax(1) == t).float().mean().item()
    model.compile(LOSS, OPTIMIZERS["sgd"], metrics)
    batches = [make_data(8, seed) for seed in range(5)]
    callback = kt.callbacks.LambdaCallback(on_train_batch_end=watch)
    if metric == "waits":
        with pytest.raises(AssertionError, match="waited"):
            model.fit(1, batches, callbacks=[callback], verbose=0)
    else:
        model.fit(1, batches, callbacks=[callback], verbose=0)
        assert steps == [0, 1, 2, 3, 4]
