"""Parameters shared out over two processes: the numbers of one process that has the whole batch."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional

import kerastorch as kt
from kerastorch import checks, health, isolate, parameters, rollback, shards, updates
from kerastorch.callbacks.averages import Averages
from kerastorch.strategy.fsdp import Fsdp
from kerastorch.strategy.group import Group
from kerastorch.strategy.options import FSDP
from kerastorch.strategy.processes import join
from kerastorch.summary import summary
from tests.distributed.together import needs_fsdp, together

CPU = torch.device("cpu")
pytestmark = needs_fsdp


class Net(nn.Module):
    """Blocks, a parameter of the net itself, a tie, and a last layer of one number, so that some parts are empty."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.embed = nn.Linear(4, 6)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)])
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x)) * self.scale


def each(work, *args, size=2):
    return together(size, work, *args)


def new_net(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return Net().to(dtype)


def new_strategy(options=None, precision="32-true"):
    return Fsdp(options or FSDP("blocks.*"), join(CPU), CPU, precision)


def data(steps, dtype=torch.float64):
    """Batches of 10 samples with weights, of which processes take different numbers."""
    torch.manual_seed(1)
    return [
        (torch.randn(10, 4, dtype=dtype), torch.randn(10, 1, dtype=dtype), torch.rand(10, dtype=dtype))
        for _ in range(steps)
    ]


def share_of(batch, group):
    if group.size == 1:
        return batch
    cuts = [0, 7, 10] if group.size == 2 else [0, 5, 9, 10]
    return tuple(part[cuts[group.rank] : cuts[group.rank + 1]] for part in batch)


def train(strategy, net, optimizer, *, steps=6, accumulate=1, norm=None, value=None, after=None, dtype=torch.float64):
    """A loop as the package has it: the loss of a batch counts as its weights do."""
    gradients = [[]]
    for step, window in enumerate(zip(*[iter(data(steps * accumulate, dtype))] * accumulate, strict=True)):
        total = 0.0
        optimizer.zero_grad()
        for place, batch in enumerate(window):
            x, y, weight = share_of(batch, strategy.group)
            strategy.synchronise(last=place == accumulate - 1)
            with strategy.autocast():
                loss = (functional.mse_loss(strategy.net(net)(x), y, reduction="none")[:, 0] * weight).sum()
            share = weight.sum().item()
            strategy.backward(loss, share)
            total += share
        strategy.unscale(optimizer)
        gradients = [part.grad for part in net.parameters() if part.grad is not None]
        torch._foreach_div_(list(map(shards.local, gradients)), strategy.whole(total))
        if norm is not None or value is not None:
            strategy.clip(gradients, norm, value)
        strategy.step(optimizer)
        if after is not None:
            after(step)
    strategy.settle(net)


def whole(tensors):
    """Tensors as they are when all processes put their parts together."""
    return {name: (t.full_tensor() if shards.is_shard(t) else t).detach().clone() for name, t in tensors.items()}


def one_process(make, **options):
    net = new_net(dtype=options.get("dtype", torch.float64))
    train(kt.strategy.Strategy(), net, make(net.parameters()), **options)
    return whole(dict(net.named_parameters()))


def shared_out(make, options, strategy_options=None):
    strategy = new_strategy(strategy_options)
    net = new_net(seed=strategy.group.rank, dtype=options.get("dtype", torch.float64))  # only the main process has 0
    assert strategy.wrap(net) is net
    assert strategy.wrap(net) is net
    train(strategy, net, make(net.parameters()), **options)
    return whole(dict(net.named_parameters())), all(map(shards.is_shard, net.parameters()))


def largest_difference(found, expected):
    assert list(found) == list(expected)
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


ADAMW = functools.partial(torch.optim.AdamW, lr=1e-2)
SGD = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=0.1)
CASES = {
    "adamw": (ADAMW, {}),
    "fused adamw": (functools.partial(ADAMW, fused=True), {}),
    "sgd": (SGD, {}),
    "accumulated": (ADAMW, {"accumulate": 3}),
    "clipped": (SGD, {"norm": 0.05}),
    "clipped by value": (SGD, {"value": 0.01, "accumulate": 2}),
    "float32": (SGD, {"norm": 0.5, "dtype": torch.float32}),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_one_process(name):
    make, options = CASES[name]
    expected = one_process(make, **options)
    assert largest_difference(dict(new_net().named_parameters()), expected) > 1e-3
    for found, are_shards in each(shared_out, make, options):
        difference = largest_difference(found, expected)
        print(f"{name}: {difference:.1e}")
        assert difference < (1e-5 if options.get("dtype") == torch.float32 else 1e-12)
        assert are_shards


KINDS = {
    "the whole net": FSDP(),
    "kept together": FSDP("blocks.*", reshard_after_forward=False),
    "by class": FSDP(nn.Linear),
    "several": FSDP([nn.LayerNorm, "blocks.0", nn.Sequential]),
}


@pytest.mark.parametrize("name", KINDS)
def test_numbers_do_not_depend_on_what_is_put_together(name):
    for found, _ in each(shared_out, ADAMW, {}, KINDS[name]):
        assert largest_difference(found, one_process(ADAMW)) < 1e-12


def test_three_processes():
    expected = one_process(ADAMW, accumulate=2, norm=0.05)
    for found, _ in each(shared_out, ADAMW, {"accumulate": 2, "norm": 0.05}, size=3):
        assert largest_difference(found, expected) < 1e-12


def steps_of_both_kinds(make):
    nets = []
    for _ in range(2):
        net = new_net()
        new_strategy().wrap(net)
        nets.append(net)
    ours, theirs = (make(net.parameters()) for net in nets)
    ours_step, jobs = updates.Updates(ours), []
    for step in range(4):
        for net in nets:
            torch.manual_seed(step)
            net(torch.randn(5, 4, dtype=torch.float64)).sum().backward()
        theirs.step()
        jobs.append(ours_step._jobs() is not None and ours_step._began)
        ours_step.step()
    same = all(
        torch.equal(a.to_local(), b.to_local()) for a, b in zip(*[net.parameters() for net in nets], strict=True)
    )
    return same, jobs


@pytest.mark.parametrize("make", [ADAMW, functools.partial(ADAMW, fused=True), SGD])
def test_quick_updates_of_parts_are_those_of_torch_to_the_last_bit(make):
    assert each(steps_of_both_kinds, make) == [(True, [False, True, True, True])] * 2


def odd_gradients():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    join(CPU)
    mesh = init_device_mesh("cpu", (2,))
    parameter = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    parameter.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.5)
    step = updates.Updates(optimizer)
    step.step()
    quick = [step._jobs() is not None]
    parameter.grad = distribute_tensor(torch.ones(4), mesh, [Replicate()])
    quick.append(step._jobs() is not None)
    parameter.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
    optimizer.state[parameter]["momentum_buffer"] = distribute_tensor(torch.ones(4), mesh, [Replicate()])
    quick.append(step._jobs() is not None)
    return quick


