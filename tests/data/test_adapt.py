from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from kerastorch.data import adapt, makes_own_batches
from kerastorch.errors import DataError

COUNT = 7
X = torch.arange(2.0 * COUNT).reshape(COUNT, 2)
Y = torch.arange(COUNT)
WEIGHT = torch.linspace(0, 1, COUNT)
ROWS = torch.tensor([1, 2, 5])
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


KNOWN_FORMS = "Pass a DataLoader, an iterable of batches, a Dataset, or a tuple of tensors, arrays or DataFrames."


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (None, {}, f"There is no data: dl_train is None. {KNOWN_FORMS}"),
        (3, {}, f"dl_train cannot be a int. {KNOWN_FORMS}"),
        ("mnist", {}, f"dl_train cannot be a str. {KNOWN_FORMS}"),
        ({}, {}, f"dl_train cannot be a dict. {KNOWN_FORMS}"),
        (
            {"x": [1, 2]},
            {},
            "dl_train is a dict, which holds tensors or arrays, but its item ['x'] is a list. "
            "Type numpy.asarray(...) around it.",
        ),
        (
            ({"a": X, "b": (X, sparse.csr_matrix(X.numpy()))}, Y),
            {},
            "dl_train is a tuple, which holds tensors or arrays, but its item [0]['b'][1] is a csr_matrix. "
            "Type .toarray() behind it.",
        ),
        (
            ([X, "text"], Y),
            {},
            "dl_train is a tuple, which holds tensors or arrays, but its item [0][1] is a str.",
        ),
        ((None, X), {}, "dl_train is a tuple, which holds tensors or arrays, but its item [0] is None."),
        (({}, X), {}, "dl_train is a tuple, which holds tensors or arrays, but its item [0] is a dict."),
        (
            {"train": Pairs(), "test": Pairs()},
            {},
            "dl_train is a dict of several data sets, such as 'train', 'test'; it can be one of them. "
            "Type data['train'].",
        ),
        (pandas.DataFrame, {}, f"dl_train cannot be a type. DataFrame is a class; call it. {KNOWN_FORMS}"),
        (Subset, {}, f"dl_train cannot be a type. Subset is a class; call it. {KNOWN_FORMS}"),
        (
            sparse.csr_matrix(X.numpy()),
            {},
            f"dl_train cannot be a csr_matrix. Type .toarray() behind it. {KNOWN_FORMS}",
        ),
        (X, {"seed": 0.5}, "seed for dl_train is a whole number; got 0.5."),
        (
            batched(),
            {"drop_last": True},
            "drop_last was given, but dl_train is a list, which makes its own batches. "
            "Leave drop_last out, or pass a Dataset or tensors.",
        ),
        (
            DataLoader(Pairs()),
            {"rows": ROWS},
            "rows was given, but dl_train is a DataLoader, which makes its own batches. "
            "Leave rows out, or pass a Dataset or tensors.",
        ),
        (
            Stream(),
            {"rows": ROWS},
            "Rows of dl_train were chosen, but it is the IterableDataset Stream, which is read one after the other. "
            "Write a Dataset with __len__ and __getitem__.",
        ),
        (Pairs, {}, f"dl_train cannot be a type. Pairs is a class; call it. {KNOWN_FORMS}"),
        (X, {"batch_size": 0}, "batch_size for dl_train is a number, at least 1; got 0."),
        (batched(), {"steps": -1}, "steps for dl_train is a number, at least 1; got -1."),
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
            "float32 (7,) cpu, int64 (7,) cpu). Several inputs go into a tuple of their own: ((a, b), y).",
        ),
        (
            TensorDataset(Y, Y, Y, Y),
            {},
            "dl_train is x, (x, y) or (x, y, sample_weight); got 4 arrays: (int64 (7,) cpu, int64 (7,) cpu, "
            "int64 (7,) cpu, int64 (7,) cpu). Several inputs go into a tuple of their own: ((a, b), y).",
        ),
        ((X, Y[:3]), {}, "The arrays of dl_train differ in length: 7, 3."),
        ((X[:0], Y[:0]), {}, "dl_train is empty: its arrays have no samples."),
        ([], {}, "dl_train is empty: it has no batches."),
        ((), {}, f"dl_train is empty: it is a tuple without arrays. {KNOWN_FORMS}"),
        (
            (X, Y.tolist()),
            {},
            "dl_train is a tuple, which holds tensors or arrays, but its item [1] is a list. "
            "Type numpy.asarray(...) around it.",
        ),
        (
            (X, pandas.Series(list("abcabca"), name="kind")),
            {},
            "dl_train needs numbers, but its Series 'kind' holds text. "
            "Type series.astype('category').cat.codes for a number per value.",
        ),
        ((X, pandas.Series([1])), {}, "The arrays of dl_train differ in length: 7, 1."),
        (pandas.DataFrame(), {}, "dl_train is empty: its DataFrame has no columns."),
        (pandas.DataFrame({"a": []}), {}, "dl_train is empty: its arrays have no samples."),
        (np.array(1.0), {}, "dl_train is empty: its arrays have no samples."),
        (
            (np.ma.masked_array([1.0, 2.0], [True, False]), Y[:2]),
            {},
            "dl_train holds a masked array, and a net would see what is masked. Type array.filled(0).",
        ),
        (
            (X, Y, torch.ones(COUNT, 2)),
            {},
            "The third item of a batch is sample weights (7,); dl_train has float32 (7, 2) cpu. "
            "Several inputs go into a tuple of their own: ((a, b), y).",
        ),
        (
            (X, {"a": Y, "b": Y}, {"a": WEIGHT, "b": torch.ones(COUNT, 2)}),
            {},
            "The third item of a batch is sample weights (7,) for each output; dl_train has "
            "{'a': float32 (7,) cpu, 'b': float32 (7, 2) cpu}. "
            "Several inputs go into a tuple of their own: ((a, b), y).",
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
            "dl_train holds an array of the dtype <U1, which torch does not know. "
            "Type numpy.unique(array, return_inverse=True)[1] for a number per value.",
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


CHOOSABLE = ("tensors", "float64 arrays", "TensorDataset", "Dataset", "Subset")


@pytest.mark.parametrize("form", CUT)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_short_last_batch_can_be_dropped(form, shuffle):
    if shuffle and "Iterable" in form:
        return
    source = source_of(form, drop_last=True, shuffle=shuffle or None)
    batches = list(source.batches(0))
    assert [batch.size for batch in batches] == [3, 3]
    assert source.steps == (None if form in UNKNOWN else 2)
    assert shuffle or every(batches, "y").tolist() == Y[:6].tolist()


@pytest.mark.parametrize("form", CUT)
@pytest.mark.parametrize("rows", [None, ROWS])
def test_nothing_is_dropped_of_data_that_are_cut_evenly(form, rows):
    if rows is not None and form not in CHOOSABLE:
        return
    source = source_of(form, drop_last=True, rows=rows, batch_size=COUNT if rows is None else 3)
    assert [batch.size for batch in source.batches(0)] == [COUNT if rows is None else 3]


@pytest.mark.parametrize("form", [form for form in CUT if form not in UNKNOWN])
@pytest.mark.parametrize("rows", [None, ROWS])
def test_data_of_less_than_a_batch_cannot_be_dropped(form, rows):
    if rows is not None and form not in CHOOSABLE:
        return
    count = COUNT if rows is None else 3
    with pytest.raises(DataError) as error:
        source_of(form, drop_last=True, batch_size=8, rows=rows)
    assert str(error.value) == (
        f"dl_train gives no batch: its {count} samples are fewer than batch_size=8, and drop_last=True drops them. "
        "Make batch_size smaller or say drop_last=False."
    )


@pytest.mark.parametrize("form", CHOOSABLE)
@pytest.mark.parametrize("shuffle", [False, True])
def test_some_rows_can_be_used(form, shuffle):
    source = source_of(form, rows=ROWS, batch_size=2, shuffle=shuffle, seed=4)
    assert source.steps == 2
    for epoch in range(3):
        batches = list(source.batches(epoch))
        assert [batch.size for batch in batches] == [2, 1]
        assert torch.equal(every(batches, "x"), X[every(batches, "y")])
        found = every(batches, "y").tolist()
        assert sorted(found) == ROWS.tolist()
        assert shuffle or found == ROWS.tolist()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=20))
