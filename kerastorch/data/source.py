"""Where batches come from: the forms of data behind one face."""

from __future__ import annotations

import inspect
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch, unpack
from kerastorch.errors import DataError
from kerastorch.tree import map_leaves, tensors


class DataSource(ABC):
    """Batches, epoch by epoch.

    Attributes:
        name: What the user calls it, for messages: `"dl_train"`.
        steps: Batches per epoch; None while unknown.
        one_shot: It can be read once only.
    """

    name: str
    steps: int | None
    one_shot: bool = False

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch; nothing is read before the first is asked for."""

    def close(self) -> None:
        """Let go of what is held from one epoch to the next, such as the workers of a loader."""


class NoData(DataSource):
    """What a run without training or without validation has."""

    name = "no data"
    steps = 0

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield nothing."""
        return iter(())


class TensorSource(DataSource):
    """Tensors in memory, cut by whole slices; shuffled by one permutation an epoch."""

    def __init__(self, data: tuple[Any, ...], *, batch_size: int, shuffle: bool, name: str) -> None:
        self.name = name
        self._data = data
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._length = _common_length(data, name)
        self.steps: int = -(-self._length // batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield batches of `batch_size` samples, the last one with what is left."""
        order = torch.randperm(self._length) if self._shuffle else None
        for index in range(self.steps):
            start = index * self._batch_size
            stop = min(start + self._batch_size, self._length)
            chosen = None if order is None else order[start:stop]
            x, y, weight = (*(_take(part, start, stop, chosen) for part in self._data), None, None)[:3]
            yield Batch(index, x, y, weight, stop - start)


def _take(part: Any, start: int, stop: int, chosen: Tensor | None) -> Any:
    if part is None:
        return None
    if chosen is None:  # a copy, as a DataLoader makes: a net that works in place must not change the user's data
        return map_leaves(lambda leaf: leaf[start:stop].clone(), part)
    return map_leaves(lambda leaf: leaf.index_select(0, chosen.to(leaf.device)), part)


def _common_length(data: tuple[Any, ...], name: str) -> int:
    lengths = [len(leaf) if leaf.ndim else 0 for part in data for leaf in tensors(part)]
    if len(set(lengths)) != 1:
        raise DataError(f"The arrays of {name} differ in length: {', '.join(map(str, lengths))}.")
    if not lengths[0]:
        raise DataError(f"{name} is empty: its arrays have no samples.")
    return lengths[0]


class LoaderSource(DataSource):
    """A DataLoader or any other iterable of batches, of known or unknown length."""

    def __init__(self, loader: Iterable[Any], *, float_dtype: torch.dtype, name: str) -> None:
        self.name = name
        self.steps = _length(loader)
        self.one_shot = _is_one_shot(loader)
        self._loader = loader
        self._float_dtype = float_dtype
        if self.steps == 0:
            raise DataError(_why_empty(loader, name))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield what the loader gives, however much that is."""
        _set_epoch(self._loader, epoch)
        for index, item in enumerate(self._loader):
            yield unpack(item, index, self._float_dtype)


class LimitedSource(DataSource):
    """Another source, `steps` batches an epoch.

    With `continues`, as in training, an epoch goes on where the last one ended, and begins anew at the end of the data;
    without, every epoch has the same first batches.
    """

    def __init__(self, source: DataSource, steps: int, *, continues: bool) -> None:
        self.name = source.name
        self.steps: int = steps
        self._source = source
        self._continued = self._endless() if continues else None

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield `steps` batches; fewer, with a warning, where the data can be read only once and end."""
        batches = self._continued or self._source.batches(epoch)
        count = 0
        for count, batch in enumerate(itertools.islice(batches, self.steps), 1):
            batch.index = count - 1
            yield batch
        if 0 < count < self.steps:
            warnings.warn(f"{self.name} ran out of data after {count} of {self.steps} batches.", stacklevel=2)

    def close(self) -> None:
        """Stop in the middle of the other source."""
        if self._continued is not None:
            self._continued.close()

    def _endless(self) -> Generator[Batch, None, None]:
        for reading in itertools.count():
            empty = True
            for batch in self._source.batches(reading):
                empty = False
                yield batch
            if empty:
                return


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # no __len__, or a DataLoader of an IterableDataset without one
        return None


def _is_one_shot(loader: object) -> bool:
    # A class of the user's with __next__ may begin anew in __iter__, so only the iterators of Python itself are certain
    builtin = type(loader).__module__ in ("builtins", "itertools")
    return inspect.isgenerator(loader) or (builtin and isinstance(loader, Iterator))


def _why_empty(loader: Any, name: str) -> str:
    dataset, size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    samples = None if dataset is None else _length(dataset)
    if samples and getattr(loader, "drop_last", False):
        return (
            f"{name} gives no batch: its {samples} samples are fewer than batch_size={size}, and drop_last=True "
            "drops them. Make batch_size smaller or say drop_last=False."
        )
    return f"{name} is empty: it has no batches" + ("." if samples is None else f", its dataset has {samples} samples.")


def _set_epoch(loader: Any, epoch: int) -> None:
    # A DistributedSampler shuffles anew only if it is told the epoch
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    for sampler in {id(sampler): sampler for sampler in samplers}.values():
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
