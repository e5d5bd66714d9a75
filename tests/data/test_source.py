import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, TensorDataset

from kerastorch.data import NoData, adapt
from kerastorch.data.limited import LimitedSource
from kerastorch.data.loader import LoaderSource
from kerastorch.data.memory import TensorSource
from kerastorch.errors import DataError

varied = settings(max_examples=40)
counts = st.integers(1, 17)
sizes = st.integers(1, 6)


def tensor_source(count, batch_size, shuffle=False):
    x = torch.arange(count)
    return TensorSource((x, 10 * x, 100.0 * x), batch_size=batch_size, shuffle=shuffle, name="dl_train")


def loader_source(loader):
    return LoaderSource(loader, float_dtype=torch.float32, name="dl_train")


def numbers(batches):
    return [batch.x.tolist() for batch in batches]


def flat(batches):
    return [number for batch in batches for number in batch.x.tolist()]


def some_batches(count, first=0):
    return [(torch.tensor([first + number]),) for number in range(count)]


class Counted:
    """An iterable of batches that counts what is read."""

    def __init__(self, count):
        self.count, self.read = count, 0

    def __iter__(self):
        for number in range(self.count):
            self.read += 1
            yield (torch.tensor([number]),)


class Numbers(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(torch.arange(self.count))


class SizedNumbers(Numbers):
    def __len__(self):
        return self.count


@varied
@given(counts, sizes)
def test_tensors_are_cut_in_order_with_a_ragged_last_batch(count, batch_size):
    source = tensor_source(count, batch_size)
    batches = list(source.batches(0))
    assert len(batches) == source.steps == -(-count // batch_size)
    assert flat(batches) == list(range(count))
    assert [batch.index for batch in batches] == list(range(len(batches)))
    assert all(batch.size == len(batch.x) for batch in batches)
    assert {batch.size for batch in batches[:-1]} <= {batch_size}


@varied
@given(counts, sizes, st.integers(0, 2**32 - 1))
def test_shuffling_is_a_permutation_that_keeps_rows_together(count, batch_size, seed):
    torch.manual_seed(seed)
    source = tensor_source(count, batch_size, shuffle=True)
    batches = list(source.batches(0))
    assert sorted(flat(batches)) == list(range(count))
    for batch in batches:
        assert batch.y.tolist() == [10 * number for number in batch.x.tolist()]
        assert batch.weight.tolist() == [100 * number for number in batch.x.tolist()]
        assert batch.size == len(batch.x)


def test_shuffling_differs_by_epoch_and_follows_the_seed():
    source = tensor_source(50, 8, shuffle=True)
    torch.manual_seed(1)
    first, second = numbers(source.batches(0)), numbers(source.batches(1))
    assert first != second
    torch.manual_seed(1)
    assert [numbers(source.batches(0)), numbers(source.batches(1))] == [first, second]
    torch.manual_seed(2)
    assert numbers(source.batches(0)) != first


def test_shuffling_draws_nothing_from_the_random_numbers_before_the_first_batch():
    source, before = tensor_source(5, 2, shuffle=True), torch.get_rng_state()
    batches = source.batches(0)
    assert torch.equal(torch.get_rng_state(), before)
    next(batches)
    assert not torch.equal(torch.get_rng_state(), before)


def test_order_draws_no_random_numbers():
    before = torch.get_rng_state()
    list(tensor_source(5, 2).batches(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [False, True])
def test_nested_tensors_are_cut_alike(shuffle):
    x = {"a": torch.arange(5), "b": (torch.arange(10).reshape(5, 2), torch.nn.Parameter(torch.arange(5.0)))}
    source = TensorSource((x, [torch.arange(5)]), batch_size=3, shuffle=shuffle, name="dl_train")
    for batch in source.batches(0):
        rows = batch.x["a"].tolist()
        assert batch.x["b"][0].tolist() == [[2 * row, 2 * row + 1] for row in rows]
        assert batch.x["b"][1].tolist() == rows
        assert batch.y[0].tolist() == rows
        assert batch.weight is None
        assert batch.size == len(rows)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_net_that_works_in_place_does_not_change_the_users_data(shuffle):
    x, array = torch.arange(5.0), np.arange(5, dtype=np.float32)
    source = TensorSource(((x, torch.from_numpy(array)),), batch_size=2, shuffle=shuffle, name="dl_train")
    for batch in source.batches(0):
        for part in batch.x:
            part.zero_()
    assert x.tolist() == array.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((torch.ones(3), torch.ones(4)), "The arrays of dl_train differ in length: 3, 4."),
        (
            ({"a": torch.ones(3), "b": torch.ones(2)}, torch.ones(3)),
            "The arrays of dl_train differ in length: 3, 2, 3.",
        ),
        ((torch.ones(3), torch.tensor(1.0)), "The arrays of dl_train differ in length: 3, 0."),
        ((torch.ones(0, 3), torch.ones(0)), "dl_train is empty: its arrays have no samples."),
        ((torch.tensor(1.0),), "dl_train is empty: its arrays have no samples."),
    ],
)
def test_arrays_that_do_not_fit_are_refused(parts, text):
    with pytest.raises(DataError) as error:
        TensorSource(parts, batch_size=2, shuffle=False, name="dl_train")
    assert str(error.value) == text


def test_orders_are_one_permutation_an_epoch_from_torchs_own_random_numbers():
    rows = torch.tensor([4, 0, 3, 3])
    for options, chosen in (({}, torch.arange(5)), ({"rows": rows}, rows)):
        x = torch.arange(5)
        source = TensorSource((x,), batch_size=2, shuffle=True, name="dl_train", **options)
        torch.manual_seed(0)
        found = [flat(source.batches(epoch)) for epoch in range(2)]
        after = torch.get_rng_state()
        torch.manual_seed(0)
        assert found == [chosen[torch.randperm(len(chosen))].tolist() for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), after)


