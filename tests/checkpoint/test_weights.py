import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import checkpoint
from kerastorch.errors import CheckpointError


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tied_weights_survive(tmp_path, suffix):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    path = tmp_path / f"a.{suffix}"
    checkpoint.save_weights(net.state_dict(), path)
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    checkpoint.load_into(other, checkpoint.load(path), path)
    assert torch.equal(other[1].weight, net[0].weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    net, source = nn.Linear(2, 2), nn.Linear(2, 2)
    checkpoint.load_into(net, {prefix + name: value for name, value in source.state_dict().items()}, "a.pt")
    assert torch.equal(net.weight, source.weight)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_plain_weights_load_into_a_compiled_or_parallel_net_and_back(wrap):
    other, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    wrapped = wrap(nn.Linear(2, 2))
    checkpoint.load_into(wrapped, plain.state_dict(), "a.pt")
    checkpoint.load_into(other, wrapped.state_dict(), "a.pt")
    assert torch.equal(other.weight, plain.weight)


def test_weights_load_into_a_lazy_net():
    lazy, plain = nn.LazyLinear(2), nn.Linear(3, 2)
    checkpoint.load_into(lazy, plain.state_dict(), "a.pt")
    assert torch.equal(lazy.weight, plain.weight)


def test_names_that_differ_are_listed_and_the_net_is_as_it_was():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    before = [parameter.clone() for parameter in net.parameters()]
    weights = {"0.weight": torch.zeros(2, 2), "extra": torch.zeros(1)}
    expected = (
        r"a\.pt does not fit Sequential\. 7 not in the file: 0\.bias, 1\.bias, 1\.weight, 2\.bias, 2\.weight and 2 "
        r"more\. 1 not in the net: extra\."
    )
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load_into(net, weights, "a.pt")
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), before, strict=True))
    checkpoint.load_into(net, weights, "a.pt", strict=False)
    assert torch.equal(net[0].weight, torch.zeros(2, 2))
    assert torch.equal(net[1].weight, before[2])


def test_weights_of_quite_another_net_are_told_from_a_few_that_differ():
    with pytest.raises(
        CheckpointError, match=r"a\.pt does not fit Linear: no name agrees\. It has a, the net has bias\."
    ):
        checkpoint.load_into(nn.Linear(1, 1), {"b": torch.zeros(1), "a": torch.zeros(1)}, "a.pt")


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_weights_are_found_in_a_training_state(key):
    weights = {"weight": torch.zeros(1)}
    assert checkpoint.weights_in({key: weights, "epoch": 3}) is weights
    assert checkpoint.weights_in(weights) is weights


def test_safetensors_are_marked_as_those_of_torch(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    checkpoint.save_weights({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "kerastorch": kt.__version__}
