"""Which samples, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from kerastorch.errors import DataError
from kerastorch.tree import describe


def check_rows(rows: Tensor, length: int, name: str) -> int:
    """Return how many samples were chosen.

    Raises:
        DataError: They are no numbers of samples.
    """
    if rows.ndim != 1 or rows.dtype != torch.int64 or not len(rows):
        raise DataError(f"The rows of {name} are an int64 tensor (M,) of at least one; got {describe(rows)}.")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= length:
        raise DataError(f"The rows of {name} go from {low} to {high}, but it has {length} samples, from 0.")
    return len(rows)


def seeded(seed: int, epoch: int) -> torch.Generator:
    """Return the random numbers of one epoch. Unlike with `seed + epoch`, those of two seeds have nothing in common."""
    number = np.random.SeedSequence([int(seed) % 2**64, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(number))


class SeededOrder(Sampler[int]):
    """The order of a Dataset by seed and epoch, the same that tensors have.

    Args:
        count: How many samples.
        seed: Of the orders.
        shuffle: Whether there is any but the first.
    """

    def __init__(self, count: int, seed: int, *, shuffle: bool) -> None:
        self._count = count
        self.seed = seed
        self._shuffle = shuffle
        self._epoch = 0
        self.generator = torch.Generator()  # for the seeds of a loader's workers

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self._epoch = epoch
        self.generator.set_state(seeded(self.seed, epoch).get_state())

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter(range(self._count))
        return iter(torch.randperm(self._count, generator=seeded(self.seed, self._epoch)).tolist())

    def __len__(self) -> int:
        return self._count


class WholeOrder(Sampler[int]):
    """The order that a DistributedSampler shares out: each sample once, by its seed and epoch.

    It gives some samples twice, so that all processes have as many.

    Args:
        sampler: The user's.

    Attributes:
        stands_for: The name of what it takes the place of.
    """

    def __init__(self, sampler: DistributedSampler[Any]) -> None:
        self.stands_for = type(sampler).__name__
        self._sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        if not self._sampler.shuffle:
            return iter(range(len(self)))
        generator = torch.Generator().manual_seed(self._sampler.seed + self._sampler.epoch)
        return iter(torch.randperm(len(self), generator=generator).tolist())

    def __len__(self) -> int:
        return len(self._sampler.dataset)  # type: ignore[arg-type]
