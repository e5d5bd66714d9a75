"""An epoch that is gone on with gives the batches that an uninterrupted one gives."""

import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from kerastorch import randomness
from kerastorch.data import adapt
from kerastorch.errors import DataError

COUNT, SIZE = 22, 4  # six batches, the last one of two


class Noisy(Dataset):
    """Draws from all global random numbers for each sample."""

    read = 0

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.read += 1
        return torch.tensor(float(index)), torch.tensor([torch.rand(1).item(), np.random.rand(), random.random()])


class Own(Noisy):
    """Draws from generators of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        return torch.tensor(float(index)), torch.tensor(self.rng.normal())


class Together(Noisy):
    def __getitems__(self, indices):
        shift = torch.rand(1)
        return [(torch.tensor(float(index)), shift + torch.rand(1)) for index in indices]


class Lazy(Sampler):
    """Draws before every sample, without replacement."""

    def __iter__(self):
        left = list(range(COUNT))
        while left:
            yield left.pop(random.randrange(len(left)))

    def __len__(self):
        return COUNT


class Eager:
    """A batch sampler that draws when it is asked for an iterator, with a generator of its own as well."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __iter__(self):
        order = torch.randperm(COUNT)[torch.randperm(COUNT, generator=self.generator)]
        return iter([part.tolist() for part in order.split(SIZE)])

    def __len__(self):
        return len(range(0, COUNT, SIZE))


class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, COUNT, step):
            yield torch.tensor(float(number)), torch.rand(1)


class Sub(DataLoader):
    """A subclass with other arguments, and an own __iter__."""

    def __init__(self, workers):
        super().__init__(Noisy(), SIZE, shuffle=True, num_workers=workers)

    def __iter__(self):
        for x, y in super().__iter__():
            yield x + 1, y


def plain(workers, **options):
    return DataLoader(Noisy(), **{"batch_size": SIZE, **options}, num_workers=workers)


def generator():
    return torch.Generator().manual_seed(5)


LOADERS = {
    "in order": plain,
    "shuffled": lambda w: plain(w, shuffle=True),
    "drop last": lambda w: plain(w, shuffle=True, drop_last=True),
    "own generator": lambda w: plain(w, shuffle=True, generator=generator()),
    "weighted": lambda w: plain(w, sampler=WeightedRandomSampler(torch.rand(COUNT, generator=generator()), COUNT)),
    "subset": lambda w: plain(w, sampler=SubsetRandomSampler(range(3, COUNT))),
    "replacement": lambda w: plain(w, sampler=RandomSampler(range(COUNT), True, 40, generator=generator())),
    "lazy": lambda w: plain(w, sampler=Lazy()),
    "lazy batches": lambda w: DataLoader(Noisy(), batch_sampler=BatchSampler(Lazy(), 3, False), num_workers=w),
    "eager batches": lambda w: DataLoader(Noisy(), batch_sampler=Eager(), num_workers=w),
    "no batches": lambda w: plain(w, batch_size=None, shuffle=True),
    "subclass": Sub,
    "together": lambda w: DataLoader(Together(), SIZE, shuffle=True, num_workers=w),
}
WORKERS = {
    "persistent": lambda w: plain(w, shuffle=True, persistent_workers=True),
    "persistent generator": lambda w: plain(w, shuffle=True, persistent_workers=True, generator=generator()),
}
ALONE = {"own numbers": lambda w: DataLoader(Own(), SIZE, shuffle=True)}


def step():
    """Draw what a step of training may draw."""
    return torch.rand(1).item(), np.random.rand(), random.random()


def source_of(make, workers=0, seed=None, **options):
    return adapt(make(workers), name="dl_train", training=True, seed=seed, **options)


def scramble():
    torch.manual_seed(12345)
    np.random.seed(54321)
    random.seed(99)


def begin():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def through_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(source, epochs, stop=None, resumed=None):
    """Read epochs with steps between; return all that came, and at `stop`, (epoch, batch), what was saved."""
    found, first, start = [], 0, 0
    if resumed is not None:
        (first, start), content = resumed
        source.load_state_dict(content["data"])
        randomness.restore(content["random"])
    for epoch in range(first, epochs):
        finished = start
        for batch in source.batches(epoch, start) if start or epoch == first else source.batches(epoch):
            assert batch.index == finished
            found.append((epoch, batch.index, batch.x, batch.y, step()))
            finished += 1
            if stop == (epoch, finished):
                return found, through_file({"data": source.state_dict(finished), "random": randomness.capture()})
        start = 0
        if stop == (epoch + 1, 0):
            return found, through_file({"data": source.state_dict(0), "random": randomness.capture()})
    source.close()
    return found, None


