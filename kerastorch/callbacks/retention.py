"""Which files to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal


class Retention:
    """Remembers the files that were written, and tells which to delete.

    Args:
        last: How many of the last to keep; None for all, or for none where `best` says which.
        best: How many of the best to keep besides; None for none.

    Attributes:
        files: The value of each file that is kept, the oldest first; None for one without a value, NaN included.
    """

    def __init__(self, last: int | None, best: int | None) -> None:
        self.last = last
        self.best = best
        self.files: dict[str, float | None] = {}

    def is_wanted(self, value: float | None, mode: Literal["min", "max"]) -> bool:
        """Whether a file of this value is to be written; with `last`, or without a limit, every one is."""
        if self.best is None or self.last is not None:
            return True
        if value is None or math.isnan(value):
            return False
        ranked = self._ranked(mode)
        return len(ranked) < self.best or _rank(value, mode) < _rank(self._value(ranked[self.best - 1]), mode)

    def spared(self, path: Path, value: float | None, mode: Literal["min", "max"]) -> Path:
        """Return a name that does not write over a better file."""
        free, number = path, 1
        while (known := self.files.get(str(free))) is not None:
            if value is not None and _rank(value, mode) <= _rank(known, mode):
                break
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        return free

    def add(self, path: str, value: float | None, mode: Literal["min", "max"]) -> list[str]:
        """Remember a file, and return those that are to be deleted when it is whole."""
        self.files.pop(path, None)  # written over: it is the newest now
        self.files[path] = None if value is None or math.isnan(value) else value
        if self.last is None and self.best is None:
            return []
        kept = set(self._ranked(mode)[: self.best or 0]) | set(list(self.files)[-self.last :] if self.last else ())
        surplus = [name for name, known in self.files.items() if name not in kept and not self._is_spared(known)]
        for name in surplus:
            del self.files[name]
        return surplus

    def load(self, files: Mapping[str, float | None]) -> None:
        """Remember other files instead."""
        self.files = dict(files)

    def _is_spared(self, value: float | None) -> bool:
        return self.last is None and value is None  # nobody knows how good it is

    def _ranked(self, mode: Literal["min", "max"]) -> list[str]:
        known = [name for name, value in self.files.items() if value is not None]
        return sorted(known, key=lambda name: _rank(self._value(name), mode))

    def _value(self, name: str) -> float:
        value = self.files[name]
        return math.nan if value is None else value


def _rank(value: float, mode: Literal["min", "max"]) -> float:
    return value if mode == "min" else -value
