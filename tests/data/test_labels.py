import random
from collections import UserDict

import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from kerastorch.data import labels_of
from kerastorch.data.labels import label_counts
from kerastorch.errors import DataError

COUNT = 150
X = torch.ones(COUNT, 2)
Y = torch.randint(5, (COUNT,), generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([3, 1, 1, 149])


class Samples(Dataset):
    """Gives samples one by one, and counts; `told` is what it says of its labels, under the name `told_as`."""

    def __init__(self, labels=Y, told=None, told_as="targets", change=lambda label: label):
        self.held, self.change, self.read = labels, change, 0
        if told is not None:
            setattr(self, told_as, told)

    def __len__(self):
        return len(self.held)

    def __getitem__(self, index):
        self.read += 1
        return X[0], self.change(self.held[index])


class Stream(IterableDataset):
    def __init__(self, labels=Y):
        self.held = labels

    def __iter__(self):
        return ((X[0], label) for label in self.held)


class Records:
    """What `datasets.Dataset` is."""

    column_names = ("x", "labels")

    def __init__(self):
        self.read = 0

    def __len__(self):
        return COUNT

    def __getitem__(self, key):
        return Y.tolist() if key == "labels" else {"x": 1.0, "labels": Y[key].item()}

    def __getitems__(self, numbers):
        self.read += len(numbers)
        return [self[number] for number in numbers]


class Graph:
    def __init__(self, y):
        self.y = y

    def to(self, device):
        return self


class Graphs(Samples):
    def __getitem__(self, index):
        return Graph(self.held[index : index + 1])


def collated(samples):
    return torch.utils.data.default_collate(samples)


class Encoding(UserDict):
    def to(self, device):
        return self


def batched(x=X, y=Y, size=8):
    return list(zip(x.split(size), y.split(size), strict=True))


FORMS = {
    "tensors": lambda: (X, Y),
    "weighted": lambda: (X, Y, X[:, 0]),
    "nested inputs": lambda: ({"a": X, "b": [X]}, Y),
    "arrays": lambda: (X.numpy(), Y.numpy().astype(np.int16)),
    "unsigned arrays": lambda: (X.numpy(), Y.numpy().astype(np.uint16)),
    "frames": lambda: (pandas.DataFrame(X.numpy()), pandas.DataFrame({"y": Y.numpy()})),
    "dict": lambda: {"x": X, "labels": Y},
    "tokens": lambda: Encoding(x=X, labels=Y),
    "column": lambda: (X, Y[:, None]),
    "one-hot": lambda: (X, torch.nn.functional.one_hot(Y).float()),
    "one-hot flags": lambda: (X, torch.nn.functional.one_hot(Y).bool()),
    "probabilities": lambda: (X, (3.0 * torch.nn.functional.one_hot(Y)).softmax(1)),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": Samples,
    "Dataset of numbers": lambda: Samples(Y.tolist()),
    "Dataset of arrays": lambda: Samples(Y.numpy()),
    "Dataset of columns": lambda: Samples(Y[:, None]),
    "Dataset of one-hot rows": lambda: Samples(torch.nn.functional.one_hot(Y).float()),
    "Dataset with targets": lambda: Samples(told=Y),
    "Dataset with a list of labels": lambda: Samples(told=Y.tolist(), told_as="labels"),
    "Dataset with wrong targets": lambda: Samples(told=(Y + 1) % 5),
    "Dataset with targets of another number": lambda: Samples(told=Y[:-1]),
    "Dataset with targets of another form": lambda: Samples(told=torch.nn.functional.one_hot(Y)),
    "Dataset with names as targets": lambda: Samples(told=["a", "b"] * 75),
    "Dataset with ragged targets": lambda: Samples(told=[[1]] * 149 + [[1, 2]]),
    "Dataset with a method of that name": lambda: Samples(told=len, told_as="labels"),
    "Dataset that changes its targets": lambda: Samples(Y + 1, told=Y + 1, change=lambda label: label - 1),
    "Subset": lambda: Subset(Samples(torch.cat([Y, Y]), told=torch.cat([Y, Y])), range(COUNT, 2 * COUNT)),
    "Subset of the unknown": lambda: Subset(Samples(), np.arange(COUNT)),
    "ConcatDataset": lambda: ConcatDataset([Samples(Y[:50], told=Y[:50]), TensorDataset(X[50:], Y[50:])]),
    "ConcatDataset of the unknown": lambda: ConcatDataset([Samples(Y[:50]), TensorDataset(X[50:], Y[50:])]),
    "read by lists of numbers": Records,
    "graphs": Graphs,
    "DataLoader": lambda: DataLoader(Samples(told=Y), 8),
    "DataLoader of the unknown": lambda: DataLoader(Samples(), 8),
    "DataLoader of a stream": lambda: DataLoader(Stream(), 8),
    "DataLoader without batches": lambda: DataLoader(TensorDataset(X, Y[:, None]), None),
    "DataLoader that collates": lambda: DataLoader(
        Graphs(), 8, collate_fn=lambda some: Graph(torch.cat([g.y for g in some]))
    ),
    "IterableDataset": Stream,
    "batches": batched,
    "batches of dicts": lambda: [{"x": x, "labels": y} for x, y in batched()],
    "batches of arrays": lambda: [(x.numpy(), y.numpy()) for x, y in batched()],
    "graph": lambda: Graph(Y),
}
BY_NUMBER = [
    name for name, make in FORMS.items() if "Loader" not in name and "Dataset" in name.replace("IterableDataset", "")
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_labels(form):
    torch.manual_seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = labels_of(FORMS[form](), name="dl_train")
    assert found.dtype == torch.int64
    assert found.tolist() == Y.tolist()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert torch.equal(label_counts(FORMS[form](), name="dl_train"), torch.bincount(Y))


@pytest.mark.parametrize(
    "form", ["tensors", "dict", "frames", "one-hot", "read by lists of numbers", "graphs", *BY_NUMBER]
)
def test_some_rows_can_be_asked_for(form):
    assert labels_of(FORMS[form](), name="dl_train", rows=ROWS).tolist() == Y[ROWS].tolist()


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (lambda known: known, 3),
        (lambda known: Subset(known, range(100)), 3),
        (lambda known: Subset(Subset(known, range(100)), torch.arange(50)), 3),
        (lambda known: DataLoader(known, 8, shuffle=True), 3),
        (lambda known: DataLoader(known, 8, shuffle=True, drop_last=True), 3),
        (lambda known: DataLoader(known, 8, num_workers=2), 3),
        (lambda known: DataLoader(known, 8, drop_last=True), 144),
        (lambda known: DataLoader(known, 8, sampler=RandomSampler(known, replacement=True)), 150),
        (lambda known: DataLoader(known, 8, sampler=RandomSampler(known, num_samples=10)), 10),
        (lambda known: DataLoader(known, 8, sampler=WeightedRandomSampler([1.0] * 150, 30)), 30),
        (lambda known: DataLoader(known, batch_sampler=BatchSampler(range(20), 8, False)), 20),
        (lambda known: DataLoader(known, 8, sampler=range(30)), 30),
        (lambda known: DataLoader(known, 8, collate_fn=collated), 150),
    ],
)
def test_as_little_is_read_as_the_data_allow(data, read):
    known = Samples(told=Y)
    labels_of(data(known), name="dl_train")
    assert known.read == read


