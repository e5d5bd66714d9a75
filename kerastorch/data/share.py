"""Which batches of an epoch are this process's, where several train together."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _alone(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True)
class Share:
    """The part that this process has in the data; by default all of them.

    A source makes batches of `batch_size` samples, numbered from 0, the same ones for any number of processes. Step b
    of training consists of the `size` batches from `b * size` on, one for each process. So its samples are those that
    one process would have in a batch of `size * batch_size`.

    Where an epoch is begun in the middle of a step, as with another number of processes than before, the batches that
    are left of this step go to the first processes. Whoever is left without one in the first step is dealt the first
    batch of all, to have something to fill the step with: `takes` says that it is not its own.

    Attributes:
        rank: The number of this process, from 0.
        size: How many processes there are.
        everyone: Returns a value of every process, by rank; all have to call it.
    """

    rank: int = 0
    size: int = 1
    everyone: Callable[[Any], list[Any]] = _alone

    def takes(self, number: int, first: int) -> bool:
        """Whether a batch is this process's.

        Args:
            number: That of the batch.
            first: Where reading began in this epoch.
        """
        if number < self._second_step(first):
            return number == first + self.rank
        return number % self.size == self.rank

    def numbers(self, first: int, stop: int) -> Iterable[int]:
        """Return the numbers of the batches to read, of those from `first` to `stop`."""
        if self.size == 1:
            return range(first, stop)
        second, mine = self._second_step(first), first + self.rank
        begin = [mine if mine < min(second, stop) else first] if first < stop else []
        return chain(begin, range(second + self.rank, stop, self.size))

    def deal(
        self, numbered: Iterable[tuple[int, T]], first: int, *, is_served: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[int, T]]:
        """Yield what is to be read of all batches of an epoch, where nobody knows how many there are.

        Each step is drawn whole before it is dealt, so that all processes are at one place when they come to work.

        Args:
            numbered: All batches from `first` on, or from a later one, each with its number.
            first: Where reading began in this epoch.
            is_served: The first step was dealt already.
            drop_last: Leave out a last step that has not a batch for each process.
        """
        mine: tuple[int, T] | None = None
        for number, value in numbered:
            if self.takes(number, first) or (mine is None and not is_served):
                mine = number, value
            if (number + 1) % self.size == 0:
                if mine is not None:
                    yield mine
                mine, is_served = None, True
        if mine is not None and not drop_last:
            yield mine

    def _second_step(self, first: int) -> int:
        return (first // self.size + 1) * self.size


def checksum(tensors: Iterable[Tensor]) -> int:
    """Return a number that differs where tensors do; sparse ones take no part."""
    check = 0
    for tensor in tensors:
        if tensor.layout is torch.strided and tensor.numel():
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            check = zlib.crc32(values.numpy().data, zlib.crc32(str(tuple(tensor.shape)).encode(), check))
    return check
