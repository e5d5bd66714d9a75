import contextlib
import copy
import pickle
import re
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import precision
from kerastorch.errors import NonFiniteError
from kerastorch.precision import Casting, check

CPU = torch.device("cpu")
ALL = ["32-true", "bf16-mixed", "16-mixed", "bf16-true"]
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def a_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(8, 1, 8, 8, generator=generator), torch.randint(3, (8,), generator=generator)


def begun(name):
    casting = Casting(name)
    casting.begin(CPU)
    return casting


def trained(net, casting, optimizer, *, window=1, count=6, ruined=(), unscales=True, updates=None):
    """Train as the loop does; the gradients of some batches are made infinite. Return which steps were made."""
    made = []
    for index, (x, y) in enumerate(batches(count)):
        with casting.autocast():
            loss = nn.functional.cross_entropy(net(casting.inputs(x)), y)
        casting.scaled(loss * torch.inf if index in ruined else loss).backward()
        if (index + 1) % window:
            continue
        if unscales:
            casting.unscale(optimizer)
        made.append(casting.step(optimizer, updates))
        optimizer.zero_grad()
    return made


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# names


@pytest.mark.parametrize("name", ALL)
def test_a_precision_has_a_name(name):
    assert check(name) == name
    assert repr(Casting(name)) == f"Casting({name!r})"
    assert Casting(name).precision == name


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("bf16", "bf16-mixed"),
        (torch.bfloat16, "bf16-mixed"),
        ("mixed_bfloat16", "bf16-mixed"),
        (16, "16-mixed"),
        ("fp16", "16-mixed"),
        ("FP16", "16-mixed"),
        (torch.float32, "32-true"),
        ("bf16-mixd", "bf16-mixed"),
        ("bf16_true", "bf16-true"),
        ("xyz", None),
        (None, None),
    ],
)
def test_another_name_is_refused(spec, meant):
    hint = "" if meant is None else f" Did you mean {meant!r}?"
    said = f"Unknown precision {spec!r}.{hint} Known are '32-true', 'bf16-mixed', '16-mixed', 'bf16-true'."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        check(spec)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Casting(spec)


# full precision


def test_full_precision_is_whatever_the_net_is():
    net, casting = a_net().double(), begun("32-true")
    before = {name: (value, value.dtype) for name, value in net.named_parameters()}
    casting.convert(net)
    assert all(value is before[name][0] and value.dtype == before[name][1] for name, value in net.named_parameters())
    x = torch.ones(2)
    assert casting.inputs(x) is x
    assert casting.outputs(x) is x
    assert not casting.casts
    assert casting.scale == 1.0
    assert casting.state_dict() == {}
    casting.load_state_dict({"scaler": {"scale": 3.0}, "skipped": 1})
    assert casting.skipped == 0
    with casting.autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["32-true", "bf16-mixed"])