def equal(one, other, bits=True):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left[:2] == right[:2]
        assert torch.equal(left[2], right[2])
        if bits:
            assert torch.equal(left[3], right[3])
        assert left[4] == right[4]


def check(make, workers, stop, *, seed=None, bits=True, other_workers=None, wrap=None):
    wrap = wrap or {}
    begin()
    whole, _ = run(source_of(make, workers, seed, **wrap), 3)
    begin()
    first = source_of(make, workers, seed, **wrap)
    before, saved = run(first, 3, stop)
    first.close()
    scramble()
    second = source_of(make, workers if other_workers is None else other_workers, seed, **wrap)
    after, _ = run(second, 3, resumed=(stop, saved))
    equal(before, whole[: len(before)], bits)
    equal(before + after, whole, bits)
    return whole


STOPS = [(0, 1), (1, 3), (2, 5), (1, 0)]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("name", [*LOADERS, *ALONE])
def test_a_loader_goes_on_bit_for_bit(name, stop):
    check((LOADERS | ALONE)[name], 0, stop)


@pytest.mark.parametrize("name", ["lazy", "eager batches", "subclass", "persistent generator"])
def test_with_workers_the_order_goes_on(name):
    check((LOADERS | WORKERS)[name], 2, (1, 3), bits=False)


def test_with_workers_an_epoch_begins_bit_for_bit():
    check(LOADERS["shuffled"], 2, (1, 0))


def hand_written(loader, epochs):
    found = []
    for epoch in range(epochs):
        for index, (x, y) in enumerate(loader):
            found.append((epoch, index, x, y, step()))
    return found


@pytest.mark.parametrize(
    ("name", "workers"),
    [*((name, 0) for name in LOADERS), *((name, 2) for name in ("shuffled", "lazy", "no batches", *WORKERS))],
)
def test_without_a_seed_batches_are_those_of_a_plain_loop(name, workers):
    make = (LOADERS | WORKERS)[name]
    begin()
    expected = hand_written(make(workers), 2)
    begin()
    found, _ = run(source_of(make, workers), 2)
    equal(found, expected)


@pytest.mark.parametrize("stop", [(0, 1), (1, 3), (1, 0)])
@pytest.mark.parametrize("name", LOADERS)
def test_with_a_seed_it_goes_on_bit_for_bit(name, stop):
    check(LOADERS[name], 0, stop, seed=7)


@pytest.mark.parametrize("name", ["lazy", "no batches", "together", "subclass", "persistent"])
def test_with_a_seed_workers_make_no_difference(name):
    make = (LOADERS | WORKERS)[name]
    whole = check(make, 2, (1, 3), seed=7, other_workers=None if name in WORKERS else 0)
    begin()
    alone = LOADERS["shuffled"] if name == "persistent" else make
    equal(run(source_of(alone, 0, 7), 3)[0], whole)


# With workers a loader asks for two iterators, and persistent ones for one: other numbers of a generator of its own
@pytest.mark.parametrize("name", ["eager batches", "persistent generator"])
def test_with_a_seed_a_generator_goes_on_with_as_many_workers(name):
    check((LOADERS | WORKERS)[name], 2, (1, 3), seed=7)


def test_with_a_seed_the_way_of_starting_workers_makes_no_difference():
    method = "forkserver"  # with "spawn", whole trainings are compared elsewhere
    begin()
    expected, _ = run(source_of(LOADERS["together"], 0, 7), 1)
    begin()
    make = lambda w: DataLoader(Together(), SIZE, shuffle=True, num_workers=1, multiprocessing_context=method)  # noqa: E731
    equal(run(source_of(make, 1, 7), 1)[0], expected)


def test_a_seed_changes_no_global_random_numbers():
    for workers in (0, 2):
        begin()
        before = randomness.capture()
        list(source_of(LOADERS["lazy"], workers, 7).batches(0))
        assert randomness.same(before, randomness.capture())


def test_what_was_read_before_is_not_read_again():
    for seed in (None, 3):
        begin()
        _, saved = run(source_of(LOADERS["shuffled"], seed=seed), 1, (0, 4))
        loader = LOADERS["shuffled"](0)
        source = adapt(loader, name="dl_train", training=True, seed=seed)
        source.load_state_dict(saved["data"])
        assert source.replays == 0
        assert len(list(source.batches(0, 4))) == 2
        assert loader.dataset.read == COUNT - 4 * SIZE


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.booleans(), st.sampled_from([None, 4]), st.data())
def test_tensors_go_on_from_any_batch(count, size, drop_last, seed, data):
    size = min(size, count)
    x = torch.arange(count)
    options = {"batch_size": size, "drop_last": drop_last}
    steps = adapt(x, name="x", **options).steps
    stop = (data.draw(st.integers(0, 2)), data.draw(st.integers(0, steps)))
    stop = (1, 0) if stop == (0, 0) else stop

    def make(workers):
        return (x, x.double())

    check(make, 0, stop, seed=seed, wrap=options)