def test_rows_and_seed_give_one_order_for_every_form(seed, batch_size, rows):
    options = {"rows": torch.tensor(rows), "seed": seed, "batch_size": batch_size, "training": True}
    before = torch.get_rng_state()
    sources = [source_of(form, **options) for form in CHOOSABLE]
    for epoch in (0, 1, 5):
        found = [[batch.y.tolist() for batch in source.batches(epoch)] for source in sources]
        assert found == [found[0]] * len(found)
        assert sorted(number for batch in found[0] for number in batch) == sorted(rows)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("form", CHOOSABLE)
def test_a_seed_gives_each_epoch_an_order_of_its_own(form):
    def orders(seed):
        source = source_of(form, seed=seed, training=True, batch_size=COUNT)
        return [tuple(next(source.batches(epoch)).y.tolist()) for epoch in range(4)]

    torch.manual_seed(1)
    first = orders(3)
    torch.manual_seed(2)
    assert orders(3) == first
    assert len({*first, *orders(4), *orders(-3)}) == 12  # neither seed + epoch nor abs(seed)


def test_an_epoch_can_be_read_again_by_its_number():
    source = source_of("Dataset", seed=0, training=True)
    orders = [[batch.y.tolist() for batch in source.batches(epoch)] for epoch in (0, 1, 0, 1)]
    assert orders[:2] == orders[2:]
    assert orders[0] != orders[1]


