import math

import numpy as np
import pandas
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kerastorch.data import adapt, split
from kerastorch.errors import DataError

fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Endless(Dataset):
    def __getitem__(self, index):
        return index


def numbered(count):
    return torch.arange(count)[:, None].float(), torch.arange(count)


FORMS = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "frames": lambda x, y: (pandas.DataFrame(x.numpy()), pandas.Series(y.numpy())),
    "labelled dict": lambda x, y: {"x": x, "labels": y},
    "nested": lambda x, y: ({"a": x, "b": [x]}, y, torch.ones(len(x))),
    "TensorDataset": TensorDataset,
    "Dataset": Pairs,
}


@settings(max_examples=100)
@given(st.integers(2, 60), fractions, seeds)
def test_every_sample_is_in_one_part_and_the_sizes_are_those_of_scikit_learn(count, fraction, seed):
    assume(math.ceil(fraction * count) < count)
    train, validation = split(numbered(count), fraction, seed=seed)
    assert train.dtype == validation.dtype == torch.int64
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(count))
    expected = train_test_split(np.arange(count), test_size=fraction)
    assert (len(train), len(validation)) == tuple(map(len, expected))


@pytest.mark.parametrize("stratify", [False, True, np.False_, np.True_, None])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_split_alike(form, stratify):
    x, y = numbered(40)
    parts = split(FORMS[form](x, y % 3), 0.3, stratify=stratify, seed=1)
    expected = split((x, y % 3), np.float64(0.3), stratify=bool(stratify), seed=np.int64(1))
    assert all(map(torch.equal, parts, expected))
    assert [len(part) for part in parts] == [28, 12]


@settings(max_examples=100)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=8), fractions, seeds, st.randoms())
def test_classes_have_their_share_in_both_parts(counts, fraction, seed, random):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(labels)
    total, chosen = len(labels), math.ceil(fraction * len(labels))
    assume(len(counts) <= min(chosen, total - chosen))
    y = torch.tensor(labels)
    train, validation = split((y[:, None], y), fraction, stratify=True, seed=seed)
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(total))
    assert len(validation) == chosen
    found = torch.bincount(y[validation], minlength=len(counts))
    ideal = torch.tensor(counts) * chosen / total
    forced = (ideal < 1) | (ideal > torch.tensor(counts) - 1)
    assert (found >= 1).all()
    assert (found < torch.tensor(counts)).all()
    assert forced.any() or ((found - ideal).abs() < 1).all()
    parts = train_test_split(labels, test_size=fraction, stratify=labels)
    assert [len(train), len(validation)] == [len(part) for part in parts]


def test_shares_go_by_the_largest_remainder():
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    _, validation = split((y, y), 0.23, stratify=True)
    assert torch.bincount(y[validation]).tolist() == [11, 7, 5]  # of 11.5, 6.9 and 4.6


def test_a_rare_class_is_in_both_parts():
    y = torch.tensor([0] * 96 + [1] * 2 + [2] * 2)
    for fraction, expected in ((0.05, [3, 1, 1]), (0.95, [93, 1, 1])):
        _, validation = split((y, y), fraction, stratify=True)
        assert torch.bincount(y[validation]).tolist() == expected


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"] * 10,
        np.array(["cat", "dog"] * 10),
        pandas.Series(["cat", "dog"] * 10),
        torch.tensor([[1], [-100]] * 10),
        [0.5, 1.5] * 10,
    ],
)
def test_any_labels_can_be_given(labels):
    train, validation = split(numbered(20), 0.2, stratify=labels)
    assert [(rows % 2).sum().item() for rows in (train, validation)] == [8, 2]


@pytest.mark.parametrize(
    "y",
    [
        torch.nn.functional.one_hot(torch.arange(20) % 2, 2).float(),
        (torch.arange(20) % 2).float(),
        (torch.arange(20) % 2 == 1)[:, None],
    ],
)
def test_labels_may_be_one_hot_or_of_two_classes(y):
    _, validation = split((numbered(20)[0], y), 0.2, stratify=True)
    assert (validation % 2).sum() == 2


@pytest.mark.parametrize("stratify", [False, True])
def test_the_same_arguments_give_the_same_parts(stratify):
    x, y = numbered(50)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = split((x, y % 5), 0.2, stratify=stratify)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(map(torch.equal, split((x, y % 5), 0.2, stratify=stratify), first))
    assert all(map(torch.equal, split((x, y % 5), 0.2, stratify=stratify, seed=0), first))
    others = {tuple(split((x, y % 5), 0.2, stratify=stratify, seed=seed)[1].tolist()) for seed in range(20)}
    assert len(others) == 20