def test_what_lies_otherwise_than_its_parameter_goes_the_ordinary_way():
    assert each(odd_gradients) == [[True, False, False]] * 2


def clips_mixtures():
    strategy = new_strategy()
    net = new_net()
    strategy.wrap(net)
    net(torch.randn(3, 4, dtype=torch.float64)).sum().backward()
    gradients = [part.grad for part in net.parameters()]
    extra = torch.full((3,), 2.0, dtype=torch.float32)
    every = torch.cat([*[gradient.full_tensor().flatten() for gradient in gradients], extra.double()])
    norm = updates.clip_norm([*gradients, extra], 0.5)
    after = torch.cat([*[gradient.full_tensor().flatten() for gradient in gradients], extra.double()])
    return (norm - every.norm()).abs().item(), (after - every * (0.5 / every.norm())).abs().max().item()


def test_clip_takes_whole_tensors_and_parts_together():
    for of_norm, of_gradients in each(clips_mixtures):
        assert of_norm < 1e-6  # the norm of a tensor in float32 is in float32
        assert of_gradients < 1e-5


def partial_norms():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate

    join(CPU)
    mesh = init_device_mesh("cpu", (2,))
    summands = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    copies = DTensor.from_local(torch.ones(4), mesh, [Replicate()])
    huge = DTensor.from_local(torch.full((1,), 1e30), mesh, [Replicate()])
    return torch.stack(shards.norms([summands, copies, torch.ones(9), huge])).tolist()


def test_norms_count_each_number_once():
    assert each(partial_norms) == [[4.0, 2.0, 3.0, pytest.approx(1e30)]] * 2


