from collections import OrderedDict, UserDict, namedtuple
from types import MappingProxyType
from unittest.mock import ANY

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from kerastorch.data.batch import Batch, count_samples, to_tensors, unpack
from kerastorch.errors import DataError
from kerastorch.tree import describe, leaves

Sample = namedtuple("Sample", ["image", "label"])
WHOLE = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32]


class Encoding(UserDict):
    """The form of what tokenizers return: a dict with `.to`."""

    def to(self, device):
        return Encoding({name: tensor.to(device) for name, tensor in self.data.items()})


def packed(*lengths):
    return pack_sequence([torch.arange(float(length)) for length in lengths], enforce_sorted=False)


@pytest.mark.parametrize(
    "item",
    [
        torch.ones(2, 3),
        np.ones((2, 3)),
        {"a": torch.ones(2, 3), "b": 1},
        (torch.ones(2, 3),),
        [torch.ones(2, 3)],
        ((torch.ones(2, 3), torch.ones(2)),),
    ],
)
def test_one_item_is_the_input(item):
    batch = unpack(item, 4, torch.float32)
    assert (batch.index, batch.y, batch.weight, batch.size) == (4, None, None, 2)


@pytest.mark.parametrize("kind", [tuple, list, lambda parts: Sample(*parts)])
def test_two_items_are_input_and_target(kind):
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    batch = unpack(kind([x, y]), 0, torch.float32)
    assert batch.x is x
    assert batch.y is y
    assert batch.weight is None


def test_three_items_are_input_target_and_sample_weight():
    x, y, weight = torch.ones(2, 3), {"a": torch.ones(2), "b": None}, torch.ones(2)
    batch = unpack((x, y, weight), 0, torch.float32)
    assert batch.x is x
    assert batch.y["a"] is y["a"]
    assert batch.weight is weight


def test_targets_and_weights_may_be_none():
    batch = unpack((torch.ones(2), None, None), 0, torch.float32)
    assert (batch.y, batch.weight, batch.size) == (None, None, 2)
    assert unpack((torch.ones(2), None, torch.ones(2)), 0, torch.float32).weight.tolist() == [1, 1]


def test_a_packed_sequence_is_an_input():
    sequence = packed(2, 1, 3)
    for item in (sequence, (sequence,), (sequence, torch.ones(3))):
        assert unpack(item, 0, torch.float32).x is sequence


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ((), "batch 7 has 0 items: ()."),
        ([], "batch 7 has 0 items: ()."),
        (
            (torch.ones(1), 2, 3, None),
            "batch 7 has 4 items: (float32 (1,) cpu, int, int, None).",
        ),
    ],
)
def test_no_items_or_too_many_are_refused(item, text):
    with pytest.raises(DataError) as error:
        unpack(item, 7, torch.float32)
    assert str(error.value) == (
        f"A batch is x, (x, y) or (x, y, sample_weight); {text} "
        "Several inputs go into a tuple of their own: ((a, b), y)."
    )


@pytest.mark.parametrize("weight", [torch.ones(2), torch.ones(3, 2), torch.tensor(1.0), [1.0, 1.0, 1.0], "text"])
def test_sample_weights_of_another_number_are_refused(weight):
    with pytest.raises(DataError) as error:
        unpack((torch.ones(3, 2), torch.ones(3), weight), 7, torch.float32)
    assert str(error.value) == (
        f"The third item of a batch is sample weights (3,); batch 7 has {describe(weight)}. "
        "Several inputs go into a tuple of their own: ((a, b), y)."
    )


def test_sample_weights_may_be_a_column_and_an_array():
    for weight in (np.ones((3, 1)), torch.ones(3, 1), np.ones(3, dtype=np.int32)):
        assert unpack((torch.ones(3, 2), None, weight), 0, torch.float32).weight.numel() == 3


def test_sample_weights_may_be_nested_one_for_each_output():
    first, second = torch.ones(3), np.ones((3, 1))
    for weight in ({"a": first, "b": second}, (first, second), [first, (second,)], (None, first), {"a": first}):
        nested = unpack((torch.ones(3, 2), None, weight), 0, torch.float32).weight
        assert type(nested) is type(weight)
        assert all(leaf is None or leaf.numel() == 3 for leaf in leaves(nested))


@pytest.mark.parametrize("weight", [{"a": torch.ones(3), "b": torch.ones(2)}, (torch.ones(3), "text")])
def test_nested_sample_weights_are_looked_at_leaf_by_leaf(weight):
    with pytest.raises(DataError) as error:
        unpack((torch.ones(3, 2), torch.ones(3), weight), 7, torch.float32)
    assert str(error.value) == (
        f"The third item of a batch is sample weights (3,) for each output; batch 7 has {describe(weight)}. "
        "Several inputs go into a tuple of their own: ((a, b), y)."
    )


@pytest.mark.parametrize("weight", [{}, (), [None]])
def test_no_weights_at_all_are_no_weights(weight):
    with pytest.raises(DataError, match=r"is sample weights \(3,\)"):
        unpack((torch.ones(3, 2), torch.ones(3), weight), 7, torch.float32)