def test_every_sample_is_chosen_as_often_as_every_other():
    x, y = numbered(10)
    chosen = torch.cat([split((x, y), 0.3, seed=seed)[1] for seed in range(2000)])
    counts = torch.bincount(chosen, minlength=10)
    assert (counts - 600).abs().max() < 6 * math.sqrt(2000 * 0.3 * 0.7)


def test_rows_are_in_ascending_order_and_can_be_used():
    data = numbered(10)
    for rows in split(data, 0.3):
        assert torch.equal(rows, rows.sort().values)
        batches = adapt(data, name="dl", rows=rows, shuffle=False, batch_size=4).batches(0)
        assert torch.equal(torch.cat([batch.y for batch in batches]), rows)


X, Y = numbered(10)
SPLIT = "torch.utils.data.random_split(dataset, [0.8, 0.2]), and pass each part as data."


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        ((X, Y), {"fraction": 0}, "The part of dl_train to validate on is above 0 and below 1, such as 0.2; got 0."),
        ((X, Y), {"fraction": 20}, "The part of dl_train to validate on is above 0 and below 1, such as 0.2; got 20."),
        (
            (X, Y),
            {"fraction": math.nan},
            "The part of dl_train to validate on is above 0 and below 1, such as 0.2; got nan.",
        ),
        (
            (X, Y),
            {"fraction": "0.2"},
            "The part of dl_train to validate on is above 0 and below 1, such as 0.2; got '0.2'.",
        ),
        (
            (X[:1], Y[:1]),
            {},
            "dl_train has 1 sample, and 0.2 of them to validate on leaves none to train on.",
        ),
        (
            (X, Y),
            {"fraction": 0.95},
            "dl_train has 10 samples, and 0.95 of them to validate on leaves none to train on.",
        ),
        ((X, Y[:3]), {}, "The arrays of dl_train differ in length: 10, 3."),
        ((X[:0], Y[:0]), {}, "dl_train is empty: its arrays have no samples."),
        (Pairs(X[:0], Y), {}, "dl_train is empty: its Pairs has no samples."),
        (
            DataLoader(Pairs(X, Y)),
            {},
            f"dl_train is a DataLoader, whose samples cannot be chosen by number. Split the Dataset: {SPLIT}",
        ),
        (
            iter([]),
            {"fraction": 0.1},
            "dl_train is a list_iterator, whose samples cannot be chosen by number. Split the Dataset: "
            "torch.utils.data.random_split(dataset, [0.9, 0.1]), and pass each part as data.",
        ),
        (
            Stream(),
            {},
            "dl_train is the IterableDataset Stream, whose samples cannot be chosen by number. Make one for each part, "
            "and pass them as dl_train and dl_val.",
        ),
        (
            Endless(),
            {},
            "dl_train cannot be read: its Endless has no __len__. Write one, or make it an IterableDataset.",
        ),
        (
            None,
            {},
            "There is no data: dl_train is None. Pass a DataLoader, an iterable of batches, a Dataset, or a tuple of "
            "tensors, arrays or DataFrames.",
        ),
        (
            (X, torch.tensor([0] * 9 + [7])),
            {"stratify": True},
            "The class 7 of dl_train has one sample, which cannot be in both parts. "
            "Take it out, or leave stratify out.",
        ),
        (
            (X, Y % 5),
            {"stratify": True},
            "dl_train has 5 classes, but one part would have 2 samples, and each part needs one of each class. "
            "Choose another fraction, or leave stratify out.",
        ),
        (
            (X, Y % 5),
            {"stratify": True, "fraction": 0.8},
            "dl_train has 5 classes, but one part would have 2 samples, and each part needs one of each class. "
            "Choose another fraction, or leave stratify out.",
        ),
        (
            (X, Y / 3),
            {"stratify": True},
            "Labels are whole numbers, one-hot rows, or zeros and ones. The targets of dl_train are none of these: "
            "float32 (10,) cpu. If they are: type y.long(), or y.astype('int64').",
        ),
        ((X,), {"stratify": True}, "dl_train has no targets: it holds (float32 (10, 1) cpu). WHERE"),
        (
            (X, torch.zeros(10, 4, 4, dtype=torch.int64)),
            {"stratify": True},
            "stratify needs one label for each of the 10 samples of dl_train; got labels of the shape (160,). "
            "Type stratify=labels with an array (10,).",
        ),
        (
            (X, Y),
            {"stratify": ["a"] * 9},
            "stratify needs one label for each of the 10 samples of dl_train; got labels of the shape (9,). "
            "Type stratify=labels with an array (10,).",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(data, options, text):
    with pytest.raises(DataError) as error:
        split(data, **{"fraction": 0.2} | options)
    assert str(error.value) == text.replace("WHERE", "They come second, (x, y), or in a dict as 'labels'.")