def test_tensors_that_were_not_begun_have_an_order_of_their_own():
    source = adapt(torch.arange(5), name="x", training=True)
    assert source.state_dict(0)["drawn"] is None
    batches = source.batches(0)
    next(batches)
    assert source.state_dict(0)["drawn"] is not None


STREAMS = {
    "stream": lambda w: DataLoader(Stream(), SIZE, num_workers=w),
    "stream of single": lambda w: DataLoader(Stream(), None, num_workers=w),
    "list": lambda w: [(torch.tensor([float(number)]), torch.ones(1)) for number in range(6)],
}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_again(name, seed):
    for stop in [(0, 1), (1, 3), (1, 0)]:
        check(STREAMS[name], 0, stop, seed=seed)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_stream_of_workers_is_read_again(seed):
    check(STREAMS["stream"], 2, (1, 3), seed=seed)


def test_with_a_seed_workers_of_a_stream_that_persist_make_no_difference():
    begin()
    expected, _ = run(source_of(STREAMS["stream"], 2, 3), 2)
    begin()
    make = lambda w: DataLoader(Stream(), SIZE, num_workers=w, persistent_workers=True)  # noqa: E731
    equal(run(source_of(make, 2, 3), 2)[0], expected)


def test_what_has_to_be_read_again_is_counted():
    begin()
    _, saved = run(source_of(STREAMS["list"]), 1, (0, 4))
    source = source_of(STREAMS["list"])
    assert source.replays == 0
    source.load_state_dict(saved["data"])
    assert source.replays == 4
    assert len(list(source.batches(0, 4))) == 2
    assert source.replays == 0


def numbers():
    for number in range(9):
        yield torch.tensor([float(number)]), torch.rand(1)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_generator_is_read_again_from_a_new_one(seed):
    begin()
    whole, _ = run(source_of(lambda w: numbers(), seed=seed), 1)
    begin()
    before, saved = run(source_of(lambda w: numbers(), seed=seed), 1, (0, 4))
    scramble()
    after, _ = run(source_of(lambda w: numbers(), seed=seed), 1, resumed=((0, 4), saved))
    equal(before + after, whole)


def test_data_that_end_earlier_than_before_are_refused():
    begin()
    _, saved = run(source_of(STREAMS["list"]), 1, (0, 4))
    source = adapt(STREAMS["list"](0)[:3], name="dl_train", training=True)
    source.load_state_dict(saved["data"])
    with pytest.raises(DataError, match=r"^dl_train cannot go on behind batch 4: read again, it ends after 3 batches"):
        next(source.batches(0, 4))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("steps", [2, 4, 6, 7, 13])
@pytest.mark.parametrize("name", ["shuffled", "lazy", "list", "tensors"])
def test_limited_data_go_on_in_the_same_reading(name, steps, seed):
    tensors = {"tensors": lambda w: torch.arange(float(COUNT)).unsqueeze(1).expand(-1, 2)}
    make = (LOADERS | STREAMS | tensors)[name]
    if name == "tensors":
        make = lambda w: (torch.arange(float(COUNT)), torch.ones(COUNT))  # noqa: E731
    for stop in [(0, 1), (1, 2), (2, steps), (1, 0)]:
        check(make, 0, stop, seed=seed, wrap={"steps": steps})


def test_limited_streams_go_on_with_workers():
    check(LOADERS["shuffled"], 2, (1, 3), wrap={"steps": 4}, seed=1)


@pytest.mark.parametrize("limited", [None, 4])
def test_a_batch_that_was_handed_out_ahead_comes_again(limited):
    for stop in range(5):
        begin()
        source = source_of(LOADERS["shuffled"], steps=limited)
        found = [batch.x for batch in source.batches(0)]
        begin()
        source = source_of(LOADERS["shuffled"], steps=limited)
        batches = source.batches(0)
        for _ in range(min(stop + 1, len(found))):
            next(batches)
        saved = source.state_dict(min(stop, len(found) - 1))
        state = randomness.capture()
        scramble()
        again = source_of(LOADERS["shuffled"], steps=limited)
        again.load_state_dict(saved)
        randomness.restore(state)
        rest = [batch.x for batch in again.batches(0, min(stop, len(found) - 1))]
        assert torch.equal(torch.cat(rest), torch.cat(found[min(stop, len(found) - 1) :]))