def averages():
    strategy = new_strategy()
    strategy.wrap(net := new_net())
    kept = Averages(net, statistics=True)
    train(strategy, net, ADAMW(net.parameters()), after=lambda _: kept.update(0.1))
    before = [part.to_local().clone() for part in net.parameters()]
    mine = list(net.parameters())
    x = torch.ones(2, 4, dtype=torch.float64)
    kept.put_in()
    net.eval()
    with torch.no_grad():
        shown = net(x)
    found = whole(dict(net.named_parameters()))
    state = copy.deepcopy(kept.state_dict())
    kept.take_out()
    with torch.no_grad():
        own = net(x)
    back = all(torch.equal(a.to_local(), b) for a, b in zip(net.parameters(), before, strict=True))
    same = all(a is b for a, b in zip(net.parameters(), mine, strict=True))
    kept.load_state_dict(state)
    kept.take_out()
    return found, shown, own, back and same, [type(value).__name__ for value in state["raw"].values()]


def test_averages_are_those_of_one_process_and_take_the_place_of_the_weights():
    net = new_net()
    kept = Averages(net, statistics=True)
    train(kt.strategy.Strategy(), net, ADAMW(net.parameters()), after=lambda _: kept.update(0.1))
    x = torch.ones(2, 4, dtype=torch.float64)
    own = net(x)
    kept.put_in()
    for found, shown, own_shown, back, kinds in each(averages):
        assert largest_difference(found, dict(net.named_parameters())) < 1e-12
        assert torch.allclose(shown, net(x), atol=1e-12)
        assert torch.allclose(own_shown, own, atol=1e-12)  # not those that were put together for the forward before
        assert back
        assert set(kinds) == {"DTensor"}


def left_out():
    """A batch whose loss is not used, and then a step: its parameters must not be taken for the new ones."""
    strategy = new_strategy()
    strategy.wrap(net := new_net())
    optimizer = SGD(net.parameters())
    x = torch.ones(2, 4, dtype=torch.float64)
    strategy.backward(net(x).sum(), 1.0)
    net(x)
    gradients = [part.grad is not None for part in net.parameters() if shards.is_shard(part)]
    strategy.step(optimizer)
    expected = new_net()
    expected(x).sum().backward()
    SGD(expected.parameters()).step()
    return len(gradients), (net(x) - expected(x)).abs().max().item()


def test_a_batch_that_is_left_out_spoils_nothing():
    for _, difference in each(left_out):
        assert difference < 1e-12


def looked_at():
    strategy = new_strategy()
    strategy.wrap(net := new_net())
    rank = strategy.group.rank
    found = [health.first_lost(net)]
    with torch.no_grad():
        net.blocks[1][0].weight.to_local()[...] = float("nan") if rank == 1 else 0.5
    found.append(health.first_lost(net))
    net.register_buffer("mask", torch.tensor([float("inf")]))
    found.append(health.first_nonfinite(dict(net.named_parameters())))
    return found


def test_all_processes_see_what_is_not_finite_in_one_of_them():
    assert each(looked_at) == [[None, "blocks.1.0.weight", "blocks.1.0.weight"]] * 2


def tried():
    strategy = new_strategy()
    strategy.wrap(net := new_net())
    optimizer = ADAMW(net.parameters())
    train(strategy, net, optimizer, steps=2)
    before = whole(dict(net.named_parameters()))
    with rollback.rolled_back([net], [optimizer], None):
        train(strategy, net, optimizer, steps=2)
        inside = whole(dict(net.named_parameters()))
    after = whole(dict(net.named_parameters()))
    train(strategy, net, optimizer, steps=2)
    return before, inside, after, whole(dict(net.named_parameters()))


def test_a_trial_is_undone():
    for before, inside, after, again in each(tried):
        assert largest_difference(after, before) == 0
        assert largest_difference(inside, before) > 1e-3
        assert largest_difference(again, inside) == 0  # the state of the optimizer came back too


def frozen():
    strategy = new_strategy()
    strategy.wrap(net := new_net())
    before = whole(dict(net.named_parameters()))
    parameters.freeze(net, "blocks.0", "head.bias")
    optimizer = ADAMW([part for part in net.parameters() if part.requires_grad])
    train(strategy, net, optimizer, steps=2)
    middle = whole(dict(net.named_parameters()))
    parameters.unfreeze(net)
    train(strategy, net, ADAMW(net.parameters()), steps=2)
    after = whole(dict(net.named_parameters()))
    return [
        {name for name in before if not torch.equal(old[name], new[name])}
        for old, new in ((before, middle), (middle, after))
    ]


