import copy
import pickle
from types import MethodType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from kerastorch.updates import Updates

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
UNSTEADY = torch.__version__.startswith("2.6.")  # its fused SGD of 16 bits rounds as its memory happens to lie
SHAPES = [(), (0,), (1,), (3,), (5, 7), (2, 3, 4, 5), (33, 65)]


def parameters(shapes, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    made = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    for parameter in made:
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        elif parameter.dim() == 2:
            parameter.data = parameter.data.t()
    return made


class Twins:
    """One optimizer of which `Updates` takes the steps, and one with steps of its own."""

    def __init__(self, make, shapes=((5, 7), (7,), ()), dtype=torch.float32):
        self.sides = [parameters(shapes, dtype), parameters(shapes, dtype)]
        self.optimizers = [make(side) for side in self.sides]
        self.updates = Updates(self.optimizers[0])
        self.random = torch.Generator().manual_seed(7)
        self.ordinary = 0

    def gradients(self, missing=()):
        for place, (one, other) in enumerate(zip(*self.sides, strict=True)):
            gradient = torch.randn(one.shape, generator=self.random).to(one.dtype)
            one.grad = None if place in missing else gradient
            other.grad = None if place in missing else gradient.clone()

    def step(self, missing=(), quick=None):
        self.gradients(missing)
        self.take()
        if quick is not None:
            assert (self.ordinary == 0) is quick

    def take(self):
        kind = type(self.optimizers[0])
        original, self.ordinary = kind._init_group, 0

        def counting(*args, **kwargs):
            self.ordinary += 1
            return original(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:  # what every ordinary step calls
            patch.setattr(kind, "_init_group", counting)
            self.updates.step()
        self.optimizers[1].step()
        self.check()

    def check(self):
        for one, other in zip(*self.sides, strict=True):
            same(one.detach(), other.detach())
            same(one.grad, other.grad)
        same(*[optimizer.state_dict() for optimizer in self.optimizers])
        for one, other in zip(*self.sides, strict=True):
            same(*[dict(o.state.get(p, {})) for o, p in zip(self.optimizers, (one, other), strict=True)])

    def both(self, change):
        for optimizer in self.optimizers:
            change(optimizer)


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.stride() == other.stride() and one.device == other.device
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
        assert torch.equal(one.isnan(), other.isnan())
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    else:
        assert one == other


@st.composite
def factories(draw):
    weight_decay = draw(st.sampled_from([0, 0.0, 0.1]))
    how = draw(st.sampled_from([{}, {"fused": True}, {"foreach": True}, {"foreach": False}, {"fused": False}]))
    common = {"lr": draw(st.sampled_from([0.1, 1e-3, 1])), "weight_decay": weight_decay, **how}
    kind = draw(st.sampled_from([Adam, AdamW, SGD]))
    if kind is not SGD:
        options = {**common, "betas": draw(st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.99, 0.0)]))}
        return kind, options | {"eps": draw(st.sampled_from([1e-8, 0.1]))}
    momentum = draw(st.sampled_from([0, 0.9, 0.5]))
    nesterov = draw(st.booleans()) and momentum > 0
    dampening = 0 if nesterov else draw(st.sampled_from([0, 0.3]))
    return kind, {**common, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}


SCHEDULERS = {
    "none": None,
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
}
NOTHING = ["nothing"] * 4
EVENTS = [*NOTHING, "load", "lr", "weight_decay", "missing", "pickle", "clear", "momentum"]


def happen(twins, kind, event):
    if event == "load":
        twins.both(lambda optimizer: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())))
    elif event == "pickle":
        twins.both(lambda optimizer: optimizer.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict()))))
    elif event in ("lr", "weight_decay"):
        twins.both(lambda optimizer: optimizer.param_groups[-1].update({event: 0.05}))
    elif event == "clear":
        twins.both(lambda optimizer: optimizer.state.clear())
    elif event == "momentum":
        options = {"momentum": 0.0, "nesterov": False} if kind is SGD else {"betas": (0.8, 0.99)}
        twins.both(lambda optimizer: optimizer.param_groups[0].update(options))