def test_a_data_set_that_tells_nothing_is_read_once():
    unknown = Samples()
    labels_of(unknown, name="dl_train")
    assert unknown.read == COUNT
    labels_of(unknown, name="dl_train", rows=ROWS)
    assert unknown.read == COUNT + len(ROWS)


class Moved(Samples):
    """What a Dataset of torchvision holds where targets are changed on their way out."""

    def __init__(self, **transforms):
        super().__init__(told=Y)
        vars(self).update(transforms)


class Standard:
    def __init__(self, target_transform):
        self.target_transform = target_transform


@pytest.mark.parametrize(
    ("transforms", "trusted"),
    [
        ({}, True),
        ({"target_transform": None, "transforms": None}, True),
        ({"transform": len, "transforms": Standard(None)}, True),
        ({"target_transform": len}, False),
        ({"target_transform": len, "transforms": Standard(len)}, False),
        ({"transforms": lambda image, target: (image, target)}, False),
    ],
)
def test_targets_that_are_transformed_are_not_trusted(transforms, trusted):
    dataset = Moved(**transforms)
    assert labels_of(dataset, name="dl").tolist() == Y.tolist()
    assert dataset.read == (3 if trusted else COUNT)


def test_real_torchvision_data_are_trusted_or_not():
    datasets = pytest.importorskip("torchvision.datasets")
    options = {"size": COUNT, "image_size": (1, 2, 2), "num_classes": 5}
    data = datasets.FakeData(**options)
    plain = labels_of(data, name="dl")
    changed = labels_of(datasets.FakeData(**options, target_transform=lambda label: label + 1), name="dl")
    assert torch.equal(changed, plain + 1)


class Noisy(Samples):
    def __getitem__(self, index):
        torch.rand(1), np.random.rand(), random.random()
        return super().__getitem__(index)


@pytest.mark.parametrize("shuffle", [False, True])
def test_reading_leaves_every_random_number_as_it_was(shuffle):
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Noisy(), 8, shuffle=shuffle, generator=generator, collate_fn=collated)
    torch.manual_seed(0)
    first = [batch[1].tolist() for batch in loader]
    torch.manual_seed(0)
    generator.manual_seed(3)
    labels_of(loader, name="dl")
    assert [batch[1].tolist() for batch in loader] == first


def test_labels_of_pixels_and_words_come_one_after_the_other():
    masks = torch.arange(24).reshape(2, 3, 4)
    for data in ((X[:2], masks), TensorDataset(X[:2], masks), Samples(masks), [(X[:2], masks)]):
        assert labels_of(data, name="dl").tolist() == list(range(24))
    assert labels_of((X[:2], masks), name="dl", rows=torch.tensor([1])).tolist() == list(range(12, 24))
    ragged = [torch.arange(3), torch.arange(5), torch.arange(5), torch.zeros(70_000, dtype=torch.uint8)]
    assert labels_of(Samples(ragged), name="dl").tolist() == [*range(3), *range(5), *range(5), *([0] * 70_000)]


