"""Which of two ways to do a step is faster, found out in the first steps."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

_ROUNDS = 5  # of each, after one to warm up


class Contest:
    """Two ways take turns, until it is known which is faster.

    Every step counts: both do the same. The least time of each is compared, which a busy machine disturbs least.

    Args:
        device: Where the work is done; an accelerator is waited for, as long as the contest goes on.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._waits = device is not None and device.type != "cpu"
        self._times: tuple[list[float], list[float]] = ([], [])

    @property
    def winner(self) -> int | None:
        """0 or 1; None as long as it is not known."""
        if len(self._times[1]) <= _ROUNDS:
            return None
        return int(self.best[1] < self.best[0])

    @property
    def best(self) -> tuple[float, float]:
        """The least seconds of each; the first time, which may prepare something, is left out."""
        return min(self._times[0][1:]), min(self._times[1][1:])

    def run(self, ways: tuple[Callable[[Any], Any], Callable[[Any], Any]], batch: Any) -> Any:
        """Do the next step by the way whose turn it is; return what it returns."""
        turn = int(len(self._times[0]) > len(self._times[1]))
        self._wait()
        began = perf_counter()
        result = ways[turn](batch)
        self._wait()
        self._times[turn].append(perf_counter() - began)
        return result

    def _wait(self) -> None:
        if self._waits:
            torch.accelerator.synchronize()
