"""Data that workers read under random numbers which follow from a seed, whatever worker reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from kerastorch import randomness

ORDER, FETCH, STREAM = range(3)  # what random numbers that follow from a seed are for
_END = object()


class SeededSamples(Dataset[Any]):
    """A Dataset whose batches are read and put together under random numbers by seed, epoch and batch.

    Args:
        dataset: The user's.
        collate: Makes a batch of samples.
        seed: Of all numbers.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], seed: int) -> None:
        self.dataset = dataset
        self._collate = collate
        self._seed = seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, place: tuple[int, int, Any]) -> Any:
        indices = self._begin(place)
        together = getattr(self.dataset, "__getitems__", None)
        return self._collate(together(indices) if together else [self.dataset[index] for index in indices])

    def __getitem__(self, place: tuple[int, int, Any]) -> Any:
        return self._collate(self.dataset[self._begin(place)])

    def _begin(self, place: tuple[int, int, Any]) -> Any:
        epoch, number, indices = place
        randomness.reseed(self._seed, epoch, FETCH, number)
        return indices


class SeededStream(IterableDataset[Any]):
    """An IterableDataset that each worker reads under random numbers by seed, epoch, worker and batch.

    Args:
        dataset: The user's.
        batch_size: Samples in a batch.
        seed: Of all numbers.

    Attributes:
        epoch: The one that is read when workers begin; those that persist count on by themselves.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self.epoch = 0
        self._batch_size = batch_size
        self._seed = seed
        self._readings = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        numbers = (self._seed, self.epoch + self._readings, STREAM, 0 if info is None else info.id)
        self._readings += 1
        randomness.reseed(*numbers)
        samples = iter(self.dataset)
        for number in itertools.count():
            if number % self._batch_size == 0:
                randomness.reseed(*numbers, number // self._batch_size)
            sample = next(samples, _END)
            if sample is _END:
                return
            yield sample


class UsersDataset:
    """What a worker does first: shows `get_worker_info` the user's Dataset, and calls the user's `worker_init_fn`.

    Args:
        own: The user's.
    """

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self._own = own

    def __call__(self, worker: int) -> None:
        """Do it."""
        info = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.dataset)  # type: ignore[union-attr]  # it refuses to be changed
        if self._own is not None:
            self._own(worker)


def as_is(batch: Any) -> Any:
    """Return a batch that is put together already."""
    return batch
