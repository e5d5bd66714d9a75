"""Gradients of several batches for one step: what one large batch would give."""

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import kerastorch as kt


def net(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 4))


def batches(sizes, *, ignored=0.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size in sizes:
        labels = torch.randint(4, (size,), generator=generator)
        labels[torch.rand(size, generator=generator) < ignored] = -100
        made.append((torch.randn(size, 6, generator=generator), labels))
    return made


def joined(window):
    return tuple(torch.cat(parts) for parts in zip(*window, strict=True))


def trained(module, data, loss=functional.cross_entropy, epochs=1, callbacks=(), optimizer=None, **options):
    model = kt.Model(module)
    optimizer = optimizer or torch.optim.SGD(module.parameters(), lr=0.3)
    model.compile(loss, optimizer, device="cpu", **options)
    model.fit(epochs, data, verbose=0, callbacks=list(callbacks))
    return model


def by_hand(module, windows, loss=functional.cross_entropy, clip=None):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for x, y in windows:
        optimizer.zero_grad()
        loss(module(x), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()


def close(module, other):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def same(module, other):
    return all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=9),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([None, 0.05]),
)
def test_a_window_is_one_large_batch(sizes, accumulate, ignored, clip):
    data = batches(sizes, ignored=ignored)
    windows = [joined(data[start : start + accumulate]) for start in range(0, len(data), accumulate)]
    assume(all((y >= 0).any() for _, y in windows))  # else their loss is NaN for everybody
    assume(accumulate > 1 or all((y >= 0).any() for _, y in data))
    first, second = net(), net()
    model = trained(first, data, accumulate=accumulate, clip_norm=clip)
    by_hand(second, windows, clip=clip)
    assert close(first, second)
    assert model._session.state.step == len(windows)


def test_a_window_of_one_batch_is_the_plain_step_bit_for_bit():
    data = batches([8, 8, 8, 8, 5])
    plain, windowed = net(), net()
    trained(plain, data[4:])
    trained(windowed, data[4:], accumulate=4)
    assert same(plain, windowed)


def test_one_batch_a_window_is_the_loop_by_hand_bit_for_bit_with_clipping():
    data = batches([8, 8, 5])
    first, second = net(), net()
    trained(first, data, accumulate=1, clip_norm=0.05)
    by_hand(second, data, clip=0.05)
    assert same(first, second)


def test_values_are_clipped_after_averaging():
    data = batches([8, 8])
    module, other = net(), net()
    trained(module, data, accumulate=2, clip_value=0.01)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.3)
    x, y = joined(data)
    functional.cross_entropy(other(x), y).backward()
    nn.utils.clip_grad_value_(other.parameters(), 0.01)
    optimizer.step()
    assert close(module, other)


def test_sums_are_added_and_not_divided():
    data = batches([8, 5])
    loss = nn.CrossEntropyLoss(reduction="sum")
    first, second = net(), net()
    trained(first, data, loss, accumulate=2, optimizer=torch.optim.SGD(first.parameters(), lr=0.01))
    optimizer = torch.optim.SGD(second.parameters(), lr=0.01)
    x, y = joined(data)
    loss(second(x), y).backward()
    optimizer.step()
    assert close(first, second)


def test_sample_and_class_weights_count():
    data = [(x, y, torch.rand(len(x)) + 0.1) for x, y in batches([8, 5, 7])]
    first, second = net(), net()
    trained(first, data, accumulate=3)
    x, y, weight = joined(data)
    optimizer = torch.optim.SGD(second.parameters(), lr=0.3)
    each = functional.cross_entropy(second(x), y, reduction="none")
    ((each * weight).sum() / weight.sum()).backward()
    optimizer.step()
    assert close(first, second)


class Watcher(kt.Callback):
    def __init__(self):
        self.seen = []

    def on_optimizer_step_begin(self, step):
        gradient = next(self.model.parameters()).grad
        self.seen.append((step, self.run.state.batch, gradient.clone()))


def test_the_hook_sees_averaged_gradients_once_a_step():
    data = batches([4, 8, 2, 6, 3])
    watcher, other = Watcher(), net()
    trained(net(), data, accumulate=2, callbacks=[watcher])
    x, y = joined(data[:2])
    functional.cross_entropy(other(x), y).backward()
    assert [(step, batch) for step, batch, _ in watcher.seen] == [(0, 1), (1, 3), (2, 4)]
    assert torch.allclose(watcher.seen[0][2], next(other.parameters()).grad, atol=1e-6)