@settings(max_examples=150, deadline=None)
@given(
    factory=factories(),
    dtype=st.sampled_from(DTYPES),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5),
    split=st.booleans(),
    scheduler=st.sampled_from(sorted(SCHEDULERS)),
    events=st.lists(st.sampled_from(EVENTS), min_size=20, max_size=20),
)
def test_every_step_leaves_what_the_ordinary_one_leaves(factory, dtype, shapes, split, scheduler, events):
    kind, options = factory
    if UNSTEADY and kind is SGD and options.get("fused"):
        dtype = torch.float32

    def make(side):
        if not split or len(side) < 2:
            return kind(side, **options)
        return kind([{"params": side[:1], "lr": 0.02}, {"params": side[1:], "weight_decay": 0.01}], **options)

    twins = Twins(make, shapes, dtype)
    schedulers = [SCHEDULERS[scheduler](optimizer) for optimizer in twins.optimizers if SCHEDULERS[scheduler]]
    for event in events:
        happen(twins, kind, event)
        twins.step(missing=(0, 3) if event == "missing" else ())
        for each in schedulers:
            each.step()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", [{}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize("kind", [Adam, AdamW, SGD])
def test_the_second_step_is_quick(kind, how, dtype):
    if UNSTEADY and kind is SGD and "fused" in how and dtype.itemsize == 2:
        pytest.skip("Two ordinary optimizers differ.")
    options = {"momentum": 0.9, "nesterov": True} if kind is SGD else {}
    twins = Twins(lambda side: kind(side, lr=0.1, weight_decay=0.01, **options, **how), SHAPES, dtype)
    twins.step(quick=False)
    for _ in range(20):
        twins.step(quick=bool(how) or dtype.itemsize > 2)


@pytest.mark.parametrize("factory", [Adam, lambda side: SGD(side, lr=0.1, momentum=0.9)])
def test_large_tensors_are_taken_in_pieces(factory):
    twins = Twins(factory, [(10,), (300, 300), (2, 5), (200, 200), (100, 200), (40, 200), (3,), (0,)])
    twins.step()
    for _ in range(3):
        twins.step(quick=True)


def test_parameters_that_have_had_different_numbers_of_steps():
    twins = Twins(Adam)
    for missing in [(), (0,), (0, 2), (), (1,)]:
        twins.step(missing)
    twins.step(quick=True)


def test_a_step_without_any_gradient_changes_nothing():
    twins = Twins(Adam)
    twins.step()
    twins.step(missing=(0, 1, 2), quick=True)
    twins.step(quick=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.add_param_group({"params": parameters([(4,)], seed=3), "lr": 0.5}),
        lambda o: o.param_groups[0].update(amsgrad=True),
        lambda o: o.param_groups[0].update(maximize=True),
        lambda o: o.param_groups[0].update(lr=torch.tensor(0.1)),
        lambda o: o.param_groups[0].update(weight_decay=torch.tensor(0.1)),
        lambda o: o.param_groups[0].update(fused=True),
        lambda o: o.state.pop(o.param_groups[0]["params"][1]),
        lambda o: o.state.pop(o.param_groups[0]["params"].pop(0)),
        lambda o: o.param_groups[0]["params"][0].requires_grad_(False),
        lambda o: [state["step"].fill_(9) for state in o.state.values()],
        lambda o: [state.update(exp_avg=torch.ones_like(state["exp_avg"])) for state in o.state.values()],
        lambda o: setattr(o.param_groups[0]["params"][0], "data", torch.ones(3, 2)) or o.state.clear(),
        lambda o: setattr(o.param_groups[0]["params"][0], "data", torch.ones(3, 2).double()) or o.state.clear(),
    ],
)
def test_changes_in_the_middle_are_noticed(change):
    twins = Twins(Adam)
    twins.step()
    twins.step(quick=True)
    twins.both(change)
    for optimizer in twins.optimizers if len(twins.optimizers[0].param_groups) > 1 else ():
        optimizer.param_groups[1]["params"][0].grad = torch.ones(4)
    if twins.optimizers[0].param_groups[0]["amsgrad"]:
        twins.both(lambda optimizer: optimizer.state.clear())
    for _ in range(4):
        twins.step()


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda side: Adam(side, amsgrad=True), [(3, 4)]),
        (lambda side: Adam(side, maximize=True), [(3, 4)]),
        (lambda side: SGD(side, maximize=True), [(3, 4)]),
        (lambda side: SGD(side, lr=torch.tensor(0.1)), [(3, 4)]),
        (lambda side: Adam(side, lr=torch.tensor(0.1)), [(3, 4)]),
        (lambda side: Adam([parameter.data for parameter in side]), [(3, 4)]),
        (lambda side: SGD(side, foreach=True), [(3, 4)]),
        (RMSprop, [(3, 4)]),
        (type("Own", (Adam,), {}), [(3, 4)]),
    ],
)
def test_what_other_optimizers_do(make, shapes):
    twins = Twins(make, shapes)
    for _ in range(4):
        twins.step()


