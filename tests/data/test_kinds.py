from collections import UserDict

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kerastorch.data import makes_own_batches, named_sets
from kerastorch.data.kinds import is_arrays, is_dataset, is_one_shot, plain
from kerastorch.errors import DataError

X, Y = torch.ones(7, 2), torch.arange(7)
PAIRS = TensorDataset(X, Y)
LOADER = DataLoader(PAIRS)
FRAME = pandas.DataFrame({"a": [1.0], "b": [2.0]})


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Records:
    def __len__(self):
        return 1

    def __getitems__(self, indices):
        return [self for _ in indices]

    def __iter__(self):
        return iter([self])


class Encoding(UserDict):
    def to(self, device):
        return self


class Graph:
    def __init__(self, y=Y):
        self.y = y

    def to(self, device):
        return self


@pytest.mark.parametrize(
    ("data", "own"),
    [
        ([(X, Y), (X, Y)], True),
        (((X, Y), (X, Y), (None, Y)), False),  # a tuple is x, (x, y) or (x, y, weight), and no list of batches
        ([], True),
        ((), False),
        (LOADER, True),
        (iter([]), True),
        (PAIRS, False),
        (Stream(), False),
        ((X, Y), False),
        ((X, None), False),
        ((None, X), False),
        (X, False),
        ({"x": X}, False),
        ("text", False),
        (None, False),
        (3, False),
        (Records(), False),
        (Records, False),
        (FRAME, False),
        (FRAME["a"], False),
        (pandas.DataFrame, False),
        ((FRAME, FRAME["a"]), False),
        (sparse.csr_matrix(np.ones((2, 2))), False),  # an array, though not of ours
        (Graph(), True),
        (Graph(None), False),
        (Encoding(x=X), False),
        (map(tuple, []), True),
    ],
)
def test_an_iterable_of_batches_is_told_from_data(data, own):
    assert makes_own_batches(data) is own
    assert not (own and (is_arrays(data) or is_dataset(data)))


@pytest.mark.parametrize(
    "data",
    [
        {"easy": LOADER, "hard": LOADER},
        {"easy": PAIRS},
        {"easy": Stream()},
        {"easy": Records()},
        {"easy": (X, Y), "hard": (X, Y)},
        {"easy": (X.numpy(), Y.numpy())},
        {"easy": [(X, Y)]},
        {"easy": iter([(X, Y)])},
        {"easy": {"ids": X, "labels": Y}},
        {"easy": Encoding(ids=X, labels=Y)},
        {"easy": (FRAME, FRAME["a"])},
        {"easy": X, "hard": (X, Y)},
        {"labels": LOADER},
        {"labels": {"ids": X, "labels": Y}, "x": X},
        UserDict(easy=LOADER),
    ],
)
def test_several_sets_are_told_from_one(data):
    found = named_sets(data)
    assert type(found) is dict
    assert found == dict(data)
    assert list(found) == list(data)


@pytest.mark.parametrize(
    "data",
    [
        {"a": X, "b": X},
        {"a": X.numpy()},
        {"a": FRAME, "b": FRAME["a"]},
        {"a": {"b": X}, "c": X},
        {"ids": X, "labels": Y},
        {"ids": X, "labels": Y, "pair": (X, X)},
        Encoding(ids=X, labels=Y),
        {0: LOADER},
        LOADER,
        PAIRS,
        (X, Y),
        [(X, Y)],
        X,
        FRAME,
        None,
    ],
)
def test_one_set_is_told_from_several(data):
    assert named_sets(data) is None


def test_no_sets_at_all_are_refused():
    with pytest.raises(DataError) as error:
        named_sets({})
    assert str(error.value) == (
        "dl_val is an empty dict. Pass a DataLoader, an iterable of batches, a Dataset, or a tuple of tensors, arrays "
        "or DataFrames, or a dict of such by name."
    )


@pytest.mark.parametrize("nest", [lambda tree: tree, lambda tree: (tree, Y), lambda tree: {"a": [tree]}])
def test_what_a_tokenizer_gives_becomes_a_dict(nest):
    data = nest(Encoding(ids=X))
    assert not is_arrays(data)
    assert plain(data) == nest({"ids": X})
    assert is_arrays(plain(data))
    unchanged = nest({"ids": X})
    assert plain(unchanged) is unchanged


@pytest.mark.parametrize(
    ("data", "one_shot"),
    [(iter([]), True), (zip(), True), (iter(LOADER), True), (LOADER, False), ([], False), (range(3), False)],
)
def test_iterators_are_read_once(data, one_shot):
    assert is_one_shot(data) is one_shot
