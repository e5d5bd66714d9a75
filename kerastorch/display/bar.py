"""A progress bar on a terminal, with one row of a table per epoch."""

from __future__ import annotations

from time import monotonic
from typing import Any

from kerastorch.data import DataSource
from kerastorch.display.lines import shown
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.isolate import random_state_kept
from kerastorch.metrics import MetricSet

_INTERVAL = 0.1  # seconds between two updates; each reads the running values and so waits for the device


class ProgressBar(Callback):
    """Shows where an epoch is: loss, metrics, samples per second, time left; and keeps one row per epoch."""

    stage: Stage = "display"

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._columns: list[str] = []
        self._began = self._next = 0.0

    def on_train_begin(self, logs: Logs) -> None:
        """Forget the last run."""
        self._columns = []

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Begin a bar."""
        self._open(f"epoch {epoch + 1}/{self.run.epochs}", self.run.train_data)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it, at most ten times a second."""
        self._advance(batch, logs)

    def on_test_begin(self, logs: Logs) -> None:
        """Begin a bar for the evaluation."""
        self._open("validation" if self._columns or self._progress else "evaluate", self.run.val_data)

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it."""
        self._advance(batch, logs)

    def on_test_end(self, logs: Logs) -> None:
        """Take it away."""
        self._close()

    def on_predict_begin(self, logs: Logs) -> None:
        """Begin a bar for the prediction."""
        self._open("predict", self.run.val_data)

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it."""
        self._advance(batch, logs)

    def on_predict_end(self, logs: Logs) -> None:
        """Take it away."""
        self._close()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Replace the bar by a row."""
        self._close()
        print(self._row(epoch, logs), flush=True)

    def on_train_end(self, logs: Logs) -> None:
        """Take away what an interrupted epoch has left."""
        self._close()

    def on_exception(self, error: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def _open(self, title: str, data: DataSource) -> None:
        with random_state_kept():  # rich draws a random number when it is imported
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

        self._close()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[values]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            auto_refresh=False,  # no thread beside the training
            transient=True,
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(title, total=data.steps, values="")
        self._began = monotonic()
        self._next = 0.0

    def _advance(self, batch: int, logs: Logs) -> None:
        now = monotonic()
        if now < self._next or self._progress is None:
            return
        self._next = now + _INTERVAL
        values = [f"{name} {format_number(value)}" for name, value in logs.items()]
        if isinstance(logs, MetricSet):
            values.append(f"{logs.samples / max(now - self._began, 1e-9):,.0f}/s")
        self._progress.update(self._task, completed=batch + 1, values="  ".join(values), refresh=True)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _row(self, epoch: int, logs: dict[str, float]) -> str:
        values = shown(logs)
        head = ""
        if not self._columns:
            self._columns = _columns(list(values), list(self.run.val_sets))
            head = "  ".join(name.rjust(_width(name)) for name in ["epoch", *self._columns, "seconds"]) + "\n"
        cells = [format_number(values[name]) if name in values else "-" for name in self._columns]
        row = zip(
            ["epoch", *self._columns, "seconds"],
            [f"{epoch + 1}/{self.run.epochs}", *cells, f"{logs['seconds']:.1f}"],
            strict=True,
        )
        return head + "  ".join(cell.rjust(_width(name)) for name, cell in row)


def _columns(names: list[str], sets: list[str]) -> list[str]:
    # an epoch without validation may come first
    trained = [name for name in names if not name.startswith("val_")]
    expected = [f"val_{prefix}{name}" for prefix in sets for name in trained]
    return list(dict.fromkeys([*trained, *expected, *names]))


def _width(name: str) -> int:
    return max(len(name), 7)
