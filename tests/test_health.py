import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kerastorch import health
from kerastorch.health import LateLosses, Sighting, Statistics, first_lost, first_nonfinite, is_loss

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_tensor_is_named(dtype, bad):
    named = {name: torch.ones(3, 4).to(dtype) for name in "abcd"}
    assert first_nonfinite(named) is None
    named["d"][0, 0] = bad
    assert first_nonfinite(named) == "d"
    named["b"][2, 3] = bad
    assert first_nonfinite(named) == "b"


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_numbers_whose_norm_overflows_are_finite(dtype):
    most = torch.full((100,), torch.finfo(dtype).max, dtype=dtype)
    assert first_nonfinite({"a": most, "b": -most}) is None
    assert first_nonfinite({"a": most, "b": torch.tensor(math.nan)}) == "b"


def test_what_holds_no_floats_is_finite():
    named = {"empty": torch.empty(0, 3), "whole": torch.tensor([1, 2]), "mask": torch.tensor([True])}
    named |= {"meta": torch.empty(3, device="meta"), "small": torch.zeros(3).to(torch.float8_e4m3fn)}
    assert first_nonfinite(named) is None
    assert first_nonfinite({}) is None


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_sparse_tensors_are_looked_into():
    dense = torch.tensor([[0.0, 1.0], [math.nan, 0.0]])
    assert first_nonfinite({"a": torch.eye(2).to_sparse(), "b": dense.to_sparse()}) == "b"
    assert first_nonfinite({"a": torch.eye(2).to_sparse_csr(), "b": dense.to_sparse_csr()}) == "b"


@given(st.lists(st.lists(st.floats(width=32), max_size=4), max_size=5))
def test_it_is_what_isfinite_says(rows):
    named = {str(place): torch.tensor(row, dtype=torch.float32) for place, row in enumerate(rows)}
    assert first_nonfinite(named) == next((name for name, row in named.items() if not row.isfinite().all()), None)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.prior = nn.Parameter(torch.tensor([-math.inf]), requires_grad=False)


def test_a_mask_is_infinite_on_purpose_and_a_weight_is_not():
    net = Masked()
    assert first_lost(net) is None
    net.norm.running_var[1] = math.nan
    assert first_lost(net) == "norm.running_var"
    with torch.no_grad():
        net.layer.bias[0] = math.inf
    assert first_lost(net) == "layer.bias"
    net = Masked()
    net.prior[0] = math.nan
    assert first_lost(net) == "prior"


@pytest.mark.parametrize(("name", "truth"), [("loss", True), ("a_loss", True), ("val", False), ("lossy", False)])
def test_a_loss_is_told_by_its_name(name, truth):
    assert is_loss(name) is truth


def batch(value=None):
    x = torch.randn(8, 2)
    return x if value is None else torch.full_like(x, value)


def test_statistics_come_back_after_any_batch():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.register_buffer("mask", torch.ones(2))
    statistics = Statistics()
    for _ in range(4):
        statistics.keep(net)
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        net(batch(math.nan))
        assert first_lost(net) == "0.running_mean"
        statistics.restore()
        assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
        statistics.keep(net)
        net(batch())
        assert len(statistics._copies) == 6


def test_only_buffers_that_change_are_copied_after_the_first_batch(monkeypatch):
    copies = []
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *tensors: copies.append(tensors))
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.ones(2))
    statistics = Statistics()
    for _ in range(3):
        statistics.keep(net)
        net(batch())
    assert copies == []
    statistics.restore()


def test_statistics_that_are_made_in_the_first_batch_are_kept_from_then_on():
    net = nn.LazyBatchNorm1d()
    statistics = Statistics()
    for _ in range(2):
        statistics.restore()
        statistics.keep(net)
        net(batch())
    assert len(statistics._copies) == 3


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_statistics_of_a_script_are_left_alone():
    statistics = Statistics()
    statistics.keep(torch.jit.script(nn.BatchNorm1d(2)))
    statistics.restore()


def at(batch):
    return Sighting("loss", 0, batch, 0.1)


class Device:
    """Hands copies over when it is told to, as an accelerator with a long queue does."""

    def __init__(self, monkeypatch):
        self.queue = []
        monkeypatch.setattr(health, "_send", lambda value, cell: self.queue.append((value.clone(), cell)))

    def work(self, count):
        for value, cell in self.queue[:count]:
            cell.copy_(value)
        del self.queue[:count]

    def loss(self, value):
        device = self

        class Loss(torch.Tensor):
            def item(self):  # waits
                device.work(len(device.queue))
                return value

        return torch.tensor(value).as_subclass(Loss)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_loss_that_has_arrived_is_seen(dtype):
    late = LateLosses(4)
    for step in range(10):
        late.note(torch.tensor(float(step), dtype=dtype, requires_grad=True), at(step))
        assert late.look() is None
    late.note(torch.tensor(math.inf, dtype=dtype), at(10))
    late.note(torch.tensor(math.nan, dtype=dtype), at(11))
    assert late.look() == (at(10), math.inf)
    assert late.look() == (at(10), math.inf)


def test_large_numbers_in_float64_are_finite():
    late = LateLosses()
    late.note(torch.tensor(1e300, dtype=torch.float64), at(0))
    assert late.look() is None


def test_a_loss_is_seen_when_it_arrives_and_by_its_own_batch(monkeypatch):
    device, late = Device(monkeypatch), LateLosses(8)
    for step, value in enumerate([1.0, 2.0, math.nan, math.inf]):
        late.note(device.loss(value), at(step))
        assert late.look() is None
    device.work(2)
    assert late.look() is None
    device.work(1)
    sighting, value = late.look()
    assert sighting == at(2)
    assert math.isnan(value)


def test_a_place_is_not_used_again_before_its_loss_was_seen(monkeypatch):
    device, late = Device(monkeypatch), LateLosses(3)
    for step, value in enumerate([1.0, math.nan, 3.0, 4.0, 5.0]):
        late.note(device.loss(value), at(step))
    assert late.look()[0] == at(1)


@pytest.mark.parametrize("bad", [None, 0, 4])
def test_waiting_reads_all(monkeypatch, bad):
    device, late = Device(monkeypatch), LateLosses(8)
    late.wait()
    for step in range(5):
        late.note(device.loss(math.nan if step == bad else 1.0), at(step))
    late.wait()
    assert device.queue == []
    found = late.look()
    assert (None if found is None else found[0]) == (None if bad is None else at(bad))


def test_a_loss_that_is_the_number_for_not_there_yet_holds_up_nothing():
    late = LateLosses()
    for step, value in enumerate([-torch.finfo(torch.float32).tiny, math.nan]):
        late.note(torch.tensor(value), at(step))
    assert late.look() is None
    late.wait()
    assert late.look()[0] == at(1)
