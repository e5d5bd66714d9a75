import enum
import io
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kerastorch.checkpoint.plain import plain
from kerastorch.errors import CheckpointError


class Colour(enum.IntEnum):
    RED = 1


class Fast(torch.Tensor):
    pass


class Wrapped(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return NotImplemented

    def __repr__(self):
        return "Wrapped()"


Point = namedtuple("Point", "x y")


def reread(tree):
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.complex64(1j), 1j),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), b"a"),
        (Colour.RED, 1),
        (torch.torch_version.TorchVersion("2.6"), "2.6"),
        (Path("a") / "b", str(Path("a") / "b")),
        (PureWindowsPath("a\\b"), "a\\b"),
    ],
)
def test_numbers_texts_and_paths_become_those_of_python(given_, expected):
    result = plain({"value": given_, given_: 1}, "a")
    assert result == {"value": expected, expected: 1}
    assert type(result["value"]) is type(expected)
    assert [type(key) for key in result] == [str, type(expected)]
    assert reread(result) == result


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.arange(6.0)[::-2],
        np.arange(3, dtype=">f4"),
        np.array([True, False]),
        np.array(2.5),
        np.zeros((0, 2), np.float16),
        np.array([1 + 2j]),
        np.arange(3, dtype=np.uint16),
    ],
)
def test_arrays_become_tensors_with_memory_of_their_own(array):
    tensor = plain(array, "a")
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.shape == array.shape
    assert torch.equal(reread(tensor), tensor)
    if array.size:
        array[...] = 1 - array.real.astype(int)
        assert not np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (deque([1]), r"is a deque, deque\(\[1\]\), .*Make it a list: list\(\.\.\.\)\."),
        (defaultdict(list), r"is a defaultdict, .*Make it a dict"),
        (Point(1, 2), r"is a Point, .*Make it a tuple"),
        (frozenset([1]), "is a frozenset, .*Make it a set"),
        (range(3), "is a range, .*Make it a list"),
        (np.array(["a"]), "is a ndarray, .*Make it a list"),
        (np.ma.array([1.0], mask=[True]), "is a MaskedArray"),
        (np.array([1.0], np.longdouble), "is a ndarray"),
        (np.longdouble(1), r"is a (longdouble|float128)"),
        (np.datetime64("2026-01-01"), "is a datetime64"),
        (date(2026, 1, 1), r"is a date, datetime\.date\(2026, 1, 1\), which could not be loaded again without running"),
        (nn.Linear(1, 1), "is a Linear"),
        (torch.Generator(), "is a Generator"),
        (torch.contiguous_format, "is a memory_format"),
        (torch.zeros(2).as_subclass(Wrapped), "is a Wrapped"),
        (nn.LazyLinear(1).weight, "is a parameter of a lazy layer, which has no shape before the first batch"),
        (b"", "is a bytes, b''"),
        (len, "is a builtin_function_or_method"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_be_loaded_is_refused_with_its_place(value, expected):
    with pytest.raises(CheckpointError, match=f"^callbacks/Mine/0/best {expected}"):
        plain({"Mine": [{"best": value}]}, "callbacks")


def test_a_key_that_could_not_be_loaded_is_refused():
    with pytest.raises(CheckpointError, match=r"^a key of history is a date"):
        plain({date(2026, 1, 1): 1}, "history")


def test_containers_are_copied_and_keep_their_kind():
    weights = nn.Linear(2, 1).state_dict()
    tree = {"a": [1, (2, {3})], "b": Counter("aab"), "c": weights, "d": bytearray(b"x"), "e": OrderedDict(x=None)}
    tree["f"] = [torch.Size([1]), torch.float16, torch.device("cpu"), torch.strided]
    result = plain(tree, "tree")
    assert repr(result) == repr(tree)
    assert result["c"]._metadata == weights._metadata
    assert result["c"]._metadata is not weights._metadata
    assert type(result["b"]) is Counter
    assert repr(reread(result)) == repr(result)
    for name in "abcdef":
        assert result[name] is not tree[name]


def test_tensors_of_another_class_become_plain():
    values = torch.arange(3.0)
    odd = nn.Parameter(values)
    odd.tag = object()
    tree = {"fast": values.as_subclass(Fast), "odd": odd, "weight": nn.Parameter(values), "buffer": nn.Buffer(values)}
    result = reread(plain(tree, "a"))
    assert [type(value) for value in result.values()] == [torch.Tensor, torch.Tensor, nn.Parameter, torch.Tensor]
    assert all(torch.equal(value, values) for value in result.values())


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(min_size=1)
    | st.floats(allow_nan=False).map(np.float64)
)


@given(
    st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))
)
def test_what_is_taken_can_be_read(tree):
    assert reread(plain(tree, "tree")) == tree
