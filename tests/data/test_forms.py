"""Every form of data gives what plain tensors give, in every verb."""

from collections import UserDict, namedtuple
from collections.abc import Mapping

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import kerastorch as kt
from kerastorch.data import adapt
from kerastorch.tree import leaves

COUNT, SIZE = 23, 5
DRAWN = torch.Generator().manual_seed(0)
X = torch.cat([torch.randn(COUNT, 2, generator=DRAWN), torch.randint(2, (COUNT, 2), generator=DRAWN)], 1)
Y = torch.randint(3, (COUNT,), generator=DRAWN)
WEIGHT = torch.rand(COUNT, generator=DRAWN)
A, B = X[:, :2].contiguous(), X[:, 2:].contiguous()
FRAME = pandas.DataFrame(X.double().numpy(), columns=list("abcd"))
MIXED = FRAME.astype({"a": "float32", "b": "Float64", "c": "Int64", "d": "bool"})
SERIES, WEIGHTS = pandas.Series(Y.numpy(), name="label"), pandas.Series(WEIGHT.numpy())
Triple = namedtuple("Triple", ["image", "label", "weight"], defaults=[None])


class Net(nn.Module):
    """Takes its four features in any form, and gives the same for all of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, a, b=None, labels=None):
        if isinstance(a, PackedSequence):
            a = a.data
        elif isinstance(a, Mapping):
            a, b = a["a"], a["b"]
        elif isinstance(a, Graph):
            a = a.x
        if b is not None:
            a = torch.cat([a, b["c"] if isinstance(b, dict) else b], 1)
        return self.layers(a)


class Graph:
    num_graphs = property(lambda self: len(self.y))

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        return Graph(self.x.to(device), self.y.to(device))


class Encoding(UserDict):
    def to(self, device):
        return Encoding({name: tensor.to(device) for name, tensor in self.data.items()})


class Samples(Dataset):
    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return tuple(part[index] for part in self.parts)


class Named(Samples):
    def __getitem__(self, index):
        return {"a": A[index], "b": B[index], "labels": Y[index]}


class Stream(IterableDataset):
    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        return zip(*self.parts, strict=True)


class Records:
    """Read by lists of numbers, and no Dataset of torch."""

    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return tuple(part[index] for part in self.parts)

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def __iter__(self):
        return iter([self[index] for index in range(COUNT)])


class Table:
    """The face of a frame of another library."""

    columns, dtypes = ("a", "b", "c", "d"), ("Float64",) * 4

    def __init__(self, array):
        self.shape, self._array = array.shape, array

    def __getitem__(self, name):
        return Column(self._array[:, "abcd".index(name)])

    def to_numpy(self):
        return self._array


class Column:
    dtype = "Float64"

    def __init__(self, array):
        self.shape, self._array = array.shape, array

    def to_numpy(self):
        return self._array


class Batches:
    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        return iter(batched(*self.parts))


def batched(*parts, kind=tuple):
    return [kind(part[start : start + SIZE] for part in parts) for start in range(0, COUNT, SIZE)]


def packed(x):
    return pack_padded_sequence(x[:, None], torch.ones(len(x)), batch_first=True)


def arrays(*parts):
    return tuple(part.numpy() for part in parts)


# Each builds its data from (x, y) or (x, y, weight)
CUT = {
    "tensors": lambda *parts: parts,
    "arrays": arrays,
    "float64 arrays": lambda x, y, *weight: (x.double().numpy(), y.int().numpy(), *arrays(*weight)),
    "arrays column by column": lambda x, *others: (np.asfortranarray(x.numpy()), *arrays(*others)),
    "arrays read backwards": lambda *parts: tuple(part.flip(0).numpy()[::-1] for part in parts),
    "arrays that cannot be written to": lambda *parts: tuple(frozen(part) for part in parts),
    "named tuple": Triple,
    "list of inputs": lambda x, *others: ([A, B], *others),
    "tuple of inputs": lambda x, *others: ((A, B.numpy()), *others),
    "dict of inputs": lambda x, *others: ({"b": B, "a": A}, *others),
    "nested inputs": lambda x, *others: ({"a": A, "b": {"c": B}}, *others),
    "tokens": lambda x, *others: (Encoding(a=A, b=B), *others),
    "frame": lambda x, y, *weight: (FRAME, SERIES, *(WEIGHTS for _ in weight)),
    "float32 frame": lambda x, *others: (FRAME.astype("float32"), *others),
    "frame of all kinds": lambda x, y, *weight: (MIXED, SERIES.astype("Int64"), *weight),
    "frames": lambda x, *others: ({"a": FRAME[["a", "b"]], "b": MIXED[["c", "d"]]}, *others),
    "frame of weights": lambda x, y, *weight: (x, y, *(pandas.DataFrame({"w": WEIGHTS}) for _ in weight)),
    "frame of another library": lambda x, *others: (Table(x.double().numpy()), *others),
    "TensorDataset": TensorDataset,
    "Dataset": Samples,
    "Dataset of arrays": lambda *parts: Samples(*arrays(*parts)),
    "Subset": lambda *parts: Subset(Samples(*parts), range(COUNT)),
    "ConcatDataset": lambda *parts: ConcatDataset(
        [Subset(Samples(*parts), range(9)), TensorDataset(*(p[9:] for p in parts))]
    ),
    "IterableDataset": Stream,
    "read by lists of numbers": Records,
}
OWN_BATCHES = {
    "DataLoader": lambda *parts: DataLoader(Samples(*parts), SIZE),
    "DataLoader of a stream": lambda *parts: DataLoader(Stream(*parts), SIZE),
    "DataLoader with workers": lambda *parts: DataLoader(Samples(*parts), SIZE, num_workers=1),
    "list of batches": batched,
    "list of lists": lambda *parts: batched(*parts, kind=list),
    "list of batches of arrays": lambda *parts: batched(*arrays(*parts)),
    "list of batches of frames": lambda x, y, *weight: batched(FRAME, SERIES, *weight),
    "list of batches of dicts": lambda x, *others: [
        ({"a": a, "b": b}, *rest) for a, b, *rest in batched(A, B, *others)
    ],
    "packed sequences": lambda x, *others: [(packed(x), *rest) for x, *rest in batched(x, *others)],
    "generator": lambda *parts: (batch for batch in batched(*parts)),
    "iterator": lambda *parts: iter(batched(*parts)),
    "iterable": Batches,
}
WITHOUT_WEIGHTS = {
    "dict with labels": lambda x, y: {"a": A, "b": B.numpy(), "labels": y.int().numpy()},
    "frames with labels": lambda x, y: {"a": FRAME[["a", "b"]], "b": MIXED[["c", "d"]], "labels": SERIES},
    "tokens with labels": lambda x, y: Encoding(a=A, b=B, labels=y),
    "Dataset of dicts with labels": Named,
}
OWN_WITHOUT_WEIGHTS = {
    "batches of dicts with labels": lambda x, y: [{"a": a, "b": b, "labels": y} for a, b, y in batched(A, B, y)],
    "batches of tokens with labels": lambda x, y: [Encoding(a=a, b=b, labels=y) for a, b, y in batched(A, B, y)],
    "graphs": lambda x, y: [Graph(*batch) for batch in batched(x, y)],
}
FORMS = CUT | OWN_BATCHES | WITHOUT_WEIGHTS | OWN_WITHOUT_WEIGHTS
CASES = [(form, weighted) for form in FORMS for weighted in (False, True) if not weighted or form in CUT | OWN_BATCHES]


def frozen(tensor):
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


def built(form, weighted):
    data = FORMS[form](X, Y, WEIGHT) if weighted else FORMS[form](X, Y)
    return data, {"batch_size": SIZE} if form in CUT | WITHOUT_WEIGHTS else {}


def trained_on(form, weighted):
    data, options = built(form, weighted)
    options = options | ({"shuffle": False} if options else {})
    model = compiled()
    torch.manual_seed(1)
    history = model.fit(1, data, verbose=0, **options)
    return {**model.state_dict(), "loss": torch.tensor(history.history["loss"])}


def evaluated_on(form, weighted):
    data, options = built(form, weighted)
    return {name: torch.tensor(value) for name, value in compiled().evaluate(data, **options).items()}


def predicted_on(form, weighted):
    data, options = built(form, weighted)
    return {"output": compiled().predict(data, **options)}


def compiled():
    model = kt.Model(Net())
    model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=0.01), ["accuracy"], device="cpu")
    return model


@pytest.fixture(scope="module")
def expected():
    """What plain tensors give, by verb and by whether they are weighted."""
    verbs = (trained_on, evaluated_on, predicted_on)
    return {(verb, weighted): verb("tensors", weighted) for verb in verbs for weighted in (False, True)}


@pytest.mark.parametrize(("form", "weighted"), CASES)
@pytest.mark.parametrize("verb", [trained_on, evaluated_on, predicted_on])
def test_every_form_gives_what_tensors_give(form, weighted, verb, expected):
    found = verb(form, weighted)
    assert list(found) == list(expected[verb, weighted])
    for name, value in expected[verb, weighted].items():
        assert torch.equal(found[name], value), name


def test_weights_and_training_make_a_difference(expected):
    for verb in (trained_on, evaluated_on):
        assert expected[verb, False]["loss"] != expected[verb, True]["loss"]
    before = Net().state_dict()
    assert not torch.equal(expected[trained_on, False]["layers.0.weight"], before["layers.0.weight"])


@pytest.mark.parametrize("form", CUT | WITHOUT_WEIGHTS)
def test_a_seed_gives_every_form_one_order(form):
    if form == "IterableDataset":
        return
    source = adapt(FORMS[form](X, Y), name="dl", batch_size=SIZE, shuffle=True, seed=5)
    plain = adapt((X, Y), name="dl", batch_size=SIZE, shuffle=True, seed=5)
    for epoch in range(2):
        assert [batch.y.tolist() for batch in source.batches(epoch)] == [b.y.tolist() for b in plain.batches(epoch)]


def test_a_frame_of_one_column_is_a_target_with_a_column():
    net = nn.Linear(4, 1)
    model = kt.Model(net)
    model.compile("mse", "sgd")
    y = FRAME[["a"]]
    expected = nn.functional.mse_loss(net(X), X[:, :1]).item()
    assert model.evaluate((FRAME, y))["loss"] == pytest.approx(expected)


DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
NESTS = [
    lambda leaf: leaf,
    lambda leaf: {"a": leaf},
    lambda leaf: (leaf, leaf),
    lambda leaf: [leaf, {"b": (leaf,)}],
    lambda leaf: {"a": {"b": leaf, "c": [leaf, leaf]}},
]
MAKERS = [
    lambda array: array,
    torch.from_numpy,
    lambda array: pandas.DataFrame(array) if array.ndim > 1 else pandas.Series(array),
    lambda array: np.ascontiguousarray(array[::-1])[::-1],
    np.asfortranarray,
]


@settings(max_examples=150)
@given(
    st.integers(1, 12),
    st.integers(1, 14),
    st.tuples(*[st.sampled_from(DTYPES)] * 2),
    st.tuples(*[st.sampled_from(NESTS)] * 3),
    st.tuples(*[st.sampled_from(MAKERS)] * 3),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_sizes_dtypes_and_nestings_keep_their_numbers(count, size, dtypes, nests, makers, weighted, float_dtype):
    numbers = [
        (np.arange(width * count).reshape(count, width) % 2).astype(dtype) for width, dtype in enumerate(dtypes, 2)
    ]
    whole = [*numbers, np.arange(count, dtype=np.float64)][: 3 if weighted else 2]
    data = tuple(nest(make(array)) for nest, make, array in zip(nests, makers, whole, strict=False))
    source = adapt(data, name="dl", batch_size=size, float_dtype=float_dtype)
    batches = list(source.batches(0))
    assert len(batches) == source.steps == -(-count // size)
    for place, (part, array) in enumerate(zip(("x", "y", "weight"), whole, strict=False)):
        nested = [getattr(batch, part) for batch in batches]
        assert [describe_form(tree) for tree in nested] == [describe_form(nests[place](0))] * len(batches)
        for pieces in zip(*map(leaves, nested), strict=True):
            joined = torch.cat(pieces)
            assert joined.tolist() == array.tolist()
            if array.dtype == np.float64:
                assert joined.dtype == float_dtype


def describe_form(tree):
    if isinstance(tree, dict):
        return {key: describe_form(value) for key, value in tree.items()}
    return type(tree)(map(describe_form, tree)) if isinstance(tree, (list, tuple)) else "leaf"