def test_an_epoch_of_unknown_length_ends_with_a_step():
    data = batches([4, 4, 4, 4, 4])
    known, unknown = net(), net()
    trained(known, data, accumulate=3)
    trained(unknown, Stream(data), accumulate=3)
    assert same(known, unknown)


class Stream:
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


class StopAt(kt.Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, batch, logs):
        if batch == self.batch:
            self.run.stop("enough")


def test_a_stop_waits_for_the_end_of_the_window():
    data = batches([4] * 9)
    stopped, whole = net(), net()
    model = trained(stopped, data, accumulate=4, callbacks=[StopAt(1)])
    trained(whole, data[:4], accumulate=4)
    assert same(stopped, whole)
    assert model._session.state.step == 1


def test_gradients_of_a_run_that_failed_are_not_in_the_next():
    class Fail(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            raise KeyError("now")

    data = batches([4] * 4)
    module, fresh = net(), net()
    model = kt.Model(module)
    model.compile(functional.cross_entropy, torch.optim.SGD(module.parameters(), lr=0.3), accumulate=2, device="cpu")
    with pytest.raises(KeyError):
        model.fit(1, data, verbose=0, callbacks=[Fail()])
    model.fit(1, data, verbose=0)
    trained(fresh, data, accumulate=2)
    assert same(module, fresh)


def test_a_batch_left_out_does_not_count():
    data = batches([4] * 4)
    spoiled = [*data[:1], (torch.full((4, 6), torch.nan), data[1][1]), *data[1:]]
    module, other = net(), net()
    model = kt.Model(module)
    model.compile(functional.cross_entropy, torch.optim.SGD(module.parameters(), lr=0.3), accumulate=2, device="cpu")
    with pytest.warns(UserWarning, match="makes no step"):
        model.fit(1, spoiled, verbose=0, nan="skip")
    trained(other, data, accumulate=2)
    assert same(module, other)


def test_train_on_batch_makes_a_step_each_time():
    data = batches([4, 4])
    module, other = net(), net()
    model = kt.Model(module)
    model.compile(functional.cross_entropy, torch.optim.SGD(module.parameters(), lr=0.3), accumulate=2, device="cpu")
    for x, y in data:
        model.train_on_batch(x, y)
    by_hand(other, data)
    assert same(module, other)


def test_a_plan_of_rates_has_one_for_each_step():
    data = batches([4] * 5)
    module = net()
    model = kt.Model(module)
    model.compile(functional.cross_entropy, torch.optim.SGD(module.parameters(), lr=0.3), accumulate=2, device="cpu")
    cycle = kt.callbacks.OneCycle(0.1)
    model.fit(2, data, verbose=0, callbacks=[cycle])
    assert cycle.scheduler.total_steps == 6
    assert model._session.state.step == 6


@pytest.mark.parametrize("accumulate", [1, 3])
def test_checkpoints_wait_for_the_end_of_a_window(tmp_path, accumulate):
    module = net()
    callback = kt.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.pt"), save_freq=1)
    trained(module, batches([4] * 7), accumulate=accumulate, callbacks=[callback])
    found = sorted(int(path.stem) for path in tmp_path.iterdir())
    assert found == ([1, 2, 3, 4, 5, 6, 7] if accumulate == 1 else [3, 6, 7])


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_accumulate_is_a_number_of_batches(value):
    with pytest.raises(ValueError, match="accumulate is a number of batches"):
        kt.Model(net()).compile("cross_entropy", accumulate=value)


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1"])
def test_limits_are_above_0(name, value):
    with pytest.raises(ValueError, match=f"{name} is a number above 0"):
        kt.Model(net()).compile("cross_entropy", **{name: value})


def test_several_losses_count_by_the_first():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = net()

        def forward(self, x):
            return {"a": self.part(x), "b": self.part(x)[:, :1]}

    data = [(x, {"a": y, "b": torch.rand(len(x), 1)}) for x, y in batches([4, 6])]
    losses = {"a": "cross_entropy", "b": "mse"}
    first = Two()
    second = copy.deepcopy(first)
    trained(first, data, losses, accumulate=2)
    x = torch.cat([batch[0] for batch in data])
    y = {name: torch.cat([batch[1][name] for batch in data]) for name in ("a", "b")}
    trained(second, [(x, y)], losses)
    assert close(first, second)
