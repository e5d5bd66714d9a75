"""The processes that train together, and what they say to each other: here one alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


class Group:
    """The processes of a training, here one alone.

    Attributes:
        rank: The number of this process, from 0.
        size: How many there are.
        wish: Why this process wants the run to end, for the others to know; None as long as it does not.
        is_asked: One of the processes has such a wish; known to all at the same step.
    """

    rank: int = 0
    size: int = 1
    wish: Any = None
    is_asked: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that shows, logs and writes."""
        return self.rank == 0

    def total(self, sums: list[float]) -> list[float]:
        """Add up numbers over all processes; each has as many."""
        return sums

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the tensors `(N_i, ...)` of all processes, in the order of their ranks, on the CPU."""
        return [rows]

    def everyone(self, value: Any) -> list[Any]:
        """Return a value of every process, in the order of their ranks; any object, so none of a stranger."""
        return [value]

    def of_main(self, value: Any) -> Any:
        """Return the value that the main process has; what the others hand in is not looked at."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return flag

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Make of tensors, in place, their sums over all processes."""

    def told(self, error: BaseException) -> BaseException:
        """Return what to raise for an error."""
        return error

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors in all processes the numbers that they have in the main one."""
