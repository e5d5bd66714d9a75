"""Several processes with DDP are worth one process with the whole batches."""

import copy
import os
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch.errors import DistributedError
from kerastorch.strategy.ddp import Ddp
from tests.distributed.together import Failed, together, with_output

COUNT = 53  # in steps of 16 the last has 5: one process has none of them


def rank():
    return int(os.environ.get("RANK", "0"))


def data(ignored=0.3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (COUNT,), generator=generator)
    y[torch.rand(COUNT, generator=generator) < ignored] = -100
    return x, y


def net(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def train(options, size=1, module=None, loss="cross_entropy", arrays=None, callbacks=(), **more):
    arrays = arrays or data()
    model = kt.Model(module or net())
    model.compile(loss, torch.optim.AdamW(model.parameters(), lr=0.01), ["accuracy"], device="cpu", **options)
    more = {"batch_size": 16 // size, "seed": 5, "verbose": 0} | more
    history = model.fit(3, arrays, arrays, callbacks=list(callbacks), **more)
    return weights(model), {name: history[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}


CASES = {
    "plain": {},
    "clipped": {"clip_norm": 0.5, "clip_value": 0.05},
    "accumulated": {"accumulate": 3},
    "accumulated and clipped": {"accumulate": 2, "clip_norm": 0.3},
    "recomputed": {"gradient_checkpointing": "0"},
}


def work(cases, size):
    return {name: train(options, size) for name, options in cases.items()}


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_train_as_one_with_the_whole_batches(size):
    found = together(size, work, CASES, size)
    for name, options in CASES.items():
        wanted, history = train(options)
        for own, own_history in (answer[name] for answer in found):
            assert all(torch.equal(own[key], found[0][name][0][key]) for key in own), name  # to the last bit
            assert own_history == found[0][name][1]
        for key, value in wanted.items():
            torch.testing.assert_close(found[0][name][0][key], value, rtol=0, atol=1e-12, msg=f"{name}: {key}")
        for key, values in history.items():
            assert found[0][name][1][key] == pytest.approx(values, abs=1e-12), (name, key)


OPTIONS = {
    "static graph": lambda: kt.DDP(static_graph=True),
    "unused parameters are looked for": lambda: kt.DDP(find_unused_parameters=True),
    "no bucket views": lambda: kt.DDP(gradient_as_bucket_view=False),
    "small buckets": lambda: kt.DDP(bucket_cap_mb=1),
    "buffers stay": lambda: kt.DDP(broadcast_buffers=False),
    "bf16": lambda: kt.DDP(compression="bf16"),
}


def with_options():
    found = {name: train({"strategy": make()}, 2)[0] for name, make in OPTIONS.items()}
    found["accumulated"] = train({"strategy": kt.DDP(static_graph=True), "accumulate": 2}, 2)[0]
    return found


def test_the_options_of_ddp_change_no_number_but_that_of_half_precision():
    found = together(2, with_options)[0]
    wanted, accumulated = train({})[0], train({"accumulate": 2})[0]
    for name, own in found.items():
        expected = accumulated if name == "accumulated" else wanted
        far = max(float((own[key] - expected[key]).abs().max()) for key in own)
        assert far <= 1e-12 if name != "bf16" else 0 < far < 0.02, (name, far)


def summed(size):
    loss = nn.CrossEntropyLoss(reduction="sum")
    model = kt.Model(net())
    model.compile(loss, torch.optim.SGD(model.parameters(), lr=0.001), device="cpu")
    history = model.fit(2, data(), batch_size=16 // size, seed=5, verbose=0)
    return weights(model), history["loss"]


def test_a_loss_that_is_a_sum_is_summed_over_processes():
    (found, loss), _ = together(2, summed, 2)
    wanted, expected = summed(1)
    assert loss == pytest.approx(expected)
    assert all(torch.allclose(found[key], wanted[key], atol=1e-13) for key in wanted)


def weighted(size):
    generator = torch.Generator().manual_seed(2)
    x, y = data()
    arrays = (x, y, torch.rand(COUNT, generator=generator, dtype=torch.float64))
    return train({}, size, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 0.0]).double()), arrays=arrays)


def test_sample_and_class_weights_count_over_processes():
    (found, history), _ = together(2, weighted, 2)
    wanted, expected = weighted(1)
    assert all(torch.allclose(found[key], wanted[key], atol=1e-12) for key in wanted)
    assert history["loss"] == pytest.approx(expected["loss"])


def all_ignored(size):
    x, y = data()
    y = y.clone()
    y[8:16] = y[32:48] = -100  # of one process in a step, and of all
    return train({}, size, arrays=(x, y), shuffle=False)


def test_a_process_whose_labels_are_all_ignored_keeps_step():
    (found, history), _ = together(2, all_ignored, 2)
    wanted, expected = all_ignored(1)
    assert all(torch.allclose(found[key], wanted[key], atol=1e-12) for key in wanted)
    assert history["loss"] == pytest.approx(expected["loss"])


def differently_begun():
    first = train({}, 2, module=net(seed=rank()))[0]
    model = kt.Model(net(seed=rank()))
    model.compile("cross_entropy", device="cpu")
    return first, model.evaluate(data(), batch_size=8)


def test_processes_begin_with_the_weights_of_the_main_one():
    found = together(2, differently_begun)
    wanted = train({}, module=net(seed=0))[0]
    for own, values in found:
        assert all(torch.allclose(own[key], wanted[key], atol=1e-12) for key in wanted)
        assert values == found[0][1]
    model = kt.Model(net(seed=0))
    model.compile("cross_entropy", device="cpu")
    assert found[0][1]["loss"] == pytest.approx(model.evaluate(data())["loss"])


class Unfreezes(kt.Callback):
    def on_epoch_begin(self, epoch, logs):
        self.run.state.module[0].requires_grad_(epoch > 0)


def unfrozen(size):
    return train({}, size, callbacks=[Unfreezes()])


def test_what_is_unfrozen_is_trained_by_all():
    found = together(2, unfrozen, 2)
    wanted = unfrozen(1)[0]
    for own, _ in found:
        assert all(torch.allclose(own[key], wanted[key], atol=1e-12) for key in wanted)


class Alone(kt.Model):
    """Makes its steps itself."""

    def __init__(self):
        super().__init__(net())
        self.own = torch.optim.SGD(self.parameters(), lr=0.05)

    def train_step(self, batch):
        self.own.zero_grad()
        loss = functional.cross_entropy(self(batch.x), batch.y)
        loss.backward()
        self.own.step()
        return {"loss": loss.detach()}


class Asks(kt.Model):
    """Asks for the ordinary step."""

    def train_step(self, batch):
        super().train_step(batch)
        return {"size": torch.tensor(float(batch.size))}


def own_steps(size):
    model = Alone()
    if rank():
        with torch.no_grad():
            model.net[0].weight.add_(1.0)
    model.compile(device="cpu")
    history = model.fit(2, data(ignored=0.0), batch_size=16 // size, seed=5, verbose=0)
    asks = Asks(net())
    asks.compile("cross_entropy", torch.optim.SGD(asks.parameters(), lr=0.05), device="cpu")
    asks.fit(2, data(ignored=0.0), batch_size=16 // size, seed=5, verbose=0)
    return weights(model), history["loss"], weights(asks)


def test_steps_of_the_users_own_get_the_gradients_of_all():
    found = together(2, own_steps, 2)
    wanted, loss, asks = own_steps(1)
    for own, own_loss, own_asks in found:
        assert own_loss == pytest.approx(loss)
        assert all(torch.allclose(own[key], wanted[key], atol=1e-12) for key in wanted)
        assert all(torch.allclose(own_asks[key], asks[key], atol=1e-12) for key in asks)


class Stops(kt.Callback):
    def __init__(self, how, where):
        self.how, self.where, self.seen = how, where, []

    def on_train_batch_end(self, batch, logs):
        self.seen.append(batch)
        if rank() == self.where and batch == 1:
            getattr(self.run, self.how)("one process")


def stopped(how):
    stops = Stops(how, 1)
    model = kt.Model(net())
    model.compile("cross_entropy", torch.optim.SGD(model.parameters(), lr=0.05), device="cpu")
    model.fit(4, data(), batch_size=4, seed=5, verbose=1, callbacks=[stops])
    return stops.seen, len(model.history), weights(model)


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_one_process_stops_all_at_the_same_batch(how):
    (first, said), (second, unsaid) = with_output(2, stopped, how)
    assert first[0] == second[0] == [0, 1, 2]  # the wish travels with the gradients of the next step
    assert first[1] == second[1] == (1 if how == "stop" else 0)
    assert all(torch.equal(first[2][key], second[2][key]) for key in first[2])
    assert "Stopped by one process" in said
    assert unsaid == ""


def unused():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x):
            return self.a(x)

    def fit(strategy):
        torch.manual_seed(0)
        model = kt.Model(Half().double())
        model.compile("cross_entropy", "sgd", device="cpu", strategy=strategy)
        return model.fit(1, data(), batch_size=8, seed=0, verbose=0)["loss"]

    assert fit(kt.DDP(find_unused_parameters=True)) == fit(kt.DDP(find_unused_parameters=True))
    fit("ddp")


def test_unused_parameters_are_explained():
    with pytest.raises(Failed) as caught:
        together(2, unused)
    assert "find_unused_parameters=True" in caught.value.errors[0]


def skips(size):
    x, y = data(ignored=0.0)
    x = x.clone()
    x[9] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train({}, size, arrays=(x[:48], y[:48]), shuffle=False, nan="skip")


def test_a_batch_that_one_process_cannot_use_is_skipped_by_all():
    found = together(2, skips, 2)
    wanted = skips(1)[0]
    for own, _ in found:
        assert all(torch.allclose(own[key], wanted[key], atol=1e-12) for key in wanted)


def refused():
    model = kt.Model(net())
    model.compile("cross_entropy", "sgd", device="cpu")
    said = []
    for call in (
        lambda: model.find_lr(data()),
        lambda: model.fit(1, data(), batch_size="auto", verbose=0),
        lambda: model.fit(1, data(), microbatch=2, verbose=0),
    ):
        with pytest.raises(DistributedError) as caught:
            call()
        said.append(str(caught.value))
    return said


def test_what_is_for_one_process_is_refused():
    said = together(2, refused)[0]
    assert said[0] == (
        "find_lr is for one process, and this is one of 2. Find the rate in one process, without a launcher."
    )
    assert said[1] == "batch_size='auto' is for one process, and this is one of 2. Say a number of samples per process."
    assert said[2] == "microbatch=2 is for one process. Say a smaller batch_size and accumulate=... in compile."


def dropouts():
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4)).double())
    model.compile("cross_entropy", "sgd", device="cpu")
    seen = []
    model.net[0].register_forward_hook(lambda module, args, output: seen.append((output != 0).tolist()))
    x = torch.ones(32, 6, dtype=torch.float64)
    model.fit(1, (x, torch.zeros(32, dtype=torch.long)), batch_size=16, verbose=0)
    return seen[0], torch.rand(3)


def test_processes_drop_out_other_values_and_end_with_the_same_random_numbers():
    (first, after), (second, also_after) = together(2, dropouts)
    assert first != second
    assert torch.equal(after, also_after)


def copied():
    model = kt.Model(net())
    model.compile("cross_entropy", "sgd", device="cpu")
    model.fit(1, data(), batch_size=8, seed=0, verbose=0)
    again = copy.deepcopy(model)
    again.fit(1, data(), batch_size=8, seed=1, verbose=0)
    model.fit(1, data(), batch_size=8, seed=1, verbose=0)
    third = pickle.loads(pickle.dumps(model))
    third.fit(1, data(), batch_size=8, seed=1, verbose=0)
    assert type(third._session.strategy) is Ddp
    return all(torch.equal(weights(model)[key], value) for key, value in weights(again).items())


def test_models_can_be_copied_and_pickled():
    assert together(2, copied) == [True, True]