def test_dtypes_that_differ_within_a_group_and_complex_numbers_are_left_to_torch():
    for make in (Adam, lambda side: SGD(side, momentum=0.9)):
        twins = Twins(make)
        for side in twins.sides:
            side[0].data = side[0].data.double()
        for _ in range(3):
            twins.step(quick=False)
        twins = Twins(make, dtype=torch.complex64)
        for _ in range(3):
            twins.step(quick=False)


def test_sparse_gradients_are_left_to_torch():
    twins = Twins(lambda side: SGD(side, lr=0.1), [(4, 4)])
    twins.step()
    for side in twins.sides:
        side[0].grad = torch.eye(4).to_sparse()
    twins.updates.step()
    twins.optimizers[1].step()
    assert torch.equal(twins.sides[0][0], twins.sides[1][0])
    updates = Updates(Adam(twins.sides[0]))
    with pytest.raises(RuntimeError, match="sparse"):
        updates.step()


def test_a_default_dtype_of_64_bits_counts_in_64_bits():
    torch.set_default_dtype(torch.float64)
    try:
        twins = Twins(Adam, dtype=torch.float64)
        twins.step()
        twins.step(quick=True)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("register", ["register_step_pre_hook", "register_step_post_hook"])
def test_hooks_of_the_optimizer_are_called(register):
    twins, calls = Twins(Adam), []
    twins.step()
    handle = getattr(twins.optimizers[0], register)(lambda *_: calls.append(1))
    twins.step(quick=False)
    handle.remove()
    twins.step(quick=True)
    assert calls == [1]


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_hooks_of_all_optimizers_are_called(register):
    twins, calls = Twins(Adam), []
    twins.step()
    handle = register(lambda optimizer, *_: calls.append(optimizer))
    twins.step(quick=False)
    handle.remove()
    twins.step(quick=True)
    assert calls == twins.optimizers


def test_a_step_of_the_users_own_is_called():
    twins, calls = Twins(Adam), []
    twins.step()

    def own(optimizer):
        calls.append(optimizer)

    twins.optimizers[0].step = MethodType(own, twins.optimizers[0])
    twins.updates.step()
    lr_scheduler.StepLR(twins.optimizers[0], 1)  # wraps it
    twins.updates.step()
    twins.updates.step()
    assert len(calls) == 3


def test_a_step_patched_into_the_class_is_called(monkeypatch):
    updates, calls = Updates(Adam(parameters([(2,)]))), []
    updates.step()

    def patched(optimizer):
        calls.append(optimizer)

    monkeypatch.setattr(Adam, "step", patched)
    updates.step()
    assert calls == [updates.optimizer]


def test_a_scheduler_made_in_the_middle_sees_a_first_step_and_does_not_warn():
    twins = Twins(Adam)
    twins.step()
    schedulers = [lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9) for optimizer in twins.optimizers]
    twins.step(quick=False)
    for _ in range(6):
        for scheduler in schedulers:
            scheduler.step()  # warnings are errors here
        twins.step(quick=True)


def test_the_profiler_sees_the_ordinary_step():
    twins = Twins(Adam)
    twins.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        twins.gradients()
        twins.updates.step()
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


def test_what_a_gradient_scaler_leaves_for_a_fused_step_is_looked_at():
    twins = Twins(lambda side: Adam(side, fused=True))
    twins.step()
    for optimizer in twins.optimizers:
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(1.0)
    twins.step(quick=False)


def test_gradients_stay_on_and_updates_of_used_weights_are_noticed():
    twins = Twins(lambda side: SGD(side, lr=0.1), [(3,)])
    twins.step()
    weight = twins.sides[0][0]
    loss = (weight * weight).sum()
    twins.step(quick=True)
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_come_back_on_after_an_error():
    twins = Twins(lambda side: SGD(side, lr=0.1), [(3,)])
    twins.step()
    twins.optimizers[0].param_groups[0]["weight_decay"] = 0.1
    twins.sides[0][0].data = torch.ones(5)
    with pytest.raises(RuntimeError):
        twins.updates.step()
    assert torch.is_grad_enabled()


def test_a_checkpoint_made_without_fused_goes_on_without():
    twins = Twins(Adam)
    twins.step()
    content = twins.optimizers[0].state_dict()
    twins.optimizers[0] = Adam(twins.sides[0], fused=True)
    twins.updates = Updates(twins.optimizers[0])
    twins.optimizers[0].load_state_dict(copy.deepcopy(content))
    for quick in (False, True, True):
        twins.step(quick=quick)
