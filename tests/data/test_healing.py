"""Workers that die, Datasets that raise, and what a source says of itself."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from kerastorch.data import adapt
from kerastorch.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory")


class Deadly(Dataset):
    """Kills the worker that reads a sample, as often as there is a file to say so."""

    def __init__(self, folder, times):
        self.folder = folder
        for time in range(times):
            (folder / str(time)).touch()

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 13:
            for file in self.folder.iterdir():
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(float(index)), torch.rand(2)


def batches(dataset, heal_workers, seed=1, **options):
    torch.manual_seed(0)
    loader = DataLoader(dataset, 4, **{"shuffle": True, "num_workers": 2, **options})
    source = adapt(loader, name="dl_train", training=True, seed=seed, heal_workers=heal_workers)
    try:
        return [(batch.x, batch.y) for epoch in range(2) for batch in source.batches(epoch)]
    finally:
        source.close()


@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}])
def test_workers_that_die_are_begun_anew(tmp_path, options):
    expected = batches(Deadly(tmp_path, 0), 0, num_workers=0)
    with pytest.warns(UserWarning) as seen:
        found = batches(Deadly(tmp_path, 2), 2, **options)
    text, _ = (str(warning.message) for warning in seen if warning.category is UserWarning)
    assert text.startswith("dl_train: ")
    assert text.endswith("They are begun anew, and go on with that batch.")
    assert "of the samples " in text
    for left, right in zip(found, expected, strict=True):
        assert all(map(torch.equal, left, right))


def test_without_a_seed_the_order_is_kept(tmp_path):
    expected = batches(Deadly(tmp_path, 0), 0, seed=None)
    with pytest.warns(UserWarning, match="begun anew"):
        found = batches(Deadly(tmp_path, 1), 1, seed=None)
    assert torch.equal(torch.cat([x for x, _ in found]), torch.cat([x for x, _ in expected]))


def test_workers_that_die_too_often_are_an_error(tmp_path):
    with pytest.raises(
        DataError, match=r"of the samples \d+, \d+, \d+, \d+. Mostly it is memory: say a smaller num_worker"
    ):
        batches(Deadly(tmp_path, 1), 0, shuffle=False)
    for file in tmp_path.iterdir():
        file.unlink()
    with (
        pytest.warns(UserWarning, match="begun anew"),
        pytest.raises(DataError, match="and workers were begun anew 1 times already"),
    ):
        batches(Deadly(tmp_path, 2), 1, shuffle=False)


class Stream(IterableDataset):
    def __iter__(self):
        for number in range(8):
            if number == 5 and get_worker_info().id == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield torch.tensor(float(number)), torch.ones(1)


def test_the_workers_of_a_stream_cannot_be_begun_anew():
    with pytest.raises(DataError, match="A stream cannot go on in the middle with other workers"):
        batches(Stream(), 2, shuffle=None)


class Wrong(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 5:
            raise KeyError("no such file")
        return torch.ones(1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"batch_size": 4}, "kerastorch: while batch 2 of dl_train was read, of the samples 4, 5, 6, 7."),
        ({"batch_size": None}, "kerastorch: while batch 6 of dl_train was read, of the samples 5."),
    ],
)
def test_the_samples_of_a_batch_that_cannot_be_read_are_named(workers, options, note):
    source = adapt(DataLoader(Wrong(), num_workers=workers, **options), name="dl_train", in_fit=True)
    with pytest.raises(KeyError) as error:
        list(source.batches(0))
    assert error.value.__notes__ == [note]


def test_the_place_of_an_item_that_cannot_be_read_is_named():
    def numbers():
        yield torch.ones(1)
        raise OSError("gone")

    source = adapt(numbers(), name="dl_train", in_fit=True)
    with pytest.raises(OSError, match="gone") as error:
        list(source.batches(0))
    assert error.value.__notes__ == ["kerastorch: while batch 2 of dl_train was read."]


class Seen(Dataset):
    """Says what a worker sees as its Dataset."""

    mark = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        info = get_worker_info()
        return torch.tensor([type(info.dataset) is Seen, info.dataset is self, self.mark])


def mark(worker):
    get_worker_info().dataset.mark = 7


def test_a_worker_shows_the_users_dataset():
    loader = DataLoader(Seen(), 4, num_workers=1, worker_init_fn=mark)
    for seed in (None, 1):
        source = adapt(loader, name="dl_train", training=True, seed=seed)
        assert next(source.batches(0)).x.tolist() == 4 * [[1, 1, 7]]
    assert loader.worker_init_fn is mark


def test_the_users_loader_stays_as_it_is():
    loader = DataLoader(TensorDataset(torch.arange(8)), 2, num_workers=1, persistent_workers=True)
    before = dict(vars(loader))
    source = adapt(loader, name="dl_train", training=True, seed=1)
    list(source.batches(0))
    assert vars(loader) == before
    assert source.loader is loader
    reader = source._reader._copy
    (worker,) = reader._iterator._workers
    assert worker.is_alive()
    assert reader.batch_sampler.batch_size == 2
    assert len(reader.dataset) == 8
    assert reader.dataset.tensors is loader.dataset.tensors
    source.close()
    assert reader._iterator is None
    assert not worker.is_alive()
    source.close()


def test_outside_fit_the_users_loader_itself_is_read():
    loader = DataLoader(TensorDataset(torch.arange(8)), 2, num_workers=1, persistent_workers=True)
    source = adapt(loader, name="dl_val")
    list(source.batches(0))
    assert loader._iterator is not None
    assert source.state_dict(0) == {}
    source.load_state_dict({})
    source.close()
    assert source.replays == 0
    assert loader._iterator._workers[0].is_alive()
    loader._iterator._shutdown_workers()


def test_workers_end_with_an_epoch_that_is_left():
    source = adapt(DataLoader(Wrong(), 1, num_workers=1), name="dl_train", training=True)
    reading = source.batches(0)
    next(reading)
    (worker,) = source._iterator._workers
    reading.close()
    assert not worker.is_alive()


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (
            torch.ones(10),
            {"seed": 3, "drop_last": True},
            ("tensors", 10, 2, 4, True, "shuffled", 0, 3),
        ),
        (torch.ones(10), {"shuffle": False}, ("tensors", 10, 3, 4, False, "in order", 0, None)),
        (torch.ones(10), {"steps": 2}, ("tensors", 10, 2, 4, False, "shuffled", 0, None)),
        (
            DataLoader(Wrong(), 5, shuffle=True, drop_last=True, num_workers=1),
            {"seed": 3, "batch_size": None},
            ("DataLoader", 12, 2, 5, True, "RandomSampler", 1, 3),
        ),
        (
            DataLoader(Wrong(), batch_sampler=[[1], [2]]),
            {"batch_size": None},
            ("DataLoader", 12, 2, None, False, "list", 0, None),
        ),
        ([torch.ones(2)], {"batch_size": None}, ("list", None, 1, None, False, None, 0, None)),
    ],
)
def test_a_source_says_what_decides_on_its_batches(data, options, expected):
    source = adapt(data, name="dl_train", training=True, **{"batch_size": 4, **options})
    names = ("kind", "samples", "batches", "batch size", "drop last", "sampler", "workers", "seed")
    assert source.fingerprint() == dict(zip(names, expected, strict=True))
