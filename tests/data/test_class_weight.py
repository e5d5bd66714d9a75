import math

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DataLoader, TensorDataset

from kerastorch.data import class_weights
from kerastorch.errors import DataError

X = torch.ones(6, 2)
Y = torch.tensor([0, 0, 0, 2, 2, 3])


def weights(spec, data=None, **options):
    return class_weights(spec, data, name="dl_train", **options)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 7))
def test_balanced_weights_are_those_of_scikit_learn(labels, batch_size):
    y = torch.tensor(labels)
    found = weights("balanced", (y[:, None], y))
    assert found.dtype == torch.float32
    assert len(found) == max(labels) + 1
    present = np.unique(labels)
    expected = compute_class_weight("balanced", classes=present, y=np.array(labels))
    np.testing.assert_allclose(found[present].numpy(), expected, rtol=1e-6)
    absent = sorted(set(range(len(found))) - set(labels))
    assert found[absent].tolist() == [1] * len(absent)
    for data in (DataLoader(TensorDataset(y, y), batch_size), [(part, part) for part in y.split(batch_size)]):
        assert torch.equal(weights("balanced", data), found)


def test_all_classes_have_the_same_share_then():
    found = weights("balanced", (X, Y))
    totals = found * torch.bincount(Y)
    assert totals[[0, 2, 3]].tolist() == [2, 2, 2]


def test_some_rows_can_be_weighed():
    assert weights("balanced", (X, Y), rows=torch.tensor([0, 1, 3])).tolist() == [0.75, 1, 1.5]


def test_what_is_ignored_is_not_counted():
    y = torch.tensor([[0, 1, -100], [1, 1, -100]])
    assert torch.allclose(weights("balanced", (X[:2], y)), torch.tensor([2.0, 2 / 3]))


@settings(max_examples=40)
@given(st.dictionaries(st.integers(0, 9), st.floats(0, 100), min_size=1), st.integers(10, 12))
def test_labels_that_are_left_out_weigh_one(spec, classes):
    found = weights(spec)
    assert len(found) == max(spec) + 1
    assert torch.equal(weights(spec, classes=classes)[: len(found)], found)
    assert len(weights(spec, classes=classes)) == classes
    expected = [spec.get(label, 1) for label in range(classes)]
    assert torch.allclose(weights(spec, classes=classes), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    "spec",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5]),
        torch.tensor([1, 2.5], dtype=torch.float64),
        pandas.Series([1, 2.5]),
        {0: 1, 1: 2.5},
        {np.int64(1): np.float32(2.5)},
        {True: 2.5},
    ],
)
def test_weights_may_be_of_any_kind(spec):
    for options in ({}, {"classes": 2}):
        found = weights(spec, **options)
        assert found.dtype == torch.float32
        assert found.tolist() == [1, 2.5]


def test_the_data_are_not_read_for_weights_that_are_given():
    data = iter([(X, Y)])
    assert weights({1: 2}, data).tolist() == weights([1, 2], data).tolist() == [1, 2]
    assert len(list(data)) == 1


def test_more_classes_than_labels_weigh_one():
    assert weights("balanced", (X, Y), classes=6)[4:].tolist() == [1, 1]


KNOWN = "It is {label: weight}, one weight per class, or 'balanced'."


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        ("balansed", {}, f"Unknown class_weight 'balansed'. Did you mean 'balanced'? {KNOWN}"),
        (2.0, {}, f"Unknown class_weight 2.0. {KNOWN}"),
        ([[1.0]], {}, f"Unknown class_weight [[1.0]]. {KNOWN}"),
        (["a"], {}, f"Unknown class_weight ['a']. {KNOWN}"),
        ({}, {}, f"class_weight is empty. {KNOWN}"),
        ([], {}, f"class_weight is empty. {KNOWN}"),
        ({-1: 2}, {}, "class_weight is {label: weight} with labels 0, 1, 2 and so on; got the label -1."),
        (
            {10**9: 2},
            {},
            "class_weight is {label: weight} with labels 0, 1, 2 and so on; got the label 1000000000.",
        ),
        ({0.5: 2}, {}, "class_weight is {label: weight} with labels 0, 1, 2 and so on; got the label 0.5."),
        ({"cat": 2}, {}, "class_weight is {label: weight} with labels 0, 1, 2 and so on; got the label 'cat'."),
        ({0: "heavy"}, {}, "class_weight[0] is a number; got 'heavy'."),
        ({0: -2}, {}, "The weight of a class is 0 or more; class_weight has -2 for the class 0."),
        ({2: math.nan}, {}, "The weight of a class is 0 or more; class_weight has nan for the class 2."),
        ([1, math.inf], {}, "The weight of a class is 0 or more; class_weight has inf for the class 1."),
        ([1, 2, 3], {"classes": 2}, "class_weight has 3 weights, but there are 2 classes."),
        ([1, 2, 3], {"classes": 4}, "class_weight has 3 weights, but there are 4 classes."),
        ({3: 2}, {"classes": 3}, "class_weight has a weight for the class 3, but there are 3 classes, from 0."),
    ],
)
def test_weights_that_are_none_are_refused(spec, options, text):
    with pytest.raises(ValueError) as error:
        weights(spec, **options)
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            (X, torch.rand(6)),
            "Labels are whole numbers, one-hot rows, or zeros and ones. The targets of dl_train are none of these: "
            "float32 (6,) cpu. If they are: type y.long(), or y.astype('int64').",
        ),
        ((X, Y - 1), "Labels are numbers of classes, 0, 1, 2 and so on; those of dl_train hold -1 and 2."),
        (
            (X, 10**12 * Y),
            f"Labels are numbers of classes, 0, 1, 2 and so on; those of dl_train hold 0 and {3 * 10**12}.",
        ),
        ((X, 0 * Y - 100), "dl_train has no labels to count."),
        (
            (batch for batch in [(X, Y)]),
            "dl_train is a generator, which can be read once, and would be empty after its labels were read. "
            "Pass a list or a DataLoader.",
        ),
    ],
)
def test_data_without_labels_cannot_be_balanced(data, text):
    with pytest.raises(DataError) as error:
        weights("balanced", data)
    assert str(error.value) == text
