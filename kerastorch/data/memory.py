"""Tensors in memory as a source of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch, check_weight
from kerastorch.data.order import check_rows, seeded
from kerastorch.data.position import place, position
from kerastorch.data.share import Share, checksum
from kerastorch.data.source import DataSource, common_length, too_few
from kerastorch.errors import DataError
from kerastorch.tree import map_leaves, move, tensors


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
        share: The part of the batches that this process has.

    Raises:
        DataError: There is nothing, or lengths differ.
    """

    is_certain = True

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
        share: Share = Share(),  # noqa: B008  # it never changes
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
        self._share = share
        self._skipped = 0  # samples of the next batch that are behind the place to go on at
        length = common_length(data, name)
        if len(data) == 3 and data[2] is not None:
            check_weight(data[2], length, name)
        self._length = length if rows is None else check_rows(rows, length, name)
        self.drop_last = drop_last
        self.steps: int = self._length // batch_size if drop_last else -(-self._length // batch_size)
        self.samples: int = min(self._length, self.steps * batch_size)
        self.nbytes: int = sum(tensor.nbytes for tensor in tensors(data))
        if not self.steps:
            raise DataError(too_few(name, self._length, batch_size))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches of `batch_size` samples, the last one with what is left."""
        order, skipped = self._placed(self._order(epoch)), self._skipped
        self._is_open, self._skipped = True, 0
        try:
            for index in self._share.numbers(start, self._stop):
                yield self._cut(index, order, skipped if index == start else 0)
        finally:
            self._is_open = False

    @property
    def _stop(self) -> int:
        return self.steps - self.steps % self._share.size if self.drop_last else self.steps

    @property
    def deals(self) -> bool:
        """It does."""
        return True

    @property
    def signature(self) -> tuple[str, int]:
        """How many samples there are, the first one, and the seed of their order."""
        first = checksum(leaf[:1] for leaf in tensors(self._held))
        return f"{self._length} samples in memory, seed {self._seed}", first

    def _cut(self, index: int, order: Tensor | None, skipped: int = 0) -> Batch:
        start = index * self.batch_size + skipped
        stop = min(start + self.batch_size - skipped, self._length)
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
        if self._resumed is not None:
            generator = torch.Generator()
            generator.set_state(self._resumed)
            self._drawn, self._resumed = self._resumed, None
            order = torch.randperm(self._length, generator=generator)
        elif self._seed is not None:
            self._drawn = None
            order = torch.randperm(self._length, generator=seeded(self._seed, epoch))
        else:
            self._drawn = torch.default_generator.get_state()  # 1 us
            order = torch.randperm(self._length)
        return order if self._rows is None else self._rows.index_select(0, order)

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return the random numbers that the order of this epoch was drawn from, and the place in it."""
        return {
            "drawn": self._drawn if finished or self._is_open else None,
            "seed": None if self._seed is None else int(self._seed),
            "position": position(finished, self.batch_size, self._length),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch have that order, and begin there."""
        self._resumed = state.get("drawn")
        if state.get("seed") is not None:
            self._seed = state["seed"]  # several processes may have agreed on one
        self._skipped = self._place(state)[1]

    def place(self, state: Mapping[str, Any]) -> int | None:
        """Return the batch to go on at; its first samples may be behind."""
        return self._place(state)[0]

    def _place(self, state: Mapping[str, Any]) -> tuple[int | None, int]:
        found = state.get("position")
        if found is None:
            return None, 0
        number, skipped = place(found, self.batch_size, self.name, by_sample=True)
        return (self.steps, 0) if found["samples"] >= self._length else (number, skipped)

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
            "drop last": self.drop_last,
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
