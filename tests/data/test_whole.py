"""A loader of a TensorDataset is read by whole batches, and gives what a plain loop gives."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

import kerastorch as kt
from kerastorch import randomness
from kerastorch.data import adapt
from kerastorch.data.whole import WholeRows, quick

COUNT, SIZE = 22, 4
GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(COUNT, 3, 5, 5, generator=GENERATOR)
Y = torch.randint(3, (COUNT,), generator=GENERATOR)
DATA = TensorDataset(X, Y)


def generator():
    return torch.Generator().manual_seed(5)


def subset():
    return Subset(Subset(DATA, [5, 3, -1, 8, 0, 2, 19, 7, 7]), [0, 1, 2, -1, 3, 4])


def split():
    return random_split(random_split(DATA, [18, 4], generator())[0], [12, 6], generator())[0]


LOADERS = {
    "in order": lambda: DataLoader(DATA, SIZE),
    "shuffled": lambda: DataLoader(DATA, SIZE, shuffle=True),
    "drop last": lambda: DataLoader(DATA, SIZE, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(DATA, SIZE, shuffle=True, generator=generator()),
    "subset": lambda: DataLoader(subset(), SIZE, shuffle=True),
    "random split": lambda: DataLoader(split(), SIZE, shuffle=True),
    "weighted": lambda: DataLoader(DATA, SIZE, sampler=WeightedRandomSampler(torch.rand(COUNT), 30)),
    "subset sampler": lambda: DataLoader(DATA, SIZE, sampler=SubsetRandomSampler(range(3, COUNT))),
    "replacement": lambda: DataLoader(DATA, SIZE, sampler=RandomSampler(DATA, True, 40)),
    "batch sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 3, False)),
    "from the end": lambda: DataLoader(DATA, SIZE, sampler=[-1, 3, -COUNT, 5, 6]),
    "numbers of NumPy": lambda: DataLoader(DATA, SIZE, sampler=np.arange(COUNT)),
    "numbers of torch": lambda: DataLoader(DATA, SIZE, sampler=torch.arange(COUNT)),
    "channels last": lambda: DataLoader(TensorDataset(X.to(memory_format=torch.channels_last), Y), SIZE, shuffle=True),
    "transposed": lambda: DataLoader(TensorDataset(torch.randn(5, COUNT).t(), Y), SIZE),
    "expanded": lambda: DataLoader(TensorDataset(X[:, :1].expand(-1, 3, -1, -1), Y), SIZE),
    "one tensor": lambda: DataLoader(TensorDataset(X), SIZE),
    "scalars of bool": lambda: DataLoader(TensorDataset(Y > 0, Y.double(), X.half()), SIZE),
    "no numbers": lambda: DataLoader(TensorDataset(X[:, :0], Y), SIZE),
}


def begin():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def read(batches):
    begin()
    return list(batches()), randomness.capture()


@pytest.mark.parametrize("name", LOADERS)
def test_batches_and_random_numbers_are_those_of_the_loader(name):
    make = LOADERS[name]
    assert quick(make()) is not make()
    begin()
    loader = make()
    expected = [list(loader), list(loader)], randomness.capture()
    begin()
    twin = quick(make())
    assert isinstance(twin.dataset, WholeRows)
    found = [list(twin), list(twin)], randomness.capture()
    assert randomness.same(found[1], expected[1])
    for ours, plain in zip(found[0], expected[0], strict=True):
        for our, batch in zip(ours, plain, strict=True):
            assert type(our) is type(batch)
            for one, other in zip(our, batch, strict=True):
                assert one.dtype == other.dtype
                assert one.stride() == other.stride()
                assert torch.equal(one, other)


@given(
    st.integers(1, 30),
    st.lists(st.integers(0, 3), max_size=3),
    st.permutations(range(4)),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.complex64]),
    st.integers(1, 9),
)
def test_any_tensor(count, shape, order, dtype, size):
    tensor = torch.arange(count * int(np.prod(shape))).view(count, *shape).to(dtype)
    turned = tensor.permute(0, *[place for place in order if 0 < place < tensor.ndim])
    loader = DataLoader(TensorDataset(turned, tensor), size)
    for our, batch in zip(quick(loader), loader, strict=True):
        for one, other in zip(our, batch, strict=True):
            assert one.dtype == other.dtype
            assert one.stride() == other.stride()
            assert torch.equal(one, other)


class Own(TensorDataset):
    def __getitem__(self, index):
        return tuple(tensor[index] + 1 for tensor in self.tensors)


class OwnSubset(Subset):
    pass


class OwnLoader(DataLoader):
    pass


class OwnTensor(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "loader",
    [
        [(X, Y)],
        OwnLoader(DATA, SIZE),
        DataLoader(DATA, SIZE, num_workers=1),
        DataLoader(DATA, SIZE, collate_fn=list),
        DataLoader(DATA, None),
        DataLoader(DATA, None, sampler=BatchSampler(range(COUNT), 2, False), collate_fn=default_collate),
        DataLoader(Own(X, Y), SIZE),
        DataLoader(OwnSubset(DATA, [1, 2]), SIZE),
        DataLoader(Subset(Own(X, Y), [1, 2]), SIZE),
    ],
)
def test_all_else_is_read_as_it_is(loader):
    assert quick(loader) is loader


def test_tensors_of_a_class_of_the_users_stay_of_that_class():
    loader = DataLoader(TensorDataset(X.as_subclass(OwnTensor)), SIZE)
    assert {type(x) for (x,) in quick(loader)} == {type(x) for (x,) in loader}
    assert torch.equal(next(iter(quick(loader)))[0], X[:SIZE])


def test_a_dataset_may_change_between_two_batches():
    dataset = TensorDataset(X, Y)
    part = Subset(dataset, list(range(8)))
    twin = iter(quick(DataLoader(part, SIZE)))
    next(twin)
    dataset.tensors, part.indices = (X + 1, Y), [9] * 8
    assert torch.equal(next(twin)[0], X[[9] * 4] + 1)


def test_an_error_is_that_of_the_loader():
    loader = DataLoader(DATA, SIZE, sampler=[0, COUNT])
    with pytest.raises(IndexError) as expected:
        list(loader)
    with pytest.raises(IndexError) as found:
        list(quick(loader))
    assert str(found.value) == str(expected.value)


def test_what_is_read_may_be_changed_in_place():
    before = X.clone()
    for x, _ in quick(DataLoader(DATA, COUNT)):
        x.zero_()
    assert torch.equal(X, before)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(75, 3)

    def forward(self, x):
        return self.layer(nn.functional.dropout(x.flatten(1), 0.5, self.training))


def made():
    begin()
    model = kt.Model(Net())
    model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=0.01), ["accuracy"], device="cpu")
    return model


@pytest.mark.parametrize("name", ["shuffled", "random split", "own generator", "weighted"])
def test_training_is_that_of_a_loop_by_hand(name):
    model = made()
    model.fit(2, LOADERS[name](), DataLoader(DATA, 7), verbose=0)
    found = [*map(torch.clone, model.parameters())], torch.rand(3)
    model = made()
    loader = LOADERS[name]()
    model.train()
    for _ in range(2):
        for x, y in loader:
            model.optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            model.optimizer.step()
    for ours, by_hand in zip(found[0], model.parameters(), strict=True):
        assert torch.equal(ours, by_hand)
    assert torch.equal(found[1], torch.rand(3))


def test_evaluate_and_predict_read_by_whole_batches(monkeypatch):
    def refuse(dataset, index):
        raise AssertionError("read sample by sample")

    model = made()
    expected = model.evaluate((X, Y), batch_size=SIZE), model.predict(X, batch_size=SIZE)
    monkeypatch.setattr(TensorDataset, "__getitem__", refuse)
    model.fit(1, LOADERS["shuffled"](), LOADERS["in order"](), verbose=0)
    model = made()
    assert model.evaluate(LOADERS["in order"]()) == expected[0]
    assert torch.equal(model.predict(LOADERS["in order"]()), expected[1])


class Together(Dataset):
    """Reads several samples at once; one by one it cannot."""

    def __len__(self):
        return COUNT

    def __getitems__(self, indices):
        return [(X[index], Y[index]) for index in indices]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (Together(), {}),
        (Together(), {"seed": 3}),
        (Together(), {"rows": torch.arange(5, COUNT)}),
        (Subset(Together(), range(COUNT)), {}),
        (DataLoader(Together(), SIZE, shuffle=True), {}),
        (DataLoader(Subset(Together(), range(4, COUNT)), SIZE), {"seed": 3}),
        (DataLoader(Subset(Together(), range(4, COUNT)), SIZE, num_workers=1), {"seed": 3}),
        (DataLoader(Together(), SIZE, num_workers=1), {}),
    ],
)
def test_a_dataset_that_reads_several_samples_at_once_is_let_to(data, options):
    source = adapt(data, name="dl_train", training=True, **options)
    assert sum(batch.size for batch in source.batches(0)) in (COUNT, COUNT - 4, COUNT - 5)
    source.close()


class Pieces:
    def __iter__(self):
        return iter(torch.arange(12).flip(0).split(4))

    def __len__(self):
        return 3


def test_a_batch_may_be_asked_for_by_a_tensor():
    x = torch.randn(12, 3)
    loader = DataLoader(TensorDataset(x), batch_sampler=Pieces())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(quick(loader), loader, strict=True))