def test_a_seed_leaves_the_random_numbers_of_torch_alone():
    before = torch.get_rng_state()
    for form in CUT:
        list(source_of(form, seed=0, shuffle=None if "Iterable" in form else True).batches(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_of_less_than_a_batch_says_so_when_it_is_read():
    source = adapt(Stream(), name="dl_train", batch_size=8, drop_last=True)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"^dl_train gives no batch: its samples are fewer than batch_size=8, and drop_last"
        ):
            list(source.batches(0))


def test_a_stream_that_has_ended_is_no_stream_of_less_than_a_batch():
    class Once(Stream):
        samples = iter(Pairs()[index] for index in range(COUNT))

        def __iter__(self):
            return self.samples

    source = adapt(Once(), name="dl_train", batch_size=3, drop_last=True)
    assert [len(list(source.batches(epoch))) for epoch in range(2)] == [2, 0]


def test_a_seed_may_be_of_numpy_and_of_any_size():
    for seed in (np.int64(3), 3 + 2**64):
        found = source_of("tensors", seed=seed, shuffle=True)
        assert torch.equal(
            every(found.batches(0), "y"), every(source_of("tensors", seed=3, shuffle=True).batches(0), "y")
        )


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (torch.tensor([0, 7]), "The rows of dl_train go from 0 to 7, but it has 7 samples, from 0."),
        (torch.tensor([-1, 6]), "The rows of dl_train go from -1 to 6, but it has 7 samples, from 0."),
        (ROWS[:0], "The rows of dl_train are an int64 tensor (M,) of at least one; got int64 (0,) cpu."),
        (ROWS.int(), "The rows of dl_train are an int64 tensor (M,) of at least one; got int32 (3,) cpu."),
        (ROWS[None], "The rows of dl_train are an int64 tensor (M,) of at least one; got int64 (1, 3) cpu."),
    ],
)
@pytest.mark.parametrize("form", ["tensors", "Dataset"])
def test_rows_that_are_not_there_are_refused(form, rows, text):
    with pytest.raises(DataError) as error:
        source_of(form, rows=rows)
    assert str(error.value) == text


def test_rows_are_taken_without_a_copy_of_the_data():
    (x,) = source_of("tensors", rows=ROWS)._data[:1]
    assert x is X
    dataset = source_of("Dataset", rows=torch.arange(COUNT)).loader.dataset
    assert type(dataset.indices[0]) is int
    assert dataset.indices.itemsize == 8


class Records:
    """What `datasets.Dataset` is: no Dataset of torch, iterable, and read by lists of numbers."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"x": X[index], "labels": Y[index]}

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def __iter__(self):
        return (self[index] for index in range(COUNT))


def test_a_data_set_that_is_read_by_lists_of_numbers_is_a_dataset():
    assert not makes_own_batches(Records())
    for options in ({}, {"rows": torch.arange(COUNT)}, {"seed": 1}):
        batches = list(adapt(Records(), name="dl", batch_size=3, **options).batches(0))
        assert [batch.size for batch in batches] == [3, 3, 1]
        assert torch.equal(every(batches, "y"), Y)
        assert torch.equal(torch.cat([batch.x["x"] for batch in batches]), X)
    assert sorted(every(adapt(Records(), name="dl", training=True).batches(0), "y").tolist()) == Y.tolist()


@pytest.mark.parametrize("kind", [dict, UserDict, OrderedDict])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_dict_of_arrays_with_labels_is_inputs_and_targets(kind, shuffle):
    data = kind({"ids": X.double().numpy(), "labels": Y.numpy().astype(np.int32)})
    for batch in adapt(data, name="dl", batch_size=3, shuffle=shuffle).batches(0):
        assert batch.y is batch.x["labels"]
        assert batch.y.dtype == torch.int64
        assert batch.x["ids"].dtype == torch.float32
        assert torch.equal(batch.x["ids"], X[batch.y])


def test_a_frame_lies_row_by_row_in_memory():
    frame = pandas.DataFrame(np.arange(60.0).reshape(20, 3), columns=list("abc"))
    for data in (frame, frame.astype("float32"), frame.to_numpy(), frame.astype("int64"), frame.assign(d=True)):
        source = adapt(data, name="dl")
        assert source._data[0].is_contiguous()
    before = torch.from_numpy(np.asfortranarray(np.ones((3, 4), np.float32)))
    assert adapt(before, name="dl")._data[0] is before  # no copy is made for it alone


def test_weights_of_each_output_are_cut_with_the_rest():
    weights = {"a": WEIGHT, "b": (WEIGHT + 1)[:, None].numpy()}
    data = (X, {"a": Y, "b": Y, "c": None}, weights)
    for batch in adapt(data, name="dl", batch_size=3, shuffle=True).batches(0):
        rows = batch.y["a"]
        assert batch.y["c"] is None
        assert torch.equal(batch.weight["a"], WEIGHT[rows])
        assert torch.equal(batch.weight["b"], WEIGHT[rows, None] + 1)


class Graph:
    def __init__(self, y):
        self.x, self.y = X, y

    def to(self, device):
        return self

    def __iter__(self):
        return iter({"x": self.x, "y": self.y}.items())


def test_a_graph_is_one_batch():
    assert makes_own_batches(Graph(Y))
    graph = Graph(Y)
    for epoch in range(2):
        (batch,) = adapt(graph, name="dl").batches(epoch)
        assert batch.x is graph
        assert batch.y is Y
