"""What the clock found, for reading."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from kerastorch.isolate import random_state_kept
from kerastorch.profiler.clock import Part

OTHER = "other"
_LEAST = 0.0005  # a share that would be shown as 0.0 %


@dataclass(frozen=True)
class Report:
    """Where the time of a run went.

    Attributes:
        seconds: Time of each part, the longest first, `"other"` at the end; they add up to the whole run.
        steps: Steps of the optimizer.
        advice: What to do about it, in one line.
        notes: What to know when reading it.
    """

    seconds: dict[str, float]
    steps: int
    advice: str
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return sum(self.seconds.values())

    def share(self, part: str) -> float:
        """Return the share of a part in the whole, 0 to 1; 0 for what did not happen."""
        return self.seconds.get(part, 0.0) / max(self.total, 1e-9)

    def table(self) -> None:
        """Print the parts with their shares, and the advice; plain text where stdout is no terminal."""
        if sys.stdout is not None and sys.stdout.isatty():
            self._draw()
        else:
            print(self, flush=True)

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{name:{width}}  {seconds:>9}  {share:>7}" for name, seconds, share in rows]
        return "\n".join([self._title(), *lines, self.advice, *self.notes])

    def _title(self) -> str:
        steps = f", {self.steps:,} step{'' if self.steps == 1 else 's'}" if self.steps else ""
        return f"Where the time went: {_time(self.total)}{steps}"

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = {name: seconds for name, seconds in self.seconds.items() if self.share(name) >= _LEAST}
        shown.pop(OTHER, None)
        shown[OTHER] = self.total - sum(shown.values())  # with what is too little for a row of its own
        return [
            (name, _time(seconds), f"{100 * seconds / max(self.total, 1e-9):.1f} %") for name, seconds in shown.items()
        ]

    def _draw(self) -> None:
        with random_state_kept():  # rich draws a random number when it is imported
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

        table = Table()
        table.add_column("part")
        table.add_column("time", justify="right")
        table.add_column("share", justify="right")
        for place, row in enumerate(self._rows()):
            table.add_row(*map(Text, row), style="bold" if place == 0 else None)
        console = Console(highlight=False, markup=False)
        console.print(self._title())
        console.print(table)
        console.print(self.advice, style="bold")
        for note in self.notes:
            console.print(note)


def by_name(seconds: Mapping[Part, float]) -> dict[str, float]:
    """Add up what goes by one name; the longest first, `"other"` at the end, without what took no time."""
    sums: dict[str, float] = {}
    for part, time in seconds.items():
        sums[part.name] = sums.get(part.name, 0.0) + time
    order = sorted(sums, key=lambda name: (name == OTHER, -sums[name]))
    return {name: sums[name] for name in order if sums[name] or name == OTHER}


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1000 * seconds:,.1f} ms"
