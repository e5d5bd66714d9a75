"""Where batches come from: the forms of data behind one face."""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch, check_weight, unpack
from kerastorch.data.kinds import is_one_shot
from kerastorch.data.order import check_rows, seeded
from kerastorch.errors import DataError
from kerastorch.tree import leaves, map_leaves


class DataSource(ABC):
    """Batches, epoch by epoch.

    Attributes:
        name: What the user calls it, for messages: `"dl_train"`.
        steps: Batches per epoch; None while unknown.
        one_shot: It can be read once only.
        loader: What the batches are read from; None for data in memory.
        batch_size: Samples in a full batch; None while unknown.
    """

    name: str
    steps: int | None
    one_shot: bool = False
    loader: Iterable[Any] | None = None
    batch_size: int | None = None

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
    """Tensors in memory, cut by whole slices; shuffled by one permutation an epoch.

    Args:
        data: `(x,)`, `(x, y)` or `(x, y, weight)`, each a tensor `(N, ...)` or nested ones.
        batch_size: Samples per batch.
        shuffle: Whether each epoch has an order of its own.
        name: What the user calls it, for messages.
        drop_last: Leave out a last batch that is short.
        seed: Of the orders; without, they come from torch's own random numbers.
        rows: The samples to use `(M,)`; all by default. Nothing is copied.
        labelled: `x` is a dict that holds the targets as `"labels"`.

    Raises:
        DataError: There is nothing, or lengths differ.
    """

    def __init__(
        self,
        data: tuple[Any, ...],
        *,
        batch_size: int,
        shuffle: bool,
        name: str,
        drop_last: bool = False,
        seed: int | None = None,
        rows: Tensor | None = None,
        labelled: bool = False,
    ) -> None:
        self.name = name
        self._data = data
        self.batch_size: int = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._rows = rows
        self._labelled = labelled
        length = common_length(data, name)
        if len(data) == 3 and data[2] is not None:
            check_weight(data[2], length, name)
        self._length = length if rows is None else check_rows(rows, length, name)
        self.steps: int = self._length // batch_size if drop_last else -(-self._length // batch_size)
        if not self.steps:
            raise DataError(_too_few(name, self._length, batch_size))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield batches of `batch_size` samples, the last one with what is left."""
        order = self._order(epoch)
        for index in range(self.steps):
            start = index * self.batch_size
            stop = min(start + self.batch_size, self._length)
            chosen = None if order is None else order[start:stop]
            x, y, weight = (*(_take(part, start, stop, chosen) for part in self._data), None, None)[:3]
            yield Batch(index, x, x["labels"] if self._labelled else y, weight, stop - start)

    def _order(self, epoch: int) -> Tensor | None:
        if not self._shuffle:
            return self._rows
        generator = None if self._seed is None else seeded(self._seed, epoch)
        order = torch.randperm(self._length, generator=generator)
        return order if self._rows is None else self._rows.index_select(0, order)


def _take(part: Any, start: int, stop: int, chosen: Tensor | None) -> Any:
    if part is None:
        return None
    if chosen is None:
        return map_leaves(lambda leaf: None if leaf is None else _copy(leaf[start:stop]), part)
    return map_leaves(lambda leaf: None if leaf is None else leaf.index_select(0, chosen.to(leaf.device)), part)


def _copy(rows: Tensor) -> Tensor:
    # As a DataLoader makes: a net that works in place must not change the user's data, and in another layout in memory
    # the same numbers give other last digits
    return rows.clone(memory_format=torch.contiguous_format)


def common_length(data: tuple[Any, ...], name: str) -> int:
    """Return how many samples there are.

    Args:
        data: Tensors, arrays or tables, however nested.
        name: What the user calls it, for messages.

    Raises:
        DataError: There are none, or lengths differ.
    """
    shapes = [tuple(leaf.shape) for part in data for leaf in leaves(part) if leaf is not None]
    lengths = [shape[0] if shape else 0 for shape in shapes]
    if len(set(lengths)) != 1:
        raise DataError(f"The arrays of {name} differ in length: {', '.join(map(str, lengths))}.")
    if not lengths[0]:
        raise DataError(f"{name} is empty: its arrays have no samples.")
    return int(lengths[0])


class LoaderSource(DataSource):
    """A DataLoader or any other iterable of batches, of known or unknown length."""

    def __init__(self, loader: Iterable[Any], *, float_dtype: torch.dtype, name: str) -> None:
        self.name = name
        self.steps = _length(loader)
        self.one_shot = is_one_shot(loader)
        self.loader: Iterable[Any] = loader
        self.batch_size = getattr(loader, "batch_size", None)
        self._float_dtype = float_dtype
        self._has_given = False
        if self.steps == 0:
            raise DataError(_why_empty(loader, name))

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield what the loader gives, however much that is."""
        _set_epoch(self.loader, epoch)
        index = -1
        for index, item in enumerate(self.loader):
            yield unpack(item, index, self._float_dtype)
        self._has_given = self._has_given or index >= 0
        if not self._has_given and getattr(self.loader, "drop_last", False):  # a stream of unknown length
            raise DataError(_too_few(self.name, None, getattr(self.loader, "batch_size", None)))


class LimitedSource(DataSource):
    """Another source, `steps` batches an epoch.

    With `continues`, as in training, an epoch goes on where the last one ended, and begins anew at the end of the data;
    without, every epoch has the same first batches.
    """

    def __init__(self, source: DataSource, steps: int, *, continues: bool) -> None:
        self.name = source.name
        self.steps: int = steps
        self.loader = source.loader
        self.batch_size = source.batch_size
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


def _why_empty(loader: Any, name: str) -> str:
    dataset, size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    samples = None if dataset is None else _length(dataset)
    if samples and getattr(loader, "drop_last", False):
        return _too_few(name, samples, size)
    return f"{name} is empty: it has no batches" + ("." if samples is None else f", its dataset has {samples} samples.")


def _too_few(name: str, samples: int | None, batch_size: int | None) -> str:
    those = "samples" if samples is None else f"{samples} samples"
    return (
        f"{name} gives no batch: its {those} are fewer than batch_size={batch_size}, and drop_last=True drops them. "
        "Make batch_size smaller or say drop_last=False."
    )


def _set_epoch(loader: Any, epoch: int) -> None:
    # A DistributedSampler, or a stream of Hugging Face, shuffles anew only if it is told the epoch
    batch_sampler, dataset = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    parts = [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None), dataset]
    for part in {id(part): part for part in parts}.values():
        set_epoch = getattr(part, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
