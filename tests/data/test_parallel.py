"""A Dataset without a loader is read by workers where it pays and changes no number."""

import multiprocessing
import os
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import kerastorch as kt
from kerastorch import feed, randomness
from kerastorch.data import adapt, parallel
from kerastorch.errors import DataError

COUNT, SIZE = 22, 4
X = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(1))


class Samples(Dataset):
    """Draws from torch, NumPy and random for every sample, and may take its time."""

    def __init__(self, seconds=0.0, count=COUNT):
        self.seconds, self.count = seconds, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.seconds)
        noise = torch.rand(()) + np.random.rand() + random.random()
        return X[index % COUNT] + noise.float(), index % 2


class Quick(Samples):
    def __getitem__(self, index):
        return X[0]


class Together(Samples):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 4)
    if hasattr(torch._utils, "cpu_count"):  # torch warns where it finds fewer
        monkeypatch.setattr(torch._utils, "cpu_count", lambda: 64)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "fork")


def workers(data, **options):
    return adapt(data, name="dl_train", training=True, **options).loader.num_workers


SLOW = Samples(0.002, 10_000)


def test_slow_samples_are_read_by_all_cpus_but_one():
    assert workers(SLOW, num_workers="auto") == workers(Together(0.002, 10_000), num_workers="auto") == 3


def test_not_by_more_than_pay(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 64)
    assert workers(SLOW, num_workers="auto") == parallel.MOST


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (SLOW, {}),  # random numbers would be others
        (Quick(0.0, 10_000), {"seed": 1}),  # cheap
        (SLOW, {"seed": 1, "batch_size": 1}),
        (Samples(0.002, 100), {"seed": 1}),  # over soon
        (SLOW, {"seed": 1, "rows": torch.arange(100)}),
    ],
)
def test_not_where_it_does_not_pay(data, options):
    assert workers(data, **options) == 0


def with_attribute(**attributes):
    dataset = Samples(0.002, 10_000)
    vars(dataset).update(attributes)
    return dataset


class Stateful(Samples):
    def state_dict(self):
        return {}


class Failing(Samples):
    def __getitem__(self, index):
        raise ZeroDivisionError


class Elsewhere(Samples):
    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.zeros(2, device="meta")


@pytest.mark.parametrize(
    "data",
    [
        with_attribute(file=lambda: 0),  # like an open file, it cannot be pickled
        with_attribute(rng=np.random.default_rng(0)),
        with_attribute(generator=torch.Generator()),
        Stateful(0.002, 10_000),
        Failing(0.002, 10_000),
        Elsewhere(0.002, 10_000),
    ],
)
def test_not_where_it_might_not_work(data):
    assert workers(data, num_workers="auto") == 0


def test_not_where_processes_cannot_be_begun_quickly_or_at_all(monkeypatch):
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=True))
    assert workers(SLOW, num_workers="auto") == 0
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=False))
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 1)
    assert workers(SLOW, num_workers="auto") == 0
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 4)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "spawn")
    assert workers(SLOW, num_workers="auto") == 0


def test_not_more_than_shared_memory_holds(monkeypatch, tmp_path):
    batch = 32 * (X[0].nbytes + 8)
    monkeypatch.setattr(parallel, "_SHARED", tmp_path)
    for free, expected in ((12 * batch, 2), (5 * batch, 0), (10**9, 3)):
        monkeypatch.setattr(parallel.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert workers(SLOW, num_workers="auto") == expected
    monkeypatch.setattr(parallel, "_SHARED", tmp_path / "missing")
    assert workers(SLOW, num_workers="auto") == 3


def test_to_look_changes_no_random_number_and_takes_no_time():
    before, start = randomness.capture(), time.perf_counter()
    assert workers(Samples(0.2, 100), num_workers="auto") == 3
    assert time.perf_counter() - start < 1
    assert randomness.same(before, randomness.capture())


def test_text_beside_tensors_is_not_counted():
    class Told(Samples):
        def __getitem__(self, index):
            return {"x": X[0], "name": "a", "none": None}

    seconds, size = parallel._probe(Told())
    assert seconds >= 0
    assert size == X[0].nbytes


def trained(data, **options):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2), nn.Linear(3, 2)))
    model.compile("cross_entropy", torch.optim.SGD(model.parameters(), lr=0.1), device="cpu")
    with model._session.begin((), 0, options.pop("feed")(model, data), trains="fit", epochs=2) as (run, hooks):
        kt.loop.fit(run, hooks)
    return [parameter.detach().clone() for parameter in model.parameters()], torch.rand(1)


def options(**given):
    defaults = dict.fromkeys(
        ("shuffle", "steps_per_epoch", "validation_steps", "validation_split", "stratify", "class_weight", "seed")
    )
    return feed.Options(**{**defaults, "batch_size": SIZE, "drop_last": False, **given})