def test_labels_among_the_inputs_are_cut_once():
    x = {"ids": torch.arange(5), "labels": torch.arange(5)}
    source = TensorSource((x,), batch_size=2, shuffle=True, name="dl_train", labelled=True)
    for batch in source.batches(0):
        assert batch.y is batch.x["labels"]
        assert torch.equal(batch.y, batch.x["ids"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_lie_in_memory_as_those_of_a_dataloader(memory_format, shuffle):
    x = torch.rand(6, 2, 3, 3).to(memory_format=memory_format)
    for data in (x, x[:, 0, 0].T.contiguous().T, x[:, :, 0]):
        loader = DataLoader(TensorDataset(data), batch_size=4)
        source = TensorSource((data,), batch_size=4, shuffle=shuffle, name="dl_train")
        for batch, (expected,) in zip(source.batches(0), loader, strict=True):
            assert batch.x.stride() == expected.stride()


def test_no_data_has_no_batches():
    assert list(NoData().batches(0)) == []
    assert (NoData().steps, NoData().name, NoData().one_shot) == (0, "no data", False)


@pytest.mark.parametrize(
    ("loader", "steps", "one_shot"),
    [
        (some_batches(3), 3, False),
        (tuple(some_batches(3)), 3, False),
        ((batch for batch in some_batches(3)), None, True),
        (iter(some_batches(3)), None, True),
        (map(tuple, some_batches(3)), None, True),
        (itertools.islice(some_batches(3), 2), None, True),
        (itertools.cycle(some_batches(3)), None, True),
        (Counted(3), None, False),
        (DataLoader(TensorDataset(torch.arange(5)), batch_size=2), 3, False),
        (DataLoader(TensorDataset(torch.arange(5)), batch_size=2, drop_last=True), 2, False),
        (DataLoader(Numbers(5), batch_size=2), None, False),
        (DataLoader(SizedNumbers(5), batch_size=2), 3, False),
    ],
)
def test_a_source_knows_its_length_and_whether_it_can_be_read_again(loader, steps, one_shot):
    source = loader_source(loader)
    assert (source.steps, source.one_shot) == (steps, one_shot)


@pytest.mark.parametrize("dataset", [Numbers(5), SizedNumbers(5), TensorDataset(torch.arange(5))])
def test_a_loader_gives_all_its_batches_every_epoch(dataset):
    source = loader_source(DataLoader(dataset, batch_size=2))
    for epoch in range(2):
        batches = list(source.batches(epoch))
        assert numbers(batches) == [[0, 1], [2, 3], [4]]
        assert [(batch.index, batch.size) for batch in batches] == [(0, 2), (1, 2), (2, 1)]


def test_a_generator_keeps_its_first_batch_and_is_read_one_by_one():
    data = Counted(3)
    source = loader_source(iter(data))
    batches = source.batches(0)
    assert data.read == 0
    assert next(batches).x.tolist() == [0]
    assert data.read == 1
    assert flat(batches) == [1, 2]
    assert list(source.batches(1)) == []


def test_an_iterator_of_the_users_own_may_begin_anew():
    class Restarting:
        def __iter__(self):
            self.left = iter(some_batches(2))
            return self

        def __next__(self):
            return next(self.left)

    source = loader_source(Restarting())
    assert not source.one_shot
    assert flat(source.batches(0)) == flat(source.batches(1)) == [0, 1]


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_a_length_is_a_promise_that_may_be_broken():
    class Short(SizedNumbers):
        def __len__(self):
            return 100

    source = loader_source(DataLoader(Short(5), batch_size=2))
    assert source.steps == 50
    assert flat(source.batches(0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        ([], "dl_train is empty: it has no batches."),
        ((), "dl_train is empty: it has no batches."),
        (
            DataLoader(TensorDataset(torch.ones(0))),
            "dl_train is empty: it has no batches, its dataset has 0 samples.",
        ),
        (
            DataLoader(TensorDataset(torch.ones(3)), batch_size=8, drop_last=True),
            "dl_train gives no batch: its 3 samples are fewer than batch_size=8, and drop_last=True drops them. "
            "Make batch_size smaller or say drop_last=False.",
        ),
        (
            DataLoader(SizedNumbers(3), batch_size=8, drop_last=True),
            "dl_train gives no batch: its 3 samples are fewer than batch_size=8, and drop_last=True drops them. "
            "Make batch_size smaller or say drop_last=False.",
        ),
        (
            DataLoader(TensorDataset(torch.ones(3)), batch_sampler=[]),
            "dl_train is empty: it has no batches, its dataset has 3 samples.",
        ),
    ],
)
def test_empty_data_are_refused(loader, text):
    with pytest.raises(DataError) as error:
        loader_source(loader)
    assert str(error.value) == text


def test_a_batch_that_cannot_be_used_is_named_by_its_place():
    source = loader_source([(torch.ones(1),), (1, 2, 3, 4)])
    with pytest.raises(DataError, match="batch 1 has 4 items"):
        list(source.batches(0))


class Sampler(DistributedSampler):
    def __init__(self, dataset):
        super().__init__(dataset, num_replicas=2, rank=0, shuffle=True)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)
        super().set_epoch(epoch)


@pytest.mark.parametrize(
    "options",
    [lambda sampler: {"sampler": sampler}, lambda sampler: {"batch_sampler": BatchSampler(sampler, 4, False)}],
)
def test_a_distributed_sampler_shuffles_anew_every_epoch(options):
    dataset = TensorDataset(torch.arange(40))
    sampler = Sampler(dataset)
    source = loader_source(DataLoader(dataset, **options(sampler)))
    batches = source.batches(3)
    assert sampler.epochs == []
    first = flat(batches)
    assert sampler.epochs == [3]
    second = flat(source.batches(4))
    assert sampler.epochs == [3, 4]
    assert first != second
    assert flat(source.batches(3)) == first


def test_a_batch_sampler_of_the_users_own_is_told_the_epoch():
    class Batches:
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            yield [self.epoch]

    sampler = Batches()
    source = loader_source(DataLoader(TensorDataset(torch.arange(9)), batch_sampler=sampler))
    assert flat(source.batches(5)) == [5]
    assert flat(source.batches(7)) == [7]


@varied
@given(counts, st.integers(1, 8), st.integers(1, 5))
def test_limited_training_goes_on_where_the_last_epoch_ended(count, steps, epochs):
    source = LimitedSource(loader_source(some_batches(count)), steps, continues=True)
    assert source.steps == steps
    assert source.name == "dl_train"
    found = []
    for epoch in range(epochs):
        batches = list(source.batches(epoch))
        assert [batch.index for batch in batches] == list(range(steps))
        found += flat(batches)
    assert found == [number % count for number in range(steps * epochs)]


@varied
@given(counts, st.integers(1, 8))
def test_limited_validation_takes_the_first_batches_every_time(count, steps):
    steps = min(count, steps)
    source = LimitedSource(loader_source(some_batches(count)), steps, continues=False)
    assert flat(source.batches(0)) == flat(source.batches(1)) == list(range(steps))


def test_a_limit_reads_not_a_batch_more():
    for continues in (True, False):
        data = Counted(9)
        list(LimitedSource(loader_source(iter(data)), 3, continues=continues).batches(0))
        assert data.read == 3


def test_a_generator_is_continued_and_keeps_every_batch():
    source = LimitedSource(loader_source(iter(Counted(5))), 2, continues=True)
    assert not source.one_shot
    assert flat(source.batches(0)) == [0, 1]
    assert flat(source.batches(1)) == [2, 3]
    with pytest.warns(UserWarning, match="^dl_train ran out of data after 1 of 2 batches.$"):
        assert flat(source.batches(2)) == [4]
    assert flat(source.batches(3)) == []


def test_validation_that_runs_out_warns():
    source = LimitedSource(loader_source(some_batches(2)), 5, continues=False)
    for epoch in range(2):
        with pytest.warns(UserWarning, match="^dl_train ran out of data after 2 of 5 batches.$"):
            assert flat(source.batches(epoch)) == [0, 1]


def test_data_without_end_can_be_limited():
    source = LimitedSource(loader_source(itertools.cycle(some_batches(3))), 4, continues=True)
    assert [flat(source.batches(epoch)) for epoch in range(3)] == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]]


def test_limited_data_are_shuffled_anew_at_their_end():
    torch.manual_seed(0)
    source = LimitedSource(tensor_source(20, 5, shuffle=True), 4, continues=True)
    first, second = flat(source.batches(0)), flat(source.batches(1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_limited_data_tell_a_sampler_how_often_they_were_read():
    dataset = TensorDataset(torch.arange(12))
    sampler = Sampler(dataset)
    source = LimitedSource(loader_source(DataLoader(dataset, batch_size=2, sampler=sampler)), 2, continues=True)
    for epoch in range(4):
        assert len(list(source.batches(epoch))) == 2
    assert sampler.epochs == [0, 1, 2]


def test_a_source_for_the_loop_can_be_of_any_kind():
    for data in ((torch.ones(3, 2), torch.ones(3)), some_batches(3), DataLoader(TensorDataset(torch.ones(3, 2)))):
        source = adapt(data, name="dl_train")
        assert sum(batch.size for batch in source.batches(0)) == 3