@pytest.mark.parametrize("float_dtype", [torch.float32, torch.float16, torch.float64])
def test_float64_becomes_the_dtype_of_the_net(float_dtype):
    wide, narrow = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float32)
    batch = unpack(({"a": wide, "b": narrow}, wide.numpy(), wide), 0, float_dtype)
    assert batch.x["a"].dtype == batch.y.dtype == batch.weight.dtype == float_dtype
    assert batch.x["b"].dtype == torch.float32
    assert wide.dtype == torch.float64


@pytest.mark.parametrize("dtype", WHOLE)
def test_arrays_of_whole_numbers_are_labels_as_int64_and_inputs_as_they_are(dtype):
    array = np.array([3, 1, 2], dtype=dtype)
    batch = unpack((array, array, array), 0, torch.float32)
    assert batch.y.dtype == torch.int64
    assert batch.y.tolist() == [3, 1, 2]
    assert batch.x.numpy().dtype == dtype
    assert batch.x.tolist() == [3, 1, 2]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.bool_, np.complex64])
def test_other_arrays_keep_their_dtype(dtype):
    array = np.array([1, 0], dtype=dtype)
    batch = unpack((array, array), 0, torch.float32)
    assert batch.x.dtype.is_complex == (dtype == np.complex64)
    assert batch.x.numpy().dtype == batch.y.numpy().dtype == dtype
    assert np.array_equal(batch.x.numpy(), array)


def test_tensors_of_whole_numbers_keep_their_dtype():
    batch = unpack((torch.ones(2, dtype=torch.uint8), torch.ones(2, dtype=torch.int32)), 0, torch.float32)
    assert (batch.x.dtype, batch.y.dtype) == (torch.uint8, torch.int32)


def test_numpy_numbers_become_tensors_without_dimensions():
    assert to_tensors(np.float64(2.5), torch.float32).dtype == torch.float32
    assert to_tensors(np.float64(2.5), torch.float32).shape == ()
    assert to_tensors(np.int32(2), torch.float32, labels=True).dtype == torch.int64


@pytest.mark.parametrize(
    "view", [np.arange(6)[::-1], np.arange(12).reshape(2, 6)[:, ::-2], np.arange(6.0, dtype=">f4")]
)
def test_any_memory_layout_of_an_array_is_taken(view):
    assert to_tensors(view, torch.float32).tolist() == view.tolist()


def test_arrays_that_cannot_be_written_to_are_taken_without_a_warning():
    array = np.arange(3.0, dtype=np.float32)
    array.flags.writeable = False
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        assert to_tensors(array, torch.float32).tolist() == [0, 1, 2]
    finally:
        torch.set_warn_always(before)


def test_other_leaves_stay_as_they_are():
    text, names = ["a", "b"], np.array(["a", "b"])
    batch = unpack(((text, names), "y", None), 0, torch.float32)
    assert batch.x[0] == text
    assert batch.x[1] is names
    assert batch.y == "y"


def test_a_tensor_class_of_the_users_own_is_kept():
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert to_tensors(parameter, torch.float64) is parameter
    assert to_tensors(parameter, torch.float32).dtype == torch.float32


@settings(max_examples=40)
@given(st.integers(0, 5), st.integers(0, 3))
def test_the_size_is_the_length_of_the_first_tensor(count, features):
    x = torch.zeros(count, features)
    for nested in (x, (x, torch.zeros(9)), {"a": [x], "b": torch.zeros(9)}, ("text", x), (torch.tensor(1.0), x)):
        assert count_samples(nested) == count


def test_the_size_of_packed_sequences_and_tokens_is_their_number():
    assert count_samples(packed(4, 1, 2)) == 3
    assert count_samples((packed(4, 1, 2), torch.ones(3))) == 3
    assert count_samples(Encoding(ids=torch.ones(5, 2))) == 5


def test_the_targets_tell_the_size_where_the_inputs_do_not():
    assert unpack((["a text", "another", "a third"], torch.tensor([0, 1, 1])), 0, torch.float32).size == 3
    assert unpack((None, {"labels": np.zeros(4)}), 0, torch.float32).size == 4


@pytest.mark.parametrize("x", [torch.tensor(1.0), "text", None, (), {"a": 1}])
def test_where_nothing_tells_the_size_it_is_one(x):
    assert unpack((x, None), 0, torch.float32).size == 1


def test_a_batch_says_what_it_holds():
    batch = Batch(0, (torch.ones(2, 3), torch.ones(2)), torch.tensor([0, 1]))
    assert batch.describe() == "x (float32 (2, 3) cpu, float32 (2,) cpu), y int64 (2,) cpu"
    batch.weight = torch.ones(2)
    assert batch.describe().endswith(", y int64 (2,) cpu, weight float32 (2,) cpu")
    assert Batch(3, None).describe() == "x None, y None"