def fed(val=None, **given):
    return lambda model, data: feed.for_training(model.net, data, val, options(**given), epochs=2)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip([*one[0], one[1]], [*other[0], other[1]], strict=True))


def test_with_a_seed_the_number_of_workers_changes_nothing(monkeypatch):
    alone = trained(Samples(), feed=fed(seed=5))
    assert equal(trained(Samples(), feed=fed(seed=5, num_workers=1)), alone)
    monkeypatch.setattr(parallel, "MOST", 2)
    monkeypatch.setattr(parallel, "PER_BATCH", 0)
    monkeypatch.setattr(parallel, "PER_EPOCH", 0)
    assert equal(trained(Samples(), feed=fed(seed=5, num_workers="auto")), alone)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_without_a_seed_batches_are_those_of_a_loader_with_as_many(given):
    loader = DataLoader(Samples(), SIZE, shuffle=True, num_workers=given)
    assert equal(trained(Samples(), feed=fed(num_workers=given)), trained(loader, feed=fed(batch_size=None)))


def test_forks_begin_anew_each_epoch_and_others_stay(monkeypatch):
    assert not adapt(Samples(), name="x", seed=1, num_workers=2).loader.persistent_workers
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "spawn")
    assert adapt(Samples(), name="x", seed=1, num_workers=2).loader.persistent_workers
    for arguments in ({"num_workers": 2}, {"num_workers": 0, "seed": 1}):  # as in a plain loop, seeds are new ones
        assert not adapt(Samples(), name="x", **arguments).loader.persistent_workers


@pytest.mark.parametrize("there", [True, False])
def test_memory_is_pinned_where_there_is_a_gpu(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert adapt(Samples(), name="x").loader.pin_memory is there


def test_validation_has_as_many_workers_where_it_can():
    loader = DataLoader(Samples(), SIZE)
    val = {"samples": Samples(), "loader": loader, "stream": Stream(), "tensors": (X, X[:, 0])}
    made = fed(val, num_workers=1)(kt.Model(nn.Linear(4, 2)), Samples())
    found = {name: getattr(source.loader, "num_workers", None) for name, source in made.val_sets.items()}
    assert found == {"samples_": 1, "loader_": 0, "stream_": 0, "tensors_": None}
    assert made.train.loader.num_workers == 1
    split = fed(num_workers=1, validation_split=0.5)(kt.Model(nn.Linear(4, 2)), Samples())
    assert split.val_sets[""].loader.num_workers == split.train.loader.num_workers == 1
    alone = fed(Stream(), num_workers=1)(kt.Model(nn.Linear(4, 2)), Samples())
    assert alone.val_sets[""].loader.num_workers == 0


def test_tensors_need_none():
    for data in ((X, X[:, 0]), TensorDataset(X)):
        assert adapt(data, name="dl_train", num_workers=2).loader is None


@pytest.mark.parametrize(
    ("data", "number", "text"),
    [
        (DataLoader(Samples()), 0, "num_workers was given, but dl_train is a DataLoader, which makes its own batches"),
        (Stream(), 2, "num_workers=2 was given, but dl_train is the IterableDataset Stream, which each worker would"),
        (Samples(), -1, "num_workers for dl_train is a number, at least 0; got -1"),
    ],
)
def test_where_it_says_nothing_it_is_refused(data, number, text):
    with pytest.raises(DataError, match=f"^{text}"):
        adapt(data, name="dl_train", num_workers=number)


def test_a_stream_without_workers_is_read():
    assert len(list(adapt(Stream(), name="x", num_workers=0).batches(0))) == 1


class OpensLater(Samples):
    """Opens its file in the first sample that is read, so that each worker has its own."""

    def __init__(self, path):
        super().__init__(0.002, 10_000)
        self.path, self.file = path, None

    def __getitem__(self, index):
        if self.file is None:
            self.file = self.path.open("rb")
        return super().__getitem__(index)


def test_a_file_that_the_trial_has_opened_is_not_shared(tmp_path):
    (tmp_path / "data").touch()
    data = OpensLater(tmp_path / "data")
    assert workers(data, num_workers="auto") == 0
    data.file.close()


NUMBERS = np.random.default_rng(0)


class DrawsElsewhere(Samples):
    def __getitem__(self, index):
        return super().__getitem__(index) + NUMBERS.standard_normal()


def test_what_draws_from_a_generator_that_nobody_sees_is_read_here():
    assert workers(DrawsElsewhere(0.002, 10_000), num_workers="auto") == 0


def test_how_workers_begin_is_not_settled_by_asking(monkeypatch):
    asked = []
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: asked.append(allow_none))
    parallel.begins_quickly()
    assert asked == [True]


@pytest.mark.parametrize("value", ["many", -1, 1.5])
def test_num_workers_is_a_number_or_auto(value):
    with pytest.raises(DataError, match="num_workers for dl_train is a number, at least 0"):
        workers(SLOW, num_workers=value)
