import copy

import pytest
import torch
from torch import nn

import kerastorch as kt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    model = kt.Model(net)
    model.compile("cross_entropy", torch.optim.Adam(net.parameters(), lr=0.01), device="cuda")
    return model


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator)
    return x, x[:, :3].argmax(1)


@pytest.mark.parametrize("fitted", [False, True], ids=["on the CPU", "on the GPU"])
def test_the_net_and_the_optimizer_are_back_where_they_were(fitted):
    model = make()
    if fitted:
        model.fit(1, data(), batch_size=16, verbose=0)
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(model.optimizer.state_dict()["state"])
    drawn = torch.cuda.get_rng_state()
    model.find_lr(data(), batch_size=16, steps=30)
    assert torch.equal(torch.cuda.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert value.device == weights[name].device
        assert torch.equal(value, weights[name])
    after = model.optimizer.state_dict()["state"]
    assert after.keys() == state.keys()
    for number, values in state.items():
        assert all(torch.equal(after[number][name], value) for name, value in values.items())


def test_fit_afterwards_equals_fit_without_it():
    results = []
    for searched in (True, False):
        model = make()
        torch.manual_seed(3)
        if searched:
            model.find_lr(data(), batch_size=16, steps=30)
        model.fit(2, data(), batch_size=16, verbose=0)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
