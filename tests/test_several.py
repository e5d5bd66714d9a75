"""What a run of several processes needs, beside its strategy: all is worth one process with the whole batches."""

import os

import pytest
import torch
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch import shards
from tests.distributed.together import needs_fsdp, together, with_output

COUNT = 53  # in steps of 16, the last has 5: one process has none of them
BOTH = ["ddp", pytest.param("fsdp", marks=needs_fsdp)]


def rank():
    return int(os.environ.get("RANK", "0"))


def data(ignored=0.0):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (COUNT,), generator=generator)
    y[torch.rand(COUNT, generator=generator) < ignored] = -100
    return x, y


def net(*more):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), *more, nn.Tanh(), nn.Linear(16, 4)).double()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.1)


def whole(model):
    state = model.state_dict()
    return {name: (v.full_tensor() if shards.is_shard(v) else v).detach().clone() for name, v in state.items()}


def fit(model, size, strategy, loss="cross_entropy", arrays=None, optimizer=sgd, compiled=None, **more):
    chosen = strategy if size > 1 else None
    model.compile(loss, optimizer, device="cpu", strategy=chosen, **(compiled or {}))
    history = model.fit(2, arrays or data(), batch_size=16 // size, seed=5, verbose=0, **more)
    return whole(model), history["loss"]


def agree(work, strategy, size=2):
    """Several processes give what one gives, all of them the same."""
    found, wanted = together(size, work, size, strategy), work(1, None)
    for own in found:
        _same(own, wanted)


def _same(own, wanted):
    if isinstance(wanted, dict):
        assert own.keys() == wanted.keys()
    items = wanted.items() if isinstance(wanted, dict) else enumerate(wanted)
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            _same(own[key], value)
        else:
            torch.testing.assert_close(own[key], value, rtol=0, atol=1e-9, msg=f"{key}: {own[key]}, not {value}")


class Clips(kt.Model):
    def train_step(self, batch):
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self(batch.x), batch.y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)
        self.optimizer.step()
        return {"loss": loss.detach()}


class Gathers(kt.Model):
    def train_step(self, batch):
        loss = functional.cross_entropy(self(batch.x), batch.y)
        (loss / 2).backward()
        if batch.index % 2:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": loss.detach()}


class Critic(kt.Model):
    """Asks for the ordinary step, and makes one of its own with another optimizer."""

    def __init__(self, inside):
        module = net()
        torch.manual_seed(4)
        critic = nn.Linear(4, 1).double()
        super().__init__(nn.ModuleDict({"net": module, "critic": critic}) if inside else module)
        self.held = [critic]
        self.own = torch.optim.SGD(critic.parameters(), lr=0.1)

    def forward(self, x):
        return (self.net["net"] if isinstance(self.net, nn.ModuleDict) else self.net)(x)

    def train_step(self, batch):
        super().train_step(batch)
        self.own.zero_grad()
        loss = (self.held[0](self(batch.x).detach()) - 1).square().mean()
        loss.backward()
        self.own.step()
        return {"critic": loss.detach()}


def clips(size, strategy):
    return fit(Clips(net()), size, strategy)


def gathers(size, strategy):
    return fit(Gathers(net()), size, strategy)


def critic(size, strategy):
    found = []
    for inside in (False, True):
        torch.manual_seed(0)
        model = Critic(inside)
        inner = model.net["net"] if inside else model.net
        found.append(fit(model, size, strategy, optimizer=sgd(inner.parameters())))
        found.append(whole(model.held[0]))
    return found


@pytest.mark.parametrize("work", [clips, gathers, critic])
def test_a_step_of_ones_own_finds_the_gradients_of_the_whole_batch(work):
    agree(work, "ddp")


class Plain(kt.Model):
    def train_step(self, batch):
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self(batch.x), batch.y)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}


def plain(size, strategy):
    return fit(Plain(net()), size, strategy)


@pytest.mark.parametrize("strategy", BOTH)
def test_a_step_of_ones_own_counts_batches_by_their_samples(strategy):
    agree(plain, strategy)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.a, self.b = nn.Linear(6, 8).double(), nn.Linear(8, 4).double(), nn.Linear(8, 6).double()

    def forward(self, x):
        x = self.body(x).tanh()
        return {"a": self.a(x), "b": self.b(x)}


def two_losses(size, strategy):
    x, y = data(ignored=0.4)
    arrays, found = (x, {"a": y, "b": x}), []
    for first in ("cross_entropy", nn.CrossEntropyLoss(reduction="sum")):
        loss = {"a": first, "b": "mse"}
        found.append(
            fit(kt.Model(Two()), size, strategy, loss, arrays, compiled={"loss_weights": {"a": 1.0, "b": 0.3}})
        )
    return found


@pytest.mark.parametrize("strategy", BOTH)
def test_several_losses_have_shares_of_their_own(strategy):
    agree(two_losses, strategy)


