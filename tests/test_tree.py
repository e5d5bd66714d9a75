import copy
import itertools
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from kerastorch.errors import DataError, MismatchError
from kerastorch.tree import concatenate, describe, leaves, map_leaves, move, pick, tensors

CPU, META = torch.device("cpu"), torch.device("meta")
Pair = namedtuple("Pair", ["first", "second"])
varied = settings(max_examples=60)


@dataclass
class ModelOutput(OrderedDict):
    """The form of the outputs of model libraries: a dict made from keywords, whose fields may be None."""

    logits: Tensor | None = None
    hidden: Tensor | None = None

    def __post_init__(self):
        for name in ("logits", "hidden"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)

    __hash__ = None


class Encoding(UserDict):
    """The form of what tokenizers return: a dict with `.to`."""

    def to(self, device):
        return Encoding({name: tensor.to(device) for name, tensor in self.data.items()})


def packed(*lengths):
    return pack_sequence([torch.arange(float(length)) for length in lengths], enforce_sorted=False)


def cut(tree, part):
    return map_leaves(lambda leaf: leaf if leaf is None else leaf[part], tree)


nestings = st.recursive(
    st.integers(0, 9),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.dictionaries(st.integers(0, 3), inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(OrderedDict),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=8,
)


@varied
@given(nestings)
def test_mapping_keeps_the_nesting_and_touches_every_leaf_once(tree):
    before, seen = copy.deepcopy(tree), []
    same = map_leaves(lambda leaf: seen.append(leaf) or leaf, tree)
    assert same == before
    assert repr(same) == repr(before)
    assert seen == list(leaves(tree))
    doubled = map_leaves(lambda leaf: 2 * leaf, tree)
    assert list(leaves(doubled)) == [2 * leaf for leaf in seen]
    assert tree == before


def test_named_tuples_stay_named():
    mapped = map_leaves(lambda leaf: leaf + 1, {"pair": Pair(1, [2])})
    assert mapped == {"pair": Pair(2, [3])}
    assert type(mapped["pair"]) is Pair


def test_outputs_of_model_libraries_keep_their_class_and_fields():
    output = ModelOutput(logits=torch.ones(2))
    mapped = map_leaves(lambda leaf: leaf + 1, output)
    assert type(mapped) is ModelOutput
    assert torch.equal(mapped.logits, torch.full((2,), 2.0))
    assert mapped.hidden is None
    assert list(mapped) == ["logits"]


@pytest.mark.parametrize(
    "tree", [OrderedDict({0: 1, "a": 2}), defaultdict(list, {0: 1}), defaultdict(list, a=1), UserDict({0: 1})]
)
def test_dicts_of_other_classes_keep_keys_of_any_kind(tree):
    before = copy.deepcopy(tree)
    mapped = map_leaves(lambda leaf: leaf + 1, tree)
    assert type(mapped) is type(tree)
    assert dict(mapped) == {key: value + 1 for key, value in tree.items()}
    assert tree == before
    joined = concatenate([map_leaves(lambda leaf: torch.tensor([leaf]), tree)] * 2)
    assert type(joined) is type(tree)
    assert {key: value.tolist() for key, value in joined.items()} == {key: [value] * 2 for key, value in tree.items()}


def test_what_torch_returns_from_max_keeps_its_names():
    output = torch.tensor([[1.0, 3.0], [5.0, 2.0]]).max(1)
    mapped = map_leaves(lambda leaf: leaf + 1, output)
    assert type(mapped) is type(output)
    assert mapped.values.tolist() == [4.0, 6.0]
    joined = concatenate([output, output])
    assert joined.indices.tolist() == [1, 0, 1, 0]


def test_what_can_move_itself_is_a_leaf():
    sequence, encoding = packed(2, 1), Encoding(ids=torch.ones(2))
    assert list(leaves((sequence, encoding))) == [sequence, encoding]
    assert map_leaves(type, [sequence, encoding]) == [PackedSequence, Encoding]
    assert list(tensors([sequence, encoding])) == []


def test_text_is_a_leaf():
    assert list(leaves({"a": "text", "b": b"bytes"})) == ["text", b"bytes"]


def test_leaves_come_in_order_and_tensors_alone():
    first, second = torch.zeros(1), torch.ones(1)
    tree = {"a": [first, None], "b": (np.ones(1), {"c": Pair(second, "text")})}
    found = list(leaves(tree))
    assert (found[0], found[1], found[3], found[4]) == (first, None, second, "text")
    assert [id(tensor) for tensor in tensors(tree)] == [id(first), id(second)]
    assert list(tensors(first)) == [first]
    assert list(tensors(())) == []


@varied
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_joining_undoes_splitting(sizes, seed):
    random = torch.Generator().manual_seed(seed)
    whole = {
        "x": torch.randn(sum(sizes), 2, generator=random),
        "pair": Pair(torch.arange(sum(sizes)), [torch.randn(sum(sizes), generator=random)]),
        "nothing": None,
        "none": (),
    }
    ends = list(itertools.accumulate(sizes, initial=0))
    joined = concatenate([cut(whole, slice(*pair)) for pair in itertools.pairwise(ends)])
    assert type(joined["pair"]) is Pair
    assert (joined["nothing"], joined["none"]) == (None, ())
    for one, other in zip(tensors(joined), tensors(whole), strict=True):
        assert torch.equal(one, other)


def test_joining_keeps_the_class_of_outputs_of_model_libraries():
    joined = concatenate([ModelOutput(logits=torch.ones(2)), ModelOutput(logits=torch.ones(1))])
    assert type(joined) is ModelOutput
    assert joined.logits.shape == (3,)


def test_numbers_of_batches_are_stacked():
    assert concatenate([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1.0, 2.0]
    assert concatenate([torch.tensor(1.0)]).tolist() == [1.0]


def test_leaves_that_are_no_tensors_are_listed_by_batch():
    assert concatenate([("a", 1), ("b", 2)]) == (["a", "b"], [1, 2])
    sequences = [packed(2, 1), packed(3)]
    assert concatenate(sequences) == sequences
    assert concatenate([{"a": sequences[0]}]) == {"a": sequences[:1]}


@pytest.mark.parametrize(
    ("parts", "shapes"),
    [
        ([torch.ones(2, 3), torch.ones(1, 4)], "their shapes after the first dimension differ ((3,), (4,))"),
        ([torch.ones(2, 3), torch.ones(2)], "their shapes after the first dimension differ ((), (3,))"),
    ],
)
def test_shapes_that_cannot_be_joined_are_named(parts, shapes):
    with pytest.raises(DataError) as error:
        concatenate([{"a": part} for part in parts])
    assert str(error.value) == (
        f"The outputs of the batches cannot be joined: {shapes}. "
        "Pad them in the net, or predict batch by batch with predict_on_batch."
    )


@pytest.mark.parametrize("parts", [[torch.ones(2), torch.tensor(1.0)], [torch.tensor(1.0), torch.ones(2)]])
def test_a_batch_of_one_that_lost_its_dimension_is_named(parts):
    with pytest.raises(DataError) as error:
        concatenate(parts)
    assert str(error.value) == (
        "The outputs of the batches cannot be joined: some have no dimension. "
        "Does forward end with squeeze()? For a batch of one sample that takes away the first dimension as well: "
        "type squeeze(-1)."
    )


@pytest.mark.parametrize(
    "parts",
    [
        [[torch.ones(1)] * 2, [torch.ones(1)]],
        [(torch.ones(1),), ()],
        [{"a": torch.ones(1)}, {"b": torch.ones(1)}],
        [{"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}],
        [{"a": torch.ones(1)}, torch.ones(1)],
        [torch.ones(1), None],
        [torch.ones(1), (torch.ones(1),)],
        [None, torch.ones(1)],
    ],
)
def test_nestings_that_differ_are_named(parts):
    with pytest.raises(DataError) as error:
        concatenate(parts)
    assert str(error.value) == (
        "The outputs of the batches cannot be joined: one is "
        f"{describe(parts[0])}, another {describe(parts[1])}. Predict batch by batch with predict_on_batch."
    )


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (torch.zeros(2, 3), "float32 (2, 3) cpu"),
        (torch.tensor(1), "int64 () cpu"),
        (torch.zeros(1, dtype=torch.bfloat16, device="meta"), "bfloat16 (1,) meta"),
        ({"a": torch.zeros(1), 1: None}, "{'a': float32 (1,) cpu, 1: None}"),
        (("text", [1.0, np.ones(2)]), "(str, (float, ndarray))"),
        ((), "()"),
        ([1, 2, 3, 4], "(int, int, int, int)"),
        ([1, 2, 3, 4, 5], "(int, int, int, int, ... 5 in all)"),
        (None, "None"),
    ],
)
def test_a_nesting_is_described_in_one_line(tree, text):
    assert describe(tree) == text


def test_whatever_can_move_is_moved():
    sequence = packed(2, 1)
    tree = {"x": [torch.ones(1), Encoding(ids=torch.ones(2))], "y": (sequence, "text", None)}
    moved = move(tree, META, True)
    assert moved["x"][0].device == META
    assert moved["x"][1]["ids"].device == META
    assert moved["y"][0].data.device == META
    assert moved["y"][1:] == ("text", None)
    assert tree["x"][0].device == CPU


def test_a_tensor_that_is_there_is_not_copied():
    tensor, parameter = torch.ones(1), torch.nn.Parameter(torch.ones(1))
    assert move(tensor, CPU, True) is tensor
    assert move(parameter, CPU, False) is parameter
    assert move(tensor, META, False).device == META
    assert move(parameter, META, False).device == META


@pytest.mark.parametrize(
    ("tree", "key", "expected"),
    [
        ({"a": 1, "b": 2}, "b", 2),
        ({0: 1}, 0, 1),
        ((1, 2), 1, 2),
        ([1, 2], 0, 1),
        (Pair(1, 2), "second", 2),
        (Pair(1, 2), 1, 2),
        (ModelOutput(logits=torch.ones(1)), "logits", torch.ones(1)),
        (SimpleNamespace(a=3), "a", 3),
        (torch.tensor([3, 1]).topk(1), "indices", 0),
    ],
)
def test_a_part_is_picked_by_its_name_or_its_place(tree, key, expected):
    assert pick(tree, key, "output") == expected


@pytest.mark.parametrize(
    ("tree", "key", "text"),
    [
        (
            {"age": 1},
            "aeg",
            "There is no output 'aeg': the output is {'age': int}. Did you mean 'age'? There are 'age'.",
        ),
        ((1, 2), 2, "There is no output 2: the output is (int, int)."),
        ((1, 2), "count", "There is no output 'count': the output is (int, int)."),
        (Pair(1, 2), "frist", "There is no output 'frist': the output is (int, int). Did you mean 'first'? There are "),
        (torch.ones(2), "shape", "There is no output 'shape': the output is float32 (2,) cpu."),
        (torch.ones(2), 0, "There is no output 0: the output is float32 (2,) cpu."),
    ],
)
def test_a_part_that_is_not_there_is_named(tree, key, text):
    with pytest.raises(MismatchError) as error:
        pick(tree, key, "output")
    assert str(error.value).startswith(text)


def test_a_dict_of_the_users_own_that_takes_something_else_is_copied():
    class Named(dict):
        def __init__(self, title):
            super().__init__()
            self.title = title

    tree = Named("a title")
    tree["a"] = 1
    mapped = map_leaves(lambda leaf: leaf + 1, tree)
    assert (type(mapped), mapped["a"], mapped.title) == (Named, 2, "a title")
    assert tree["a"] == 1
