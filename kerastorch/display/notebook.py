"""A progress bar in a notebook, and a table of the epochs; both are text, and change where they are."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from time import monotonic

from kerastorch.data import DataSource
from kerastorch.display.jupyter import Place
from kerastorch.display.lines import going_on, shown
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.metrics import MetricSet

_INTERVAL = 0.1  # seconds between two updates; each reads the running values and so waits for the device
_CELLS = 24
_ROWS = 20  # a table of all epochs would be sent anew with each of them; the history has them all


class NotebookProgress(Callback):
    """Shows where an epoch is: loss, metrics, samples per second, time left; and a table of the last epochs."""

    stage: Stage = "display"

    def __init__(self) -> None:
        self._total: int | None = None
        self._next_table = 0.0
        self._reset()

    def on_train_begin(self, logs: Logs) -> None:
        """Begin below the present cell, with the epochs of a run that goes on."""
        self._reset()
        if text := going_on(self.run):
            Place().show(_page(text))
        if self.run.state.history.rows:
            self._show_table()

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Begin a bar; in the middle, where a run goes on there."""
        self._open(f"epoch {epoch + 1}/{self.run.epochs}", self.run.train_data, done=self.run.state.batch)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it, at most ten times a second."""
        self._advance(batch, logs)

    def on_test_begin(self, logs: Logs) -> None:
        """Begin a bar for the evaluation."""
        title = f"validation {self.run.state.epoch + 1}" if self.run.trains else "evaluate"
        name = next(name for name, data in self.run.val_sets.items() if data is self.run.val_data)
        self._open(f"{title} {name[:-1]}".rstrip(), self.run.val_data)

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it."""
        self._advance(batch, logs)

    def on_test_end(self, logs: Logs) -> None:
        """Show the end of an evaluation; the validation of an epoch has a row of the table."""
        if not self.run.trains:
            self._show(self._done, shown(logs))

    def on_predict_begin(self, logs: Logs) -> None:
        """Begin a bar for the prediction."""
        self._open("predict", self.run.val_data)

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it."""
        self._advance(batch, logs)

    def on_predict_end(self, logs: Logs) -> None:
        """Show its end."""
        self._show(self._done, {})

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Add a row."""
        now = monotonic()
        if now >= self._next_table:
            self._next_table = now + _INTERVAL
            self._show_table()

    def on_train_end(self, logs: Logs) -> None:
        """Show the last row, and how long it took."""
        self._close()

    def on_exception(self, error: BaseException) -> None:
        """Leave the rows that there are."""
        if self.run.trains:
            self._close()

    def _reset(self) -> None:
        self._bar, self._table = Place(), Place()
        self._title, self._done, self._before = "", 0, 0
        self._start = self._began = monotonic()
        self._next = self._next_table = 0.0

    def _open(self, title: str, data: DataSource, *, done: int = 0) -> None:
        self._title, self._total, self._done, self._before = title, data.steps, done, done
        self._began = monotonic()
        if not self.run.trains:
            self._bar = Place()

    def _advance(self, batch: int, logs: Logs) -> None:
        self._done, now = batch + 1, monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._show(self._done, logs)

    def _show(self, done: int, logs: Logs) -> None:
        seconds = max(monotonic() - self._began, 1e-9)
        pieces = [self._title, *_bar(done, self._total)]
        pieces += [f"{name} {format_number(value)}" for name, value in logs.items()]
        here = done - self._before  # batches of this process
        if isinstance(logs, MetricSet):
            pieces.append(f"{logs.samples * here / done / seconds:,.0f}/s")
        if self._total is not None and done < self._total:
            pieces.append(f"{_clock(seconds * (self._total - done) / here)} left")
        self._write("  ".join(pieces))

    def _write(self, text: str) -> None:
        self._bar.show(_page(text))

    def _show_table(self) -> None:
        rows = self.run.state.history.rows
        columns = _columns(rows, list(self.run.val_sets), self.run.validated(rows[0]))
        first = max(len(rows) - _ROWS, 0)
        numbers = self.run.state.history.epoch[first:]
        cells = [_cells(epoch, self.run.epochs, row, columns) for epoch, row in zip(numbers, rows[first:], strict=True)]
        names = ["epoch", *columns, "seconds"]
        before = f"{first} epochs before are in the history." if first else ""
        self._table.show({"text/plain": _as_text([names, *cells], before), "text/html": _as_html(names, cells, before)})

    def _close(self) -> None:
        epochs = len(self.run.state.history)
        if epochs:
            self._show_table()
        seconds = monotonic() - self._start
        self._write(f"{epochs} epoch{'' if epochs == 1 else 's'} in {_clock(seconds)}")


def _page(text: str) -> dict[str, str]:
    page = f'<pre style="margin:0;white-space:pre-wrap">{html.escape(text)}</pre>'
    return {"text/plain": text, "text/html": page}


def _bar(done: int, total: int | None) -> list[str]:
    if total is None:
        return [f"batch {done}"]
    filled = min(_CELLS * done // max(total, 1), _CELLS)
    return ["█" * filled + "░" * (_CELLS - filled), f"{done}/{total}"]


def _clock(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _columns(rows: Sequence[Mapping[str, float]], sets: Sequence[str], validated: Sequence[str]) -> list[str]:
    # an epoch without validation may come first
    names = list(dict.fromkeys(name for row in (rows[0], rows[-1]) for name in shown(row)))
    trained = [name for name in names if not name.startswith("val_")]
    expected = [f"val_{prefix}{name}" for prefix in sets for name in trained if name in validated]
    return list(dict.fromkeys([*trained, *expected, *names]))


def _cells(epoch: int, epochs: int, row: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    values = [format_number(row[name]) if name in row else "-" for name in columns]
    return [f"{epoch + 1}/{epochs}", *values, f"{row['seconds']:.1f}"]


def _as_text(lines: Sequence[Sequence[str]], before: str) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *rows = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    return "\n".join([head, *([before] if before else []), *rows])


def _as_html(names: Sequence[str], rows: Sequence[Sequence[str]], before: str) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    more = f'<tr><td colspan="{len(names)}">{before}</td></tr>' if before else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{more}{body}</tbody></table>"