def test_labels_of_two_classes_may_be_floats():
    two = (Y > 2).float()
    for y in (two, two[:, None], two.bool(), two.half()):
        for data in ((X, y), Samples(y), Samples(y, told=y), [(X, y)]):
            assert labels_of(data, name="dl").tolist() == two.tolist()


def test_counts_grow_with_the_labels():
    y = torch.tensor([0, 0, 3, -100, 1])
    for data in ((X[:5], y), batched(X[:5], y, 1)):
        assert label_counts(data, name="dl").tolist() == [2, 1, 0, 1]
    assert label_counts((X[:5], y.abs()), name="dl", ignore_index=3).tolist()[:4] == [2, 1, 0, 0]


NONE = "Labels are whole numbers, one-hot rows, or zeros and ones. The targets of dl_train are none of these: "
TYPE = "If they are: type y.long(), or y.astype('int64')."
BY_HAND = "Say what is wanted by hand: stratify=labels, or class_weight={0: 1, 1: 5}."
WHERE = "They come second, (x, y), or in a dict as 'labels'."


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        ((X, X[:, 0] / 3), {}, f"{NONE}float32 (150,) cpu. {TYPE}"),
        ((X, X / 3), {}, f"{NONE}float32 (150, 2) cpu. {TYPE}"),
        ((X, X), {}, f"{NONE}float32 (150, 2) cpu. A row may have one class only."),
        ((X, X[:, 0] * 1j), {}, f"{NONE}complex64 (150,) cpu. {TYPE}"),
        ((X, X * 1j), {}, f"{NONE}complex64 (150, 2) cpu. {TYPE}"),
        ((X,), {}, f"dl_train has no targets: it holds (float32 (150, 2) cpu). {WHERE}"),
        (X, {}, f"dl_train has no targets: it holds float32 (150, 2) cpu. {WHERE}"),
        ({"a": X}, {}, f"dl_train has no targets: it holds {{'a': float32 (150, 2) cpu}}. {WHERE}"),
        (TensorDataset(X), {}, f"dl_train has no targets: it holds (float32 (2,) cpu). {WHERE}"),
        ([(X,)], {}, f"dl_train has no targets: batch 0 holds (float32 (150, 2) cpu). {WHERE}"),
        (
            (X, {"a": Y, "b": Y}),
            {},
            "Labels are one tensor or array; the targets of dl_train are "
            f"{{'a': int64 (150,) cpu, 'b': int64 (150,) cpu}}. {BY_HAND}",
        ),
        (
            [(X, (Y, Y))],
            {},
            "Labels are one tensor or array; the targets of dl_train are (int64 (150,) cpu, int64 (150,) cpu). "
            f"{BY_HAND}",
        ),
        (Samples(["cat"]), {}, "Labels are whole numbers; a sample of dl_train has the target str."),
        (Samples([{"a": 1}]), {}, "Labels are whole numbers; a sample of dl_train has the target {'a': int}."),
        (
            Samples([[[1], [2, 3]]]),
            {},
            "Labels are whole numbers; a sample of dl_train has the target ((int), (int, int)).",
        ),
        (
            iter([]),
            {},
            "dl_train is a list_iterator, which can be read once, and would be empty after its labels were read. "
            "Pass a list or a DataLoader.",
        ),
        (
            batched(),
            {"rows": ROWS},
            "Rows of dl_train were chosen, but it is a list, which knows no samples by number.",
        ),
        (
            Stream(),
            {"rows": ROWS},
            "Rows of dl_train were chosen, but it is a Stream, which knows no samples by number.",
        ),
        ((X, Y), {"rows": ROWS + 1}, "The rows of dl_train go from 2 to 150, but it has 150 samples, from 0."),
        (Samples(), {"rows": ROWS + 1}, "The rows of dl_train go from 2 to 150, but it has 150 samples, from 0."),
        ([], {}, "dl_train is empty: it has no labels."),
        (DataLoader(Stream(Y[:0]), 8), {}, "dl_train is empty: it has no labels."),
        (Stream(Y[:0]), {}, "dl_train is empty: it has no labels."),
        (Samples([]), {}, "dl_train is empty: its Samples has no samples."),
        (
            None,
            {},
            "There is no data: dl_train is None. Pass a DataLoader, an iterable of batches, a Dataset, or a tuple of "
            "tensors, arrays or DataFrames.",
        ),
        (
            (X, pandas.Series(["cat"] * COUNT, name="kind")),
            {},
            "dl_train needs numbers, but its Series 'kind' holds text. "
            "Type series.astype('category').cat.codes for a number per value.",
        ),
    ],
)
def test_what_has_no_labels_is_refused(data, options, text):
    with pytest.raises(DataError) as error:
        labels_of(data, name="dl_train", **options)
    assert str(error.value) == text


def test_an_iterator_that_is_refused_is_not_read():
    data = iter(batched())
    with pytest.raises(DataError):
        labels_of(data, name="dl")
    assert len(list(data)) == len(batched())
