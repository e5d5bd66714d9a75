"""A table with one row per epoch, in a terminal."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from kerastorch.display.gauge import clock
from kerastorch.display.lines import shown
from kerastorch.display.text import Line, flowing, right, shortened, width
from kerastorch.history import better_direction, format_number
from kerastorch.run import Run

_NUMBER = 7  # columns of a number
_NAME = 14  # columns of a name where there is little room
_TIME = 8


class _Layout(NamedTuple):
    """What is shown of an epoch: columns with their widths, the width of its number, and whether the time."""

    widths: dict[str, int]
    label: int
    has_time: bool

    @property
    def total(self) -> int:
        return self.label + sum(self.widths.values()) + 2 * len(self.widths) + _TIME * self.has_time


class EpochTable:
    """Rows as lines that scroll, and a header where one is due: at first, for new columns, after a screenful.

    The best value so far of each column is marked: by colour and bold, or by `*` where there are no colours. `lr` is a
    column from the epoch on in which it is another than before.

    Args:
        colours: Whether there are.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self._best: dict[str, float] = {}
        self._validated: list[str] = []
        self._rates: set[float] = set()
        self._layout: _Layout | None = None
        self._rows = 0  # since the header

    def remember(self, logs: Mapping[str, float]) -> set[str]:
        """Take in the values of an epoch; return the names of those that are the best so far."""
        values = shown(logs)
        self._validated = [name for name in values if name.startswith("val_")] or self._validated
        self._rates |= {logs[name] for name in ("lr",) if name in logs}
        found = {name: value for name, value in values.items() if _is_better(name, value, self._best.get(name))}
        self._best |= found
        return set(found)

    def lines(self, label: str, logs: Mapping[str, float], run: Run, size: os.terminal_size) -> list[Line]:
        """Return the row of an epoch, after a header if one is due.

        Args:
            label: The number of the epoch: `"2/10"`.
            logs: Its values.
            run: Tells the names of a validation that is still to come.
            size: Of the terminal.
        """
        best, values = self.remember(logs), shown(logs)
        names = list(dict.fromkeys([*values, *(self._validated or _expected(values, run))]))
        names = [*(name for name in names if not name.startswith("val_")), *(n for n in names if n.startswith("val_"))]
        if len(self._rates) > 1:
            names.append("lr")
            values["lr"] = logs["lr"]
        layout = _fitted(names, max(len(label), 5), size.columns)
        row: Line = [(right(label, layout.label), "")]
        for name, columns in layout.widths.items():
            row += self._cell(values.get(name), columns, name in best)
        if layout.has_time:
            row.append((right(_duration(logs["seconds"]), _TIME), "dim"))
        return [*self._header(layout, names, size), row]

    def _cell(self, value: float | None, columns: int, is_best: bool) -> Line:
        if value is None:
            return [(f" {right('-', columns)} ", "dim")]
        written = (format_number(value), f"{value:.1e}", f"{value:.0e}")
        text = right(next((text for text in written if len(text) <= columns), written[-1]), columns + 1)
        if not math.isfinite(value):
            return [(text, "bad"), (" ", "")]
        if not is_best:
            return [(f"{text} ", "")]
        return [(text, "best"), (" " if self._colours else "*", "")]

    def _header(self, layout: _Layout, names: list[str], size: os.terminal_size) -> list[Line]:
        self._rows += 1
        if layout == self._layout and self._rows < max(size.lines - 6, 10):
            return []
        again, self._layout, self._rows = self._layout is not None, layout, 0
        head = right("epoch", layout.label)
        head += "".join(f" {right(shortened(name, columns), columns)} " for name, columns in layout.widths.items())
        head += right("time", _TIME) * layout.has_time
        gap: list[Line] = [[]] if again else []
        return [*gap, *_note(names, layout, size.columns), [(head, "bold")]]


def _note(names: list[str], layout: _Layout, columns: int) -> list[Line]:
    """Name what there is no room for."""
    rest = [name for name in names if name not in layout.widths]
    if not rest:
        return []
    return flowing([[(word, "dim")] for word in (f"+{len(rest)} more in the history:", *rest)], columns)


def _fitted(names: list[str], label: int, columns: int) -> _Layout:
    """Return what fits: names are cut, then the time and at last columns are left out."""
    full = {name: max(width(name), _NUMBER) for name in names}
    short = {name: min(columns, _NAME) for name, columns in full.items()}
    for widths, has_time in ((full, True), (short, True), (full, False), (short, False)):
        layout = _Layout(widths, label, has_time)
        if layout.total <= columns:
            return layout
    kept = _by_weight(names)
    while len(kept) > 1 and _Layout({name: short[name] for name in kept}, label, True).total > columns:
        kept.pop()
    return _Layout({name: short[name] for name in names if name in kept}, label, True)


def _by_weight(names: list[str]) -> list[str]:
    """Return the names in the order of their weight: loss, its validation, the first metric, its validation ..."""
    trained = [name for name in names if not name.startswith("val_")]

    def weight(name: str) -> tuple[int, bool]:
        ends = [base for base in trained if name == base or name.endswith(f"_{base}")]
        return trained.index(max(ends, key=len)) if ends else len(trained), name not in trained

    return sorted(names, key=weight)


def _expected(values: Mapping[str, float], run: Run) -> list[str]:
    """Return the names that a validation will have; an epoch without one may come first."""
    trains, validates = run.state.metrics.metrics, run.val_metrics.metrics
    both = [name for name in values if name not in trains or name in validates]
    return [f"val_{prefix}{name}" for prefix in run.val_sets for name in both]


def _is_better(name: str, value: float, best: float | None) -> bool:
    try:
        direction = better_direction(name)
    except ValueError:  # the name does not tell
        return False
    if math.isnan(value):
        return False
    return best is None or (value < best if direction == "min" else value > best)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 60 else clock(seconds)
