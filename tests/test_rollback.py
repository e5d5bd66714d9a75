"""Everything is put back, on every way out."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from kerastorch.rollback import generators_kept, rolled_back, with_own_workers


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net.register_buffer("nothing", None)
    net.register_buffer("hidden", torch.zeros(2), persistent=False)
    net.register_buffer("wide", torch.ones(1).expand(5))
    return net


def step(net, optimizer):
    net(torch.rand(8, 3)).square().mean().backward()
    optimizer.step()


def spoil(net, optimizer):
    net.eval()
    net[1].train()
    net.hidden = net.hidden + 1
    net.nothing = torch.ones(1)
    net.wide = None
    for parameter in net.parameters():
        parameter.data = parameter.data.double()  # as a move to another device makes new memory
    net.double()
    optimizer.load_state_dict(optimizer.state_dict())  # makes new state and new groups
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    for group in optimizer.param_groups:
        group["new"] = group["lr"] = 3.0
    optimizer.param_groups[0]["params"].pop()
    net[0].requires_grad_(False)
    optimizer.more = True


def seen(net, optimizer):
    """Every tensor by where it is."""
    found = {f"p{name}": value for name, value in net.named_parameters()}
    found |= {f"b{name}": value for name, value in net.named_buffers()}
    found |= {f"g{name}": value.grad for name, value in net.named_parameters() if value.grad is not None}
    for number, values in enumerate(optimizer.state.values()):
        found |= {f"s{number}{name}": value for name, value in values.items() if isinstance(value, torch.Tensor)}
    return found


def listed(optimizer):
    return [{**group, "params": (id(group["params"]), *map(id, group["params"]))} for group in optimizer.param_groups]


@pytest.mark.parametrize("trained", [True, False], ids=["trained before", "fresh"])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("make_optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad, torch.optim.ASGD])
def test_tensors_are_the_same_objects_with_the_same_numbers(make_optimizer, error, trained):
    net = make()
    optimizer = make_optimizer([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.5}], lr=0.1)
    if trained:
        step(net, optimizer)
    before, copies = seen(net, optimizer), copy.deepcopy(seen(net, optimizer))
    flags = [part.training for part in net.modules()]
    groups, contents = list(optimizer.param_groups), listed(optimizer)
    names, keys = set(vars(optimizer)), list(map(id, optimizer.state))
    try:
        with rolled_back([net], [optimizer], None):
            assert all(parameter.grad is None for parameter in net.parameters())
            step(net, optimizer)
            spoil(net, optimizer)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    after = seen(net, optimizer)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in after)
    assert all(torch.equal(after[name], copies[name]) for name in after)
    assert all(after[name].dtype == copies[name].dtype for name in after)
    assert net.nothing is None
    assert flags == [part.training for part in net.modules()]
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert [id(group) for group in optimizer.param_groups] == [id(group) for group in groups]
    assert listed(optimizer) == contents
    assert set(vars(optimizer)) == names
    assert list(map(id, optimizer.state)) == keys
    step(net, optimizer)


def test_a_rate_that_is_a_tensor_comes_back_in_place():
    net = make()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    with rolled_back([net], [optimizer], None):
        rate.fill_(5.0)
        optimizer.param_groups[0]["lr"] = torch.tensor(7.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == 0.1


def test_parameters_of_the_optimizer_that_are_in_no_net_come_back():
    net, center = make(), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([*net.parameters(), center], lr=0.1)
    with rolled_back([net], [optimizer], None), torch.no_grad():
        center.add_(1)
    assert torch.equal(center, torch.zeros(2))


def test_generators_of_a_loader_come_back():
    data = TensorDataset(torch.arange(20))
    data.generator = torch.Generator().manual_seed(3)
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(4))
    loaders = [
        DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(5)),
        DataLoader(data, 4, sampler=sampler),
        DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(sampler, 4, False)),
    ]
    for loader in loaders:
        torch.manual_seed(0)
        with rolled_back([], [], loader):
            first = [batch.tolist() for (batch,) in loader]
            drawn = torch.rand(1, generator=data.generator)
        assert [batch.tolist() for (batch,) in loader] == first
        assert torch.rand(1, generator=data.generator) == drawn


def test_workers_that_persist_are_not_those_of_the_trial():
    loader = DataLoader(TensorDataset(torch.arange(4)), 2, num_workers=1, persistent_workers=True)
    loader._iterator = "what reads on"
    twin = with_own_workers(loader)
    assert twin is not loader
    assert twin._iterator is None
    assert twin.dataset is loader.dataset
    assert loader._iterator == "what reads on"
    loader._iterator = None
    plain = DataLoader(loader.dataset)
    assert with_own_workers(plain) is plain


class Noisy(Dataset):
    """Draws from generators of its own."""

    def __init__(self):
        self.numpy = np.random.default_rng(1)
        self.old = np.random.RandomState(2)
        self.several = [random.Random(3), torch.Generator().manual_seed(4)]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        python, generator = self.several
        return [self.numpy.normal(), self.old.normal(), python.random(), torch.rand(1, generator=generator).item()]


class Jitter:
    def __init__(self):
        self.generator = np.random.Generator(np.random.MT19937(5))

    def __call__(self, value):
        return [*value, self.generator.normal()]


class Jittered(Dataset):
    def __init__(self, dataset, transform):
        self.dataset = dataset
        self.transform = transform

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.transform(self.dataset[index])


class Drawing(Sampler):
    def __init__(self):
        self.random = random.Random(6)

    def __iter__(self):
        return iter(self.random.sample(range(12), 12))


class Loader:
    """Any object with batches, and with itself in it."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.sampler = self

    def __iter__(self):
        return (torch.tensor(self.dataset[index]) for index in range(4))


@pytest.mark.parametrize(
    "make_loader",
    [
        Noisy,
        lambda: DataLoader(Noisy(), 4),
        lambda: DataLoader(Jittered(Noisy(), Jitter()), 4, sampler=Drawing()),
        lambda: DataLoader(
            Subset(ConcatDataset([Noisy(), Jittered(Noisy(), Jitter())]), [*range(8), *range(12, 20)]), 4
        ),
        lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(Drawing(), 4, False)),
        lambda: Loader(Noisy()),
    ],
    ids=["dataset", "loader", "transform and sampler", "wrapped", "batch sampler", "anything"],
)
def test_generators_of_datasets_samplers_and_transforms_come_back(make_loader):
    def numbers(loader):
        return [loader[index] for index in range(4)] if isinstance(loader, Noisy) else [str(batch) for batch in loader]

    loader, expected = make_loader(), numbers(make_loader())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), generators_kept(loader):
            assert numbers(loader) == expected
            raise KeyboardInterrupt
    assert numbers(loader) == expected
    assert numbers(loader) != expected