def labelled(kind, **values):
    return kind({"ids": torch.ones(4, 2)} | values)


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, Encoding])
def test_a_dict_with_labels_is_inputs_and_targets(kind):
    item = labelled(kind, labels=torch.arange(4))
    batch = unpack(item, 3, torch.float32)
    assert (batch.index, batch.size, batch.weight) == (3, 4, None)
    assert batch.y is batch.x["labels"] is item["labels"]
    assert batch.x["ids"] is item["ids"]
    assert type(batch.x) is kind
    assert batch.x is item or kind is dict


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, Encoding])
def test_arrays_of_a_dict_with_labels_become_tensors_and_the_users_dict_stays(kind):
    item = labelled(kind, labels=np.arange(4, dtype=np.int32), more=np.ones((4, 1)))
    batch = unpack(item, 0, torch.float16)
    assert type(batch.x) is kind
    assert batch.x is not item
    assert batch.y is batch.x["labels"]
    assert batch.y.dtype == torch.int64
    assert batch.x["more"].dtype == torch.float16
    assert isinstance(item["labels"], np.ndarray)


def test_labels_tell_the_size_of_a_dict():
    assert unpack({"pixels": torch.ones(9, 2), "labels": torch.ones(3)}, 0, torch.float32).size == 3
    assert unpack({"ids": torch.ones(5, 2), "labels": None}, 0, torch.float32).size == 5


def test_a_dict_that_cannot_be_changed_gives_one_that_can():
    frozen = MappingProxyType({"ids": np.ones(2), "labels": np.arange(2)})
    assert unpack(frozen, 0, torch.float32).x == {"ids": ANY, "labels": ANY}


def test_what_a_tokenizer_gives_is_converted_among_inputs():
    encoding = Encoding(ids=np.ones((3, 2)), text="a")
    batch = unpack((encoding, torch.ones(3)), 0, torch.float32)
    assert type(batch.x) is Encoding
    assert batch.x["ids"].dtype == torch.float32
    assert batch.x["text"] == "a"
    assert batch.size == 3
    ready = Encoding(ids=torch.ones(3, 2))
    assert unpack((ready, torch.ones(3)), 0, torch.float32).x is ready


def test_real_tokenizer_output_is_taken():
    transformers = pytest.importorskip("transformers.tokenization_utils_base")
    encoding = transformers.BatchEncoding({"ids": np.ones((3, 2), np.int64), "labels": np.arange(3)})
    batch = unpack(encoding, 0, torch.float32)
    assert type(batch.x) is transformers.BatchEncoding
    assert batch.y.tolist() == batch.x.to("cpu")["labels"].tolist() == [0, 1, 2]


class Graph:
    """The form of what PyTorch Geometric gives: attributes, and `.to`."""

    def __init__(self, **values):
        vars(self).update(values)

    def to(self, device):
        return self


def test_a_graph_holds_its_targets():
    graphs = Graph(x=torch.ones(9, 2), y=torch.ones(2, dtype=torch.float64), num_graphs=2)
    batch = unpack(graphs, 1, torch.float32)
    assert batch.x is graphs
    assert batch.y.dtype == torch.float32
    assert (batch.size, batch.index, batch.weight) == (2, 1, None)
    nodes = Graph(x=torch.ones(9, 2), y=torch.arange(9))
    assert unpack(nodes, 0, torch.float32).size == 9
    assert unpack(nodes, 0, torch.float32).y is nodes.y


@pytest.mark.parametrize("item", [Graph(), Graph(y=None), Graph(y="text")])
def test_what_has_no_targets_is_an_input(item):
    batch = unpack(item, 0, torch.float32)
    assert batch.x is item
    assert batch.y is None


def test_tables_may_come_batch_by_batch():
    frame = pandas.DataFrame({"a": [1.5, 2.5], "b": [1, 0]})
    batch = unpack((frame, frame["b"], frame["a"]), 0, torch.float32)
    assert batch.x.tolist() == [[1.5, 1.0], [2.5, 0.0]]
    assert batch.x.is_contiguous()
    assert (batch.x.dtype, batch.y.dtype, batch.weight.dtype) == (torch.float32, torch.int64, torch.float32)
    assert unpack((frame, frame[["b"]]), 0, torch.float32).y.shape == (2, 1)
    with pytest.raises(DataError, match=r"^A batch needs numbers, but its column 'a' holds text\."):
        unpack((pandas.DataFrame({"a": ["x"]}), torch.ones(1)), 0, torch.float32)


def test_masked_arrays_are_refused_where_something_is_masked():
    with pytest.raises(DataError, match=r"A batch holds a masked array.* Type array.filled\(0\)"):
        unpack((np.ma.masked_array([1.0, 2.0], [False, True]),), 0, torch.float32)
    assert unpack((np.ma.masked_array([1.0, 2.0]),), 0, torch.float32).x.tolist() == [1, 2]


def test_numbers_longer_than_torch_knows_are_shortened():
    assert to_tensors(np.arange(3, dtype=np.longdouble), torch.float32).tolist() == [0, 1, 2]