def test_training_is_that_of_a_loop_written_by_hand(name):
    net, other, casting = a_net(), a_net(), begun(name)
    optimizer = torch.optim.Adam(net.parameters())
    assert trained(net, casting, optimizer) == [True] * 6
    optimizer = torch.optim.Adam(other.parameters())
    for x, y in batches():
        with torch.autocast("cpu", torch.bfloat16, enabled=casting.casts):
            loss = nn.functional.cross_entropy(other(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert equal(net, other)
    assert {value.dtype for value in net.parameters()} == {torch.float32}
    assert casting.state_dict() == {}


# autocast


@pytest.mark.parametrize("name", MIXED)
def test_autocast_may_be_entered_again_inside_itself(name):
    casting, layer, x = begun(name), nn.Linear(2, 2), torch.ones(1, 2)
    assert casting.casts
    for _ in range(2):
        with casting.autocast():
            assert layer(x).dtype == MIXED[name]
            with casting.autocast():
                assert layer(x).dtype == MIXED[name]
            assert layer(x).dtype == MIXED[name]
        assert layer(x).dtype == torch.float32
    with contextlib.suppress(KeyError), casting.autocast(), casting.autocast():
        raise KeyError
    assert not torch.is_autocast_enabled("cpu")


def test_outputs_for_the_user_are_float32_under_mixed_precision():
    Pair = namedtuple("Pair", ["logits", "index"])
    output = Pair(torch.ones(2, dtype=torch.bfloat16), [torch.ones(2, dtype=torch.int64), None, "name"])
    found = begun("bf16-mixed").outputs(output)
    assert found.logits.dtype == torch.float32
    assert found.index[0] is output.index[0]
    assert found.index[1:] == [None, "name"]
    assert begun("bf16-true").outputs(output) is output


# gradients scaled


def scaled_by_hand(net, optimizer, *, window=1, count=6, ruined=()):
    scaler = torch.amp.GradScaler("cpu")
    for index, (x, y) in enumerate(batches(count)):
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(net(x), y)
        scaler.scale(loss * torch.inf if index in ruined else loss).backward()
        if (index + 1) % window == 0:
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return scaler


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("unscales", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_scaled_steps_are_those_of_a_loop_written_by_hand(window, unscales, fused):
    net, other, casting = a_net(), a_net(), begun("16-mixed")
    optimizer = torch.optim.Adam(net.parameters(), fused=fused)
    made = trained(net, casting, optimizer, window=window, ruined=[2], unscales=unscales)
    assert made == ([True, True, False, True, True, True] if window == 1 else [False, True])
    by_hand = torch.optim.Adam(other.parameters())  # fused, it counts skipped steps in another way
    scaler = scaled_by_hand(other, by_hand, window=window, ruined=[2])
    if fused:
        assert all(torch.allclose(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    else:
        assert equal(net, other)
    assert casting.skipped == 1
    assert casting.state_dict() == {"scaler": scaler.state_dict(), "skipped": 1}
    assert casting.scale == 32768.0
    assert casting.note() == (
        "16-mixed: a step was skipped, its gradients overflowed; the scale is now 32768. A few of these are usual."
    )


def test_gradients_are_what_they_are_between_unscale_and_step():
    net, other, casting = a_net(), a_net(), begun("16-mixed")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = next(batches())
    with casting.autocast():
        casting.scaled(nn.functional.cross_entropy(net(x), y)).backward()
    assert net[4].bias.grad.abs().max() > 100
    casting.unscale(optimizer)
    nn.functional.cross_entropy(other(x), y).backward()
    for one, its in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one.grad, its.grad, atol=2e-2)
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    clipped = net[4].bias.grad.clone()
    before = net[4].bias.detach().clone()
    assert casting.step(optimizer)
    assert torch.equal(net[4].bias, before - 0.1 * clipped)


@pytest.mark.parametrize("name", ["32-true", "16-mixed"])
def test_another_update_is_made_where_a_step_is_made(name):
    net, casting, calls = a_net(), begun(name), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = copy.deepcopy(net)
    made = trained(net, casting, optimizer, ruined=[1] if casting.casts else [], updates=lambda: calls.append(1))
    assert len(calls) == sum(made) == 6 - casting.skipped
    assert torch.equal(net[0].weight, before[0].weight)


def test_a_step_that_fails_leaves_nothing_behind():
    net, casting = a_net(), begun("16-mixed")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trained(net, casting, optimizer, ruined=[0])
    x, y = next(batches())
    casting.scaled(nn.functional.cross_entropy(net(x), y)).backward()
    casting.unscale(optimizer)  # and here a callback raises
    optimizer.zero_grad()
    other, its = copy.deepcopy(net), copy.deepcopy(casting)
    trained(net, casting, optimizer)
    trained(other, prepared(its), torch.optim.SGD(other.parameters(), lr=0.1))
    assert equal(net, other)
    assert casting.state_dict() == its.state_dict()
    assert casting.scale == 32768.0


def prepared(casting):
    casting.begin(CPU)
    return casting


def test_gradients_that_overflow_for_ever_end_the_training():
    net, casting = a_net(), begun("16-mixed")
    before = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    said = "16-mixed: the gradients overflow however small the scale is, now 0.00012207; the weights are those of the"
    with pytest.raises(NonFiniteError, match=f"^{re.escape(said)}"):
        trained(net, casting, optimizer, count=40, ruined=range(40))
    assert casting.skipped == 29
    assert all(torch.equal(one, its) for one, its in zip(net.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("early", [True, False])
def test_a_training_that_goes_on_equals_one_that_was_not_stopped(early):
    net, casting = a_net(), begun("16-mixed")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trained(net, casting, optimizer, ruined=[0, 3])
    state = casting.state_dict()
    twin, other = copy.deepcopy(net), Casting("16-mixed")
    if early:
        other.load_state_dict(state)
        assert other.state_dict() == state
    other.begin(CPU)
    if not early:
        other.load_state_dict(state)
    for one, its in ((net, casting), (twin, other)):
        trained(one, its, torch.optim.SGD(one.parameters(), lr=0.1), ruined=[1])
    assert equal(net, twin)
    assert casting.state_dict() == other.state_dict()
    assert other.skipped == 3


def test_a_state_of_another_precision_changes_nothing():
    casting = begun("16-mixed")
    casting.load_state_dict({})
    assert casting.scale == 65536.0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda casting: pickle.loads(pickle.dumps(casting))])
@pytest.mark.parametrize("name", ALL)
def test_a_copy_goes_on_by_itself(copied, name):
    net, casting = a_net(), begun(name)
    casting.convert(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trained(net, casting, optimizer, ruined=[0] if name == "16-mixed" else [])
    twin, other = copy.deepcopy(net), copied(casting)
    assert other.state_dict() == casting.state_dict()
    other.begin(CPU)
    for one, its in ((net, casting), (twin, other)):
        trained(one, its, torch.optim.SGD(one.parameters(), lr=0.1))
    assert equal(net, twin)
    assert other.state_dict() == casting.state_dict()


# all in bfloat16


def test_parameters_buffers_and_inputs_are_bfloat16():
    net, casting = a_net(), begun("bf16-true")
    parameters = list(net.parameters())
    casting.convert(net)
    assert all(one is other for one, other in zip(parameters, net.parameters(), strict=True))
    dtypes = {name: value.dtype for name, value in net.state_dict().items()}
    assert dtypes.pop("1.num_batches_tracked") == torch.int64
    assert set(dtypes.values()) == {torch.bfloat16}
    optimizer = torch.optim.Adam(net.parameters())
    assert trained(net, casting, optimizer) == [True] * 6
    assert optimizer.state[net[4].bias]["exp_avg"].dtype == torch.bfloat16
    assert not casting.casts


def test_inputs_that_are_no_floating_numbers_stay():
    casting = begun("bf16-true")
    packed = nn.utils.rnn.pack_sequence([torch.ones(2, 3)])
    inputs = {"x": torch.ones(2), "ids": torch.ones(2, dtype=torch.int64), "more": (packed, "name", None)}
    found = casting.inputs(inputs)
    assert found["x"].dtype == torch.bfloat16
    assert found["ids"] is inputs["ids"]
    assert found["more"][0].data.dtype == torch.bfloat16
    assert found["more"][1:] == ("name", None)
    assert begun("bf16-mixed").inputs(inputs) is inputs


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        ("bf16-true", torch.complex64, "The parameter 'phase' is complex64; complex numbers have no bfloat16."),
        ("16-mixed", torch.float16, "The parameter 'phase' is float16; its gradients cannot be scaled back in float16"),
    ],
)
def test_a_net_that_cannot_be_trained_so_is_refused(name, dtype, said):
    net = a_net()
    net.phase = nn.Parameter(torch.ones(2, dtype=dtype))
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        begun(name).convert(net)
    assert net[0].weight.dtype == torch.float32


# devices


@pytest.mark.parametrize("name", ALL)
def test_a_device_is_tried_out_once(name, monkeypatch):
    tried = []
    monkeypatch.setattr(precision, "_try_out", lambda *asked: tried.append(asked))
    casting = begun(name)
    context = casting.autocast()
    casting.begin(CPU)
    assert tried == ([] if name == "32-true" else [(name, CPU)])
    assert casting.autocast() is context


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
@pytest.mark.parametrize("name", ALL)
def test_trying_out_leaves_no_trace(name, mode):
    state = torch.get_rng_state()
    with mode():
        begun(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ALL[1:])
def test_a_device_that_cannot_is_refused(name):
    casting = Casting(name)
    said = f"precision={name!r} does not work on 'meta' with torch {torch.__version__}. Type precision='32-true'."
    if name == "bf16-true":
        casting.begin(torch.device("meta"))
        return
    with pytest.raises(ValueError, match=f"^{re.escape(said)} torch says: "):
        casting.begin(torch.device("meta"))
    assert not torch.is_autocast_enabled("cpu")


def test_autocast_that_only_warns_is_refused(monkeypatch):
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: real(device, torch.int8))
    with pytest.raises(ValueError, match=r"precision='bf16-mixed' does not work on 'cpu' with torch .* torch says: "):
        begun("bf16-mixed")


def test_autocast_to_another_type_is_refused(monkeypatch):
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: real(device, torch.float16))
    with pytest.raises(ValueError, match=r"torch says: autocast computes in torch\.float16, not in torch\.bfloat16$"):
        begun("bf16-mixed")


@pytest.mark.parametrize("name", ["bf16-mixed", "bf16-true"])
def test_a_gpu_without_bfloat16_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    said = f"precision={name!r}: the GPU Tesla T4 has no bfloat16. Type precision='16-mixed'."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Casting(name).begin(SimpleNamespace(type="cuda"))


def test_a_scaler_moves_to_another_device_with_its_scale(monkeypatch):
    casting, net = begun("16-mixed"), a_net()
    trained(net, casting, torch.optim.SGD(net.parameters(), lr=0.1), ruined=[0])
    casting.begin(torch.device("cpu", 0))
    assert casting.scale == 32768.0


class OwnStep(kt.Model):
    def train_step(self, batch):
        output = self(batch.x)
        loss = self.loss_func(output.float(), batch.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss, "is_half": float(output.dtype == torch.bfloat16)}


def test_a_step_of_ones_own_is_told_that_it_must_cast_itself():
    model = OwnStep(nn.Linear(4, 3))
    model.compile("cross_entropy", "adam", precision="bf16-mixed")
    with pytest.warns(
        UserWarning, match=r"precision is not used: train_step is your own.*precision by torch\.autocast\."
    ):
        history = model.fit(1, (torch.randn(8, 4), torch.arange(8) % 3), verbose=0)
    assert history["is_half"] == [0.0]


def test_a_step_of_ones_own_gets_what_a_net_of_bfloat16_takes():
    model = OwnStep(nn.Linear(4, 3))
    model.compile("cross_entropy", "adam", precision="bf16-true")
    data = torch.randn(8, 4), torch.arange(8) % 3
    assert model.fit(1, data, data, verbose=0)["is_half"] == [1.0]