def summed(size, strategy):
    loss = nn.CrossEntropyLoss(reduction="sum")
    small = lambda parameters: torch.optim.SGD(parameters, lr=0.001)  # noqa: E731
    return fit(kt.Model(net()), size, strategy, loss, optimizer=small, compiled={"accumulate": 2})


@pytest.mark.parametrize("strategy", BOTH)
def test_a_sum_over_batches_has_nothing_of_those_that_fill(strategy):
    agree(summed, strategy)


def nothing_counts(size, strategy):
    x, y = data()
    y = y.clone()
    y[32:] = -100
    plans = [{}, {"accumulate": 2}]
    return [
        fit(kt.Model(net()), size, strategy, arrays=(x, y), optimizer=adamw, compiled=p, shuffle=False) for p in plans
    ]


@pytest.mark.parametrize("strategy", BOTH)
def test_a_step_in_which_nothing_counts_is_none(strategy):
    agree(nothing_counts, strategy)


class Decays(kt.Model):
    def compute_loss(self, batch, output):
        return super().compute_loss(batch, output) + 0.01 * sum(p.square().sum() for p in self.parameters())


def decays(size, strategy):
    model = Decays(net())
    model.compile("cross_entropy", sgd, device="cpu", strategy=strategy if size > 1 else None)
    return model.evaluate(data(), batch_size=6)


@pytest.mark.parametrize("strategy", BOTH)
def test_a_loss_of_parameters_is_evaluated_whole(strategy):
    agree(decays, strategy)


def averaged(size, strategy):
    options = {"ddp": kt.DDP(sync_batch_norm=True), "fsdp": kt.FSDP(sync_batch_norm=True)}.get(strategy)
    model = kt.Model(net(nn.BatchNorm1d(16).double()))
    swa = kt.callbacks.StochasticWeightAveraging(1, lr=0.05)
    return fit(model, size, options, shuffle=False, callbacks=[swa])


@pytest.mark.parametrize("strategy", BOTH)
def test_averaged_weights_get_the_statistics_of_all_data(strategy):
    agree(averaged, strategy)


def averaged_apart():
    model = kt.Model(net(nn.BatchNorm1d(16).double()))
    swa = kt.callbacks.StochasticWeightAveraging(1, lr=0.05)
    found, _ = fit(model, 2, "ddp", callbacks=[swa])
    return found


def test_without_synchronised_layers_processes_still_end_with_one_net():
    first, second = together(2, averaged_apart)
    assert all(torch.equal(first[name], second[name]) for name in first)


class AtEnd(kt.Callback):
    def on_train_end(self, logs):
        self.run.stop("done")


class AtBegin(kt.Callback):
    def on_epoch_begin(self, epoch, logs):
        if rank() == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            self.run.stop("not today")


def stops():
    model = kt.Model(net())
    model.compile("cross_entropy", sgd, device="cpu")
    lengths = [len(model.fit(2, data(), verbose=0, callbacks=each)) for each in ([AtEnd()], [], [AtBegin()], [])]
    model.evaluate(data(), callbacks=[AtEnd()])
    return [*lengths, len(model.fit(1, data(), verbose=0))]


def test_a_wish_ends_the_run_that_it_was_for():
    assert stops() == [2, 2, 0, 2, 1]
    assert together(2, stops) == [[2, 2, 0, 2, 1]] * 2


class Writes(kt.callbacks.Logger):
    def write(self, step, values):
        print("written", sorted(values))


class Everywhere(kt.Callback):
    everywhere = True
    stage = "logger"

    def on_train_begin(self, logs):
        print("everywhere")


class InMain(kt.Callback):
    everywhere = False

    def on_train_begin(self, logs):
        print("in main")


def outputs():
    model = kt.Model(net())
    model.compile("cross_entropy", sgd, device="cpu", jit_compile=True)
    model.summary(input_shape=(6,), input_dtype=torch.float64)
    model.fit(1, data(), data(), verbose=1, callbacks=[Everywhere(), InMain()])


def test_the_main_process_alone_prints():
    (_, said), (_, other) = with_output(2, outputs)
    assert other == "everywhere\n"
    assert {"everywhere", "in main"} <= set(said.splitlines())
    assert "Total params" in said
    assert "jit_compile is for one process as yet; the net runs as it is." in said


class OwnValue(kt.Callback):
    """A value that each process finds for itself: better in every epoch, or never."""

    def on_epoch_end(self, epoch, logs):
        logs["own"] = -epoch if rank() else epoch


def lowers(size, strategy):
    model = kt.Model(net())
    plateau = kt.callbacks.ReduceLROnPlateau("own", mode="min", patience=1)
    fit(model, size, strategy, callbacks=[OwnValue(), plateau])
    return model.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("strategy", BOTH)
def test_a_learning_rate_is_lowered_in_all_or_none(strategy):
    assert together(2, lowers, 2, strategy) == [pytest.approx(0.01)] * 2
