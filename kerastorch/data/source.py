"""Where batches come from: the forms of data behind one face."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch, check_weight
from kerastorch.data.order import check_rows, seeded
from kerastorch.errors import DataError
from kerastorch.tree import leaves, map_leaves, move, tensors


class DataSource(ABC):
    """Batches, epoch by epoch.

    Attributes:
        name: What the user calls it, for messages: `"dl_train"`.
        steps: Batches per epoch; None while unknown.
        one_shot: It can be read once only.
        loader: What the batches are read from; None for data in memory.
        batch_size: Samples in a full batch; None while unknown.
        samples: Those of an epoch, as far as one can tell; None while unknown.
        nbytes: What data in memory take; 0 for what is read as it is needed.
    """

    name: str
    steps: int | None
    one_shot: bool = False
    loader: Iterable[Any] | None = None
    batch_size: int | None = None
    samples: int | None = None
    nbytes: int = 0

    @property
    def replays(self) -> int:
        """Batches that have to be read again, to go on behind them; known after `load_state_dict`."""
        return 0

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `start` on; nothing is read before the first is asked for."""

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return what `load_state_dict` needs, as plain numbers and tensors.

        Args:
            finished: Batches of the running epoch that are worked off; one more may have been handed out. 0 between two
                epochs.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state with the next `batches(epoch, start)`, where `start` is what `finished` was.

        The global random numbers are those of the time when it was saved, and are so again at the first batch.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Say what decides on the batches: runs with another one cannot go on where this one was."""
        return {}

    def reside(self, device: torch.device) -> None:
        """Keep data in memory on a device as well, and cut batches there, until `close`; others stay as they are."""

    def close(self) -> None:
        """Let go of what is held from one epoch to the next, such as the workers of a loader."""


class NoData(DataSource):
    """What a run without training or without validation has."""

    name = "no data"
    steps = 0

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
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
        self._data = self._held = data
        self.batch_size: int = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._rows = rows
        self._labelled = labelled
        self._drawn: Tensor | None = None
        self._resumed: Tensor | None = None
        self._is_open = False
        length = common_length(data, name)
        if len(data) == 3 and data[2] is not None:
            check_weight(data[2], length, name)
        self._length = length if rows is None else check_rows(rows, length, name)
        self._drop_last = drop_last
        self.steps: int = self._length // batch_size if drop_last else -(-self._length // batch_size)
        self.samples: int = min(self._length, self.steps * batch_size)
        self.nbytes: int = sum(tensor.nbytes for tensor in tensors(data))
        if not self.steps:
            raise DataError(too_few(name, self._length, batch_size))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches of `batch_size` samples, the last one with what is left."""
        order = self._placed(self._order(epoch))
        self._is_open = True
        try:
            for index in range(start, self.steps):
                yield self._cut(index, order)
        finally:
            self._is_open = False

    def _cut(self, index: int, order: Tensor | None) -> Batch:
        start = index * self.batch_size
        stop = min(start + self.batch_size, self._length)
        chosen = None if order is None else order[start:stop]
        x, y, weight = (*(_take(part, start, stop, chosen) for part in self._data), None, None)[:3]
        return Batch(index, x, x["labels"] if self._labelled else y, weight, stop - start)

    def _placed(self, order: Tensor | None) -> Tensor | None:
        """Bring the order to where the data are, once an epoch; it is drawn on the CPU, the same for all devices."""
        device = next(tensors(self._data)).device
        if order is None or order.device == device:
            return order
        pinned = order.pin_memory() if device.type == "cuda" else order
        return pinned.to(device, non_blocking=True)

    def _order(self, epoch: int) -> Tensor | None:
        if not self._shuffle:
            return self._rows
        if self._seed is not None:
            order = torch.randperm(self._length, generator=seeded(self._seed, epoch))
        elif self._resumed is not None:
            generator = torch.Generator()
            generator.set_state(self._resumed)
            self._drawn, self._resumed = self._resumed, None
            order = torch.randperm(self._length, generator=generator)
        else:
            self._drawn = torch.default_generator.get_state()  # 1 us
            order = torch.randperm(self._length)
        return order if self._rows is None else self._rows.index_select(0, order)

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return the random numbers that the order of this epoch was drawn from."""
        return {"drawn": self._drawn if finished or self._is_open else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch have that order."""
        self._resumed = state["drawn"]

    def reside(self, device: torch.device) -> None:
        """Keep the data there as well: a batch is then cut where it is used, and nothing is copied to it."""
        self._data = move(self._held, device, non_blocking=True)

    def close(self) -> None:
        """Let go of the data elsewhere."""
        self._data = self._held

    def fingerprint(self) -> dict[str, Any]:
        """Say how many samples there are, and how they are cut."""
        return {
            "kind": "tensors",
            "samples": self._length,
            "batches": self.steps,
            "batch size": self.batch_size,
            "drop last": self._drop_last,
            "sampler": "shuffled" if self._shuffle else "in order",
            "workers": 0,
            "seed": None if self._seed is None else int(self._seed),
        }


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


def too_few(name: str, samples: int | None, batch_size: int | None) -> str:
    """Say why there is no batch."""
    those = "samples" if samples is None else f"{samples} samples"
    return (
        f"{name} gives no batch: its {those} are fewer than batch_size={batch_size}, and drop_last=True drops them. "
        "Make batch_size smaller or say drop_last=False."
    )