def test_going_on_twice_in_one_epoch():
    for name in ("shuffled", "lazy", "list"):
        make = (LOADERS | STREAMS)[name]
        begin()
        whole, _ = run(source_of(make), 2)
        begin()
        one, saved = run(source_of(make), 2, (1, 2))
        scramble()
        two, saved = run(source_of(make), 2, (1, 4), resumed=((1, 2), saved))
        scramble()
        three, _ = run(source_of(make), 2, resumed=((1, 4), saved))
        equal(one + two + three, whole)


class Counting(Sampler):
    """Has an order by a count of its own, which nobody knows of."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter(torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def __len__(self):
        return COUNT


def test_an_order_that_cannot_be_drawn_again_is_refused():
    begin()
    _, saved = run(source_of(lambda w: plain(w, sampler=Counting())), 3, (1, 3))
    source = source_of(lambda w: plain(w, sampler=Counting()))
    source.load_state_dict(saved["data"])
    with pytest.raises(DataError) as error:
        next(source.batches(1, 3))
    assert str(error.value) == (
        "dl_train cannot go on behind batch 3: the order of its samples, drawn again by Counting, is another one than "
        "before. Either the data or the sampler changed, or the sampler draws from random numbers that are not known "
        "here. Give it a generator as an attribute, or say seed= in fit from the beginning on. This time, go on from "
        "the end of an epoch."
    )


def test_fewer_batches_than_were_read_are_refused():
    begin()
    _, saved = run(source_of(LOADERS["in order"]), 1, (0, 4))
    source = source_of(lambda w: DataLoader(Noisy(), batch_sampler=[[0, 1, 2, 3]]))
    source.load_state_dict(saved["data"])
    with pytest.raises(DataError, match="cannot go on behind batch 4"):
        next(source.batches(0, 4))


class Repeated(DataLoader):
    """Keeps one iterator for all epochs."""

    def __init__(self, workers):
        super().__init__(Noisy(), SIZE, num_workers=workers)
        self.iterator = None

    def __iter__(self):
        for index in range(len(self)):
            yield torch.tensor([float(index)]), torch.rand(1)


def test_a_loader_that_asks_no_sampler_is_read_again():
    for stop in [(0, 1), (1, 3), (1, 0)]:
        check(Repeated, 0, stop)
    _, saved = run(source_of(Repeated), 1, (0, 4))
    source = source_of(Repeated)
    source.load_state_dict(saved["data"])
    assert source.replays == 4


class Telling:
    """An iterable of batches that tells where it is."""

    def __init__(self):
        self.place = self.read = 0

    def __iter__(self):
        while self.place < 6:
            self.place += 1
            self.read += 1
            yield torch.tensor([float(self.place)]), torch.rand(1)
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class TellingStream(IterableDataset, Telling):
    __iter__ = Telling.__iter__


def test_data_that_tell_where_they_are_are_told():
    for make in (lambda w: Telling(), lambda w: DataLoader(TellingStream(), 2)):
        for stop in [(0, 1), (1, 3), (1, 0)]:
            check(make, 0, stop)
    begin()
    _, saved = run(source_of(lambda w: Telling()), 1, (0, 4))
    data = Telling()
    source = adapt(data, name="dl_train", training=True)
    source.load_state_dict(saved["data"])
    assert source.replays == 0
    assert len(list(source.batches(0, 4))) == 2
    assert data.read == 2


def test_data_that_tell_where_they_are_are_asked_before_each_batch_once_one_is_read_ahead():
    source = source_of(lambda w: Telling())
    batches = source.batches(0)
    first = [next(batches).x.item() for _ in range(3)]
    states = [source.state_dict(2)]
    next(batches)
    states.append(source.state_dict(3))
    assert first == [1, 2, 3]
    for finished, (state, replays) in enumerate(zip(states, (2, 0), strict=True), 2):
        again = source_of(lambda w: Telling())
        again.load_state_dict(state)
        assert again.replays == replays
        assert [batch.x.item() for batch in again.batches(0, finished)] == [*range(finished + 1, 7)]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_dataloader_goes_on(workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make(workers):
        return stateful.StatefulDataLoader(Noisy(), SIZE, shuffle=True, num_workers=workers)

    for stop in [(1, 3)] if workers else STOPS:
        check(make, workers, stop, bits=not workers)


def test_a_map_of_samples_may_tell_where_it_is():
    class Told(Noisy):
        state = 0

        def __getitem__(self, index):
            self.state += 1
            return torch.tensor(float(index)), torch.tensor(self.state)

        def state_dict(self):
            return {"state": self.state}

        def load_state_dict(self, state):
            self.state = state["state"]

    for stop in [(0, 1), (1, 3), (1, 0)]:
        check(lambda w: DataLoader(Told(), SIZE, shuffle=True), 0, stop)