def test_frozen_parts_stay_and_are_trained_later():
    names = {name for name, _ in Net().named_parameters()}
    held = {"blocks.0.0.weight", "blocks.0.0.bias", "head.bias"}
    assert each(frozen) == [[names - held, names]] * 2


def summed_up():
    strategy = new_strategy()
    strategy.wrap(net := new_net())
    lines = []
    summary(net, (4,), print_fn=lines.append)
    return lines[0], all(map(shards.is_shard, net.parameters()))


def test_the_summary_is_that_of_the_plain_net():
    lines = []
    summary(new_net(), (4,), print_fn=lines.append)
    assert each(summed_up) == [(lines[0], True)] * 2


class Stats(nn.Module):
    """A layer with a buffer, and with a reset that needs its parts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, dtype=torch.bool))
        self.attention = nn.MultiheadAttention(4, 2)
        self.reset_parameters()

    def reset_parameters(self):
        self.seen.fill_(True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def from_nothing(kind):
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else 3)
    strategy = new_strategy(FSDP(wrap="first"))
    torch.manual_seed(strategy.group.rank)
    with torch.device("meta"):
        net = nn.Sequential()
        net.add_module("first", Stats())
        net.add_module("norm", nn.BatchNorm1d(4))
        net.add_module("second", nn.Linear(4, 4))
        net.add_module("third", nn.Linear(4, 4))
        net.third.weight = net.second.weight
        if kind == "without reset":
            net.own = nn.Module()
            net.own.weight = nn.Parameter(torch.ones(3))
    strategy.wrap(net)
    net(torch.randn(3, 4)).sum().backward()
    tied = net.third.weight is net.second.weight
    return tied, whole(net.state_dict()), [part.is_meta for part in net.state_dict().values()]


def test_a_net_on_meta_gets_the_same_numbers_everywhere():
    (tied, first, metas), (_, second, _) = each(from_nothing, "with reset")
    assert tied
    assert not any(metas)
    assert first["first.seen"].all()
    assert first["second.weight"].std() > 0.1
    for name in ("second.weight", "first.attention.in_proj_weight", "norm.weight"):
        assert torch.equal(first[name], second[name])


def test_a_net_on_meta_needs_a_reset():
    with pytest.raises(Exception, match=r"Module\.weight is on the device 'meta', and Module has no method reset"):
        each(from_nothing, "without reset")


def halves(convolutions):
    strategy = new_strategy(FSDP(nn.Sequential), "bf16-mixed")
    torch.manual_seed(0)
    net = convolution() if convolutions else Net()
    strategy.wrap(net)
    strategy.begin(net, CPU)
    optimizer = ADAMW(net.parameters())
    torch.manual_seed(1)
    x = torch.randn(8, 3, 8, 8) if convolutions else torch.randn(8, 4)
    losses = []
    for _ in range(5):
        with strategy.autocast():
            loss = net(x).float().square().mean()
        strategy.backward(loss)
        strategy.step(optimizer)
        optimizer.zero_grad()
        losses.append(loss.item())
    kinds = {part.dtype for part in net.parameters()} | {
        part.dtype for part in optimizer.state[next(net.parameters())].values()
    }
    return losses, kinds


def convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("convolutions", [True, False])
def test_mixed_precision_keeps_weights_and_optimizer_in_32_bits(convolutions):
    torch.manual_seed(0)
    net = convolution() if convolutions else Net()
    torch.manual_seed(1)
    x = torch.randn(8, 3, 8, 8) if convolutions else torch.randn(8, 4)
    optimizer, expected = ADAMW(net.parameters()), []
    for _ in range(5):
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    for losses, kinds in each(halves, convolutions):
        assert losses == pytest.approx(expected, rel=0.05)
        assert kinds == {torch.float32}


def true_halves():
    strategy = new_strategy(precision="bf16-true")
    strategy.wrap(net := Net())
    strategy.begin(net, CPU)
    optimizer = ADAMW(net.parameters())
    strategy.backward(net(strategy.inputs(torch.ones(2, 4))).sum())
    strategy.step(optimizer)
    return {part.dtype for part in net.parameters()}


def test_all_of_it_in_16_bits():
    assert each(true_halves) == [{torch.bfloat16}] * 2


def refusals():
    found = []
    strategy = new_strategy(FSDP("blocks.*"))
    net = nn.Sequential(nn.LazyLinear(3))
    tied = new_net()
    tied.blocks[0][0].weight = tied.blocks[1][0].weight
    plain = new_net()
    optimizer = ADAMW(plain.parameters())
    strategy.wrap(plain)
    attempts = (
        lambda: strategy.wrap(net),
        lambda: strategy.wrap(tied),
        lambda: new_strategy(FSDP("block.*")).wrap(new_net()),
        lambda: new_strategy(FSDP(nn.Conv2d)).wrap(new_net()),
        lambda: checks.optimizer_fits(optimizer, plain),
    )
    for attempt in attempts:
        with pytest.raises(ValueError) as caught:
            attempt()
        found.append(str(caught.value))
    return found


def test_what_cannot_be_shared_out_is_said():
    lazy, tied, pattern, kind, optimizer = each(refusals)[0]
    assert lazy.startswith("FSDP needs to know the shapes of all layers, and some are lazy.")
    assert tied.startswith("'blocks.0.0.weight' and 'blocks.1.0.weight' are one parameter, but FSDP would put")
    assert "wrap='block.*' matches no layer. Did you mean 'blocks.*'?" in pattern
    assert kind == (
        "wrap=<class 'torch.nn.modules.conv.Conv2d'> matches no module of the net. Type a class that print(net) shows, "
        "or names of its modules, such as wrap='blocks.*'."
    )
    assert optimizer == (
        "FSDP puts others in the place of the parameters that the optimizer AdamW was built from. Give compile what "
        "builds it later: optimizer=functools.partial(torch.optim.AdamW, lr=...), a name such as 'adamw', or a "
        "function of the parameters."
    )


@pytest.mark.parametrize(
    ("options", "precision", "channels_last", "message"),
    [
        (FSDP(), "16-mixed", False, "no precision='16-mixed'"),
        (FSDP(), "32-true", True, "channels_last=True has no effect"),
        (FSDP(offload=True), "32-true", False, "on the CPU, where they are already"),
    ],
)
def test_what_does_not_go_together_is_refused(options, precision, channels_last, message):
    with pytest.raises(ValueError, match=message):
        Fsdp(options, Group(), CPU, precision, channels_last=channels_last)


def test_one_process_trains_as_ever():
    strategy = Fsdp(FSDP("blocks.*"), Group(), CPU)
    net = strategy.wrap(new_net())
    assert not isinstance(net, FSDPModule)
    train(strategy, net, ADAMW(net.parameters()), norm=0.1, accumulate=2)
    assert largest_difference(dict(net.named_parameters()), one_process(ADAMW, norm=0.1, accumulate=2)) == 0
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    assert not strategy.wrap(empty).weight.is_meta
    copied = copy.deepcopy(strategy)
    assert copied._module is None


def wholes():
    strategy = new_strategy()
    rank = strategy.group.rank
    return strategy.whole(1.0 + rank), strategy.whole(torch.tensor(3 * rank)), strategy.whole(rank)


def test_the_mean_of_what_counts():
    assert each(wholes) == [(1.5, 1.5, 0.5)] * 2


def evaluated():
    strategy = new_strategy(FSDP("blocks.*", reshard_after_forward=False))
    strategy.wrap(net := new_net())
    again = new_strategy()
    again.wrap(net)  # compiled anew: it is shared out already
    with isolate.evaluation(net):
        net(torch.ones(2, 4, dtype=torch.float64))
    here = sum(shards.local(part).numel() for part in net.parameters())
    everywhere = sum(part.numel() for part in net.parameters())
    return all(map(shards.is_shard, net.parameters())), len(net._forward_hooks), here / everywhere


def test_after_an_evaluation_parameters_can_be_read():
    results = each(evaluated)
    assert [are_shards for are_shards, _, _ in results] == [True, True]
    assert results[0][1] == 2  # that of FSDP, and ours once
    assert sum(part for _, _, part in results) == 1
    assert max(part for _, _, part in results) < 0.55
