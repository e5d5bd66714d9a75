"""How far a pass over data has come, in one line and its values."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from kerastorch.display.text import Line, flowing, width
from kerastorch.history import format_number

_BAR = (10, 40)  # columns, at least and at most
_MEMORY = 100  # updates that the present speed is told from: ten seconds
_ROWS = 3  # lines of values
_FIRST_TO_GO = ("", "elapsed", "percent", "speed", "left")  # where the terminal is narrow


class Gauge:
    """A title, a bar, a count, times and a speed; below them loss and metrics.

    Args:
        title: What goes on.
        total: Batches; None while unknown.
        now: The time in seconds.
        done: Batches that were done before.
    """

    def __init__(self, title: str, total: int | None, now: float, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.finished = False
        self.values: Mapping[str, float] = {}
        self.done = done
        self._started = (now, done, 0)
        self._marks = deque([self._started], maxlen=_MEMORY)

    def advance(self, now: float, done: int, samples: int, values: Mapping[str, float]) -> None:
        """Note where it is."""
        before = self._started[1]
        if before and len(self._marks) == 1:  # of samples before, only the share of their batches is known
            self._started = (*self._started[:2], round(samples * before / max(done, 1)))
            self._marks[0] = self._started
        self.done, self.values = done, values
        self._marks.append((now, done, samples))

    def finish(self, now: float, done: int, samples: int, values: Mapping[str, float]) -> None:
        """Note that it is at its end."""
        self.advance(now, done, samples, values)
        self.finished = True
        self.total = done

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._marks[-1][0] - self._started[0]

    @property
    def spent(self) -> float:
        """Seconds that all its batches would have taken here, those before as well."""
        before = self._started[1]
        return self.elapsed * self.done / (self.done - before) if self.done > before else self.elapsed

    @property
    def left(self) -> float | None:
        """Seconds to its end; None while that cannot be told."""
        speed = self._speed(1)
        return (max(self.total - self.done, 0) / speed) if self.total and speed else None

    def lines(self, columns: int, indent: int, more: Line | None = None) -> list[Line]:
        """Return its lines.

        Args:
            columns: Their width.
            indent: Where the bar begins.
            more: What to say after the values.
        """
        return [self._head(columns, indent), *self._below(columns, indent, more)]

    def summary(self, columns: int) -> list[Line]:
        """Return what stays of it: one line, where there is room."""
        values: list[Line] = [[(f"{name} {format_number(value)}", "")] for name, value in self.values.items()]
        speed = self._fields().get("speed", "").strip()
        of = f" of {self.total}" if self.total and not self.finished else ""
        rest = [f"{self.done}{of} batches", clock(self.elapsed), *([speed] if speed else [])]
        return flowing([[(self.title, "bold")], *values, [(f"({', '.join(rest)})", "dim")]], columns)

    def _speed(self, which: int) -> float:
        """Return batches (1) or samples (2) per second: lately, or in all once it is finished."""
        last = self._marks[-1]
        first = self._started if self.finished else self._marks[0]
        return (last[which] - first[which]) / (last[0] - first[0]) if last[0] > first[0] else 0.0

    def _fields(self) -> dict[str, str]:
        fields = {}
        if self.total:
            digits = len(str(self.total))
            fields["count"] = f"{self.done:>{digits}}/{self.total}"
            fields["percent"] = f"{math.floor(100 * min(self.done / self.total, 1)):>3}%"
        else:
            fields["count"] = f"{self.done} batches"
        fields["elapsed"] = f"{clock(self.elapsed):>4}"
        left = self.left
        if not self.finished and left is not None:
            fields["left"] = f"{clock(left):>4} left"
        speed, unit = (self._speed(2), "samples/s") if self._marks[-1][2] else (self._speed(1), "batches/s")
        if speed:
            fields["speed"] = f"{speed:{'>6,.0f' if speed >= 10 else '>6.1f'}} {unit}"
        return fields

    def _head(self, columns: int, indent: int) -> Line:
        title = self.title + " " * (indent - width(self.title))
        fields, room = self._fields(), 0
        for name in _FIRST_TO_GO:
            fields.pop(name, None)
            room = columns - indent - sum(len(field) + 2 for field in fields.values())
            if room >= _BAR[0] * bool(self.total):
                break
        bar = self._bar(min(room, _BAR[1])) if self.total and room > 0 else []
        rest = "".join(f"  {field}" for field in fields.values())
        return [(title, "bold"), *bar, (rest if bar else rest[2:], "")]

    def _bar(self, columns: int) -> Line:
        halves = int(2 * columns * min(self.done / (self.total or 1), 1))
        done = "━" * (halves // 2) + "╸" * (halves % 2)
        return [(done, "finished" if self.finished else "running"), ("─" * (columns - len(done)), "dim")]

    def _below(self, columns: int, indent: int, more: Line | None) -> list[Line]:
        indent = indent if columns >= 60 else 2
        values: list[Line] = [
            [(f"{name} ", "dim"), (format_number(value), "" if math.isfinite(value) else "bad")]
            for name, value in self.values.items()
        ]
        end = [[piece] for piece in more or []]
        for left_out in range(len(values) + 1):
            note: list[Line] = [[(f"+{left_out} more", "dim")]] if left_out else []
            lines = flowing([*values[: len(values) - left_out], *note, *end], columns - indent)
            if len(lines) <= _ROWS:
                break
        return [[(" " * indent, ""), *line] for line in lines]


def clock(seconds: float) -> str:
    """Write a time: `0:07`, `12:34`, `1:02:03`.

    Example:
        >>> clock(3723)
        '1:02:03'
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
