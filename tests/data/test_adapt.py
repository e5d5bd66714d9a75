from collections import namedtuple

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from kerastorch.data import adapt, makes_own_batches
from kerastorch.errors import DataError

COUNT = 7
X = torch.arange(2.0 * COUNT).reshape(COUNT, 2)
Y = torch.arange(COUNT)
WEIGHT = torch.linspace(0, 1, COUNT)
Arrays = namedtuple("Arrays", ["x", "y"])


class Pairs(Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Pairs()[index] for index in range(COUNT))


class SizedStream(Stream):
    def __len__(self):
        return COUNT


class Doubled(TensorDataset):
    """Changes what it holds when it is read."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return 2 * x, y


class Endless(Dataset):
    def __getitem__(self, index):
        return X[0]


def batched(size=3):
    return [(X[start : start + size], Y[start : start + size]) for start in range(0, COUNT, size)]


OWN_BATCHES = {
    "DataLoader": lambda: DataLoader(Pairs(), batch_size=3),
    "DataLoader of a stream": lambda: DataLoader(Stream(), batch_size=3),
    "list of batches": batched,
    "list of lists": lambda: [list(batch) for batch in batched()],
    "list of batches of arrays": lambda: [(x.numpy(), y.numpy().astype(np.int32)) for x, y in batched()],
    "iterator": lambda: iter(batched()),
    "generator": lambda: (batch for batch in batched()),
}
CUT = {
    "Dataset": Pairs,
    "Subset": lambda: Subset(Pairs(), range(COUNT)),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "IterableDataset": Stream,
    "IterableDataset with a length": SizedStream,
    "tensors": lambda: (X, Y),
    "float64 arrays": lambda: (X.double().numpy(), Y.numpy()),
    "float32 arrays": lambda: (X.numpy(), Y.numpy().astype(np.int32)),
    "tensor and uint8 array": lambda: (X, Y.numpy().astype(np.uint8)),
    "named tuple": lambda: Arrays(X, Y),
    "tensors without weights": lambda: (X, Y, None),
}
FORMS = OWN_BATCHES | CUT
UNKNOWN = ("DataLoader of a stream", "iterator", "generator", "IterableDataset")


def source_of(form, **options):
    options = {"batch_size": 3} | options if form in CUT else options
    return adapt(FORMS[form](), name="dl_train", **options)


def every(batches, part):
    return torch.cat([getattr(batch, part) for batch in batches])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches(form):
    batches = list(source_of(form).batches(0))
    assert [batch.index for batch in batches] == [0, 1, 2]
    assert [batch.size for batch in batches] == [3, 3, 1]
    assert torch.equal(every(batches, "x"), X)
    assert torch.equal(every(batches, "y"), Y)
    assert every(batches, "x").dtype == torch.float32
    assert every(batches, "y").dtype == torch.int64
    assert all(batch.weight is None for batch in batches)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_knows_its_steps_or_says_that_it_does_not(form):
    assert source_of(form).steps == (None if form in UNKNOWN else 3)


@pytest.mark.parametrize("form", FORMS)
def test_only_generators_and_iterators_are_read_once(form):
    source = source_of(form)
    assert source.one_shot == (form in ("iterator", "generator"))
    first, second = list(source.batches(0)), list(source.batches(1))
    assert len(first) == 3
    assert len(second) == (0 if source.one_shot else 3)


@pytest.mark.parametrize("form", ["Dataset", "Subset", "TensorDataset", "tensors", "float64 arrays"])
def test_training_shuffles_what_can_be_shuffled(form):
    torch.manual_seed(0)
    source = source_of(form, training=True, batch_size=COUNT)
    first, second = (next(source.batches(epoch)) for epoch in range(2))
    assert not torch.equal(first.y, second.y)
    for batch in (first, second):
        assert sorted(batch.y.tolist()) == Y.tolist()
        assert torch.equal(batch.x, X[batch.y])
    torch.manual_seed(0)
    assert torch.equal(next(source.batches(0)).y, first.y)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{"training": True, "shuffle": False}, {"training": False}])
def test_without_shuffling_the_order_stays(form, options):
    options = options if form in CUT else {"training": options["training"]}
    assert torch.equal(every(source_of(form, **options).batches(0), "y"), Y)


@pytest.mark.parametrize("form", ["Dataset", "TensorDataset", "tensors"])
def test_evaluation_can_be_shuffled(form):
    torch.manual_seed(0)
    found = every(source_of(form, shuffle=True).batches(0), "y")
    assert not torch.equal(found, Y)
    assert sorted(found.tolist()) == Y.tolist()


@pytest.mark.parametrize("data", [(torch.ones(100, 1),), TensorDataset(torch.ones(100, 1))])
def test_batches_hold_32_samples_where_nothing_is_said(data):
    assert [batch.size for batch in adapt(data, name="dl").batches(0)] == [32, 32, 32, 4]


@pytest.mark.parametrize("data", [X, X.numpy(), (X,), {"x": X}, ({"x": X.numpy()},), ([X, X],), (X, None)])
def test_inputs_may_come_alone(data):
    (batch,) = adapt(data, name="dl").batches(0)
    assert (batch.y, batch.weight, batch.size) == (None, None, COUNT)
    first = batch.x
    first = first["x"] if isinstance(first, dict) else first[0] if isinstance(first, list) else first
    assert torch.equal(first, X)


@pytest.mark.parametrize("y", [Y, None, {"a": Y, "b": (Y, Y)}])
def test_sample_weights_come_third(y):
    batches = list(adapt((X, y, WEIGHT.double().numpy()), name="dl", batch_size=3).batches(0))
    assert torch.equal(every(batches, "weight"), WEIGHT)
    if y is None:
        assert [batch.y for batch in batches] == [None] * 3


@pytest.mark.parametrize("kind", [dict, lambda parts: tuple(parts.values()), lambda parts: Arrays(*parts.values())])
def test_several_inputs_are_nested(kind):
    data = (kind({"x": X, "y": X.double().numpy() + 1}), Y)
    for batch in adapt(data, name="dl", batch_size=3, shuffle=True).batches(0):
        assert type(batch.x) is type(data[0])
        first, second = batch.x.values() if isinstance(batch.x, dict) else batch.x
        assert torch.equal(first, X[batch.y])
        assert torch.equal(second, X[batch.y] + 1)
        assert second.dtype == torch.float32


@settings(max_examples=30)
@given(
    st.sampled_from([np.float64, np.float32, np.int32, np.uint8, np.bool_]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_arrays_keep_their_values_in_the_dtype_of_the_net(dtype, float_dtype):
    array = (np.arange(6) % 3).astype(dtype)
    (batch,) = adapt((array, array, array), name="dl", float_dtype=float_dtype).batches(0)
    assert batch.x.dtype == (float_dtype if dtype == np.float64 else torch.as_tensor(array).dtype)
    labels = np.dtype(dtype).kind in "iu"
    assert batch.y.dtype == (torch.int64 if labels else batch.x.dtype)
    for part in (batch.x, batch.y, batch.weight):
        assert part.tolist() == array.tolist()


def test_frames_give_arrays_without_a_warning():
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "label": [0, 1]})
    (batch,) = adapt((frame[["a", "b"]].to_numpy(), frame["label"].to_numpy()), name="dl").batches(0)
    assert batch.x.tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert batch.y.tolist() == [0, 1]


def test_a_tensor_dataset_of_the_users_own_is_read_by_its_own_rule():
    batches = list(adapt(Doubled(X, Y), name="dl", batch_size=3).batches(0))
    assert torch.equal(every(batches, "x"), 2 * X)


def test_one_sample_a_batch_and_one_batch_an_epoch_are_enough():
    source = adapt((X, Y), name="dl_train", batch_size=1, steps=1)
    assert [batch.y.tolist() for batch in source.batches(0)] == [[0]]


def test_steps_limit_an_epoch_and_training_goes_on():
    source = adapt(batched(1), name="dl_train", steps=3, training=True)
    assert source.steps == 3
    assert [every(source.batches(epoch), "y").tolist() for epoch in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


def test_steps_limit_a_validation_to_the_first_batches():
    source = adapt((X, Y), name="dl_val", steps=2, batch_size=2)
    assert [every(source.batches(epoch), "y").tolist() for epoch in range(2)] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("data", "own"),
    [
        (batched(), True),
        ((*batched(), (None, Y)), False),  # a tuple is x, (x, y) or (x, y, weight), and no list of batches
        ([], True),
        ((), False),
        (DataLoader(Pairs()), True),
        (iter([]), True),
        (Pairs(), False),
        (Stream(), False),
        ((X, Y), False),
        ((X, None), False),
        ((None, X), False),
        (X, False),
        ({"x": X}, False),
        ("text", False),
        (None, False),
        (3, False),
    ],
)
def test_an_iterable_of_batches_is_told_from_data(data, own):
    assert makes_own_batches(data) is own


KNOWN_FORMS = "Pass a DataLoader, an iterable of batches, a Dataset, or a tuple of tensors or NumPy arrays."


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (None, {}, f"There is no data: dl_train is None. {KNOWN_FORMS}"),
        (3, {}, f"dl_train cannot be a int. {KNOWN_FORMS}"),
        ("mnist", {}, f"dl_train cannot be a str. {KNOWN_FORMS}"),
        ({}, {}, f"dl_train cannot be a dict. {KNOWN_FORMS}"),
        ({"x": [1, 2]}, {}, f"dl_train cannot be a dict. {KNOWN_FORMS}"),
        (Pairs, {}, f"dl_train cannot be a type. Pairs is a class; call it. {KNOWN_FORMS}"),
        (X, {"batch_size": 0}, "batch_size for dl_train is at least 1; got 0."),
        (batched(), {"steps": -1}, "steps for dl_train is at least 1; got -1."),
        (
            DataLoader(Pairs()),
            {"batch_size": 4},
            "batch_size was given, but dl_train is a DataLoader, which makes its own batches. "
            "Leave batch_size out, or pass a Dataset or tensors.",
        ),
        (
            batched(),
            {"shuffle": False},
            "shuffle was given, but dl_train is a list, which makes its own batches. "
            "Leave shuffle out, or pass a Dataset or tensors.",
        ),
        (
            Stream(),
            {"shuffle": True},
            "shuffle=True was given, but dl_train is the IterableDataset Stream, which has an order of its own. "
            "Leave shuffle out.",
        ),
        (
            (X, Y, WEIGHT, Y),
            {},
            "dl_train is x, (x, y) or (x, y, sample_weight); got 4 arrays: (float32 (7, 2) cpu, int64 (7,) cpu, "
            "float32 (7,) cpu, int64 (7,) cpu).",
        ),
        (
            TensorDataset(Y, Y, Y, Y),
            {},
            "dl_train is x, (x, y) or (x, y, sample_weight); got 4 arrays: (int64 (7,) cpu, int64 (7,) cpu, "
            "int64 (7,) cpu, int64 (7,) cpu).",
        ),
        ((X, Y[:3]), {}, "The arrays of dl_train differ in length: 7, 3."),
        ((X[:0], Y[:0]), {}, "dl_train is empty: its arrays have no samples."),
        ([], {}, "dl_train is empty: it has no batches."),
        ((), {}, f"dl_train is empty: it is a tuple without arrays. {KNOWN_FORMS}"),
        (
            (X, Y.tolist()),
            {},
            "dl_train is a tuple, which holds tensors or arrays, but one item is a list. "
            "Type numpy.asarray(...) around it.",
        ),
        (
            (X, pandas.Series([1])),
            {},
            "dl_train is a tuple, which holds tensors or arrays, but one item is a Series. Type .to_numpy() behind it.",
        ),
        (
            pandas.DataFrame({"a": [1]}),
            {},
            f"dl_train cannot be a DataFrame. Type .to_numpy() behind it. {KNOWN_FORMS}",
        ),
        (Subset(Pairs(), []), {}, "dl_train is empty: its Subset has no samples."),
        (
            Endless(),
            {},
            "dl_train cannot be read: its Endless has no __len__. Write one, or make it an IterableDataset.",
        ),
        (
            (np.array([["a", 1]], dtype=object), Y[:1]),
            {},
            "dl_train holds an array of the dtype object, which torch does not know. Type array.astype('float32').",
        ),
        (
            {"x": np.array(["a", "b"])},
            {},
            "dl_train holds an array of the dtype <U1, which torch does not know. Type array.astype('float32').",
        ),
    ],
)
def test_data_that_cannot_be_used_are_refused(data, options, text):
    with pytest.raises(DataError) as error:
        adapt(data, name="dl_train", **options)
    assert str(error.value) == text


def test_an_order_of_its_own_need_not_be_asked_for():
    for options in ({"shuffle": False}, {"training": True}):
        assert torch.equal(every(adapt(Stream(), name="dl_train", batch_size=3, **options).batches(0), "y"), Y)
