"""A progress bar on a terminal, with one row of a table per epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic

import torch

from kerastorch.data import DataSource
from kerastorch.display.epochs import EpochTable
from kerastorch.display.gauge import Gauge, clock
from kerastorch.display.lines import going_on
from kerastorch.display.screen import Screen
from kerastorch.display.text import Line, width
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.metrics import MetricSet

_INTERVAL = 0.1  # seconds between two updates; each reads the running values and so waits for the device
_EPOCHS = 5  # that the time of one is told from
_BEFORE = 20  # rows of a run that goes on; the history has them all


class ProgressBar(Callback):
    """Shows on a terminal how far training is, and keeps one row per epoch.

    A bar for the epoch, and one for its validation below: batches, seconds, what is left of them and of the whole
    `fit`, samples per second, running loss and metrics, memory of the GPU. In the rows, the best value so far is
    marked. It is what `verbose="auto"` shows on a terminal. What others print meanwhile goes above the bars. Elsewhere,
    as in a file, it prints the rows alone.

    Example:
        >>> model.fit(3, dl_train, dl_val, callbacks=[kt.callbacks.ProgbarLogger()])
    """

    stage: Stage = "display"

    def __init__(self) -> None:
        self._screen = Screen()
        self._gauges: list[Gauge] = []
        self._totals: dict[str, int] = {}  # of data whose length is not known before
        self._batch = -1  # the last that is finished
        self._next = 0.0

    def __repr__(self) -> str:
        return "ProgressBar()"

    def on_train_begin(self, logs: Logs) -> None:
        """Take the terminal."""
        self._totals, self._gauges = {}, []
        self._screen.open()
        self._table = EpochTable(colours=self._screen.colours)
        if text := going_on(self.run):
            self._screen.print([(text, "")])
        self._show_before()

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Begin a bar; in the middle, where a run goes on there."""
        self._begin(self._epoch_title(), self.run.train_data, done=self.run.state.batch)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it, at most ten times a second."""
        self._batch = batch
        if monotonic() >= self._next:
            self._advance(logs)

    def on_test_begin(self, logs: Logs) -> None:
        """Begin a bar for the evaluation."""
        run = self.run
        name = next((key for key, data in run.val_sets.items() if data is run.val_data), "").rstrip("_")
        if not run.trains:
            self._begin(f"evaluate {name}".rstrip(), run.val_data)
            return
        if len(self._gauges) == 1:
            self._finish(run.train_data, run.state.metrics)
        self._begin(name or "validation", run.val_data, above=self._gauges[:1])

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it."""
        self._batch = batch
        if monotonic() >= self._next:
            self._advance(logs)

    def on_test_end(self, logs: Logs) -> None:
        """End it; an evaluation of its own leaves one line."""
        self._finish(self.run.val_data, self.run.val_metrics)
        if not self.run.trains:
            self._leave()

    def on_predict_begin(self, logs: Logs) -> None:
        """Begin a bar for the prediction."""
        self._begin("predict", self.run.val_data)

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        """Advance it."""
        self._batch = batch
        if monotonic() >= self._next:
            self._advance(logs)

    def on_predict_end(self, logs: Logs) -> None:
        """End it, and leave one line."""
        self._finish(self.run.val_data, {})
        self._leave()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Print its row; the bars stay until the next epoch begins."""
        if len(self._gauges) == 1:
            self._totals[self.run.train_data.name] = self._batch + 1
        self._print_row(epoch, logs)
        self._gauges = []

    def on_train_end(self, logs: Logs) -> None:
        """Give the terminal back; an epoch that was interrupted leaves one line."""
        self._leave()

    def on_exception(self, error: BaseException) -> None:
        """Give the terminal back; what failed leaves one line."""
        self._leave()

    def _show_before(self) -> None:
        """Print the rows of a run that goes on."""
        history = self.run.state.history
        hidden = max(len(history) - _BEFORE, 0)
        if hidden:
            self._screen.print([(f"{hidden} epochs before are in the history.", "dim")])
        for place, (epoch, row) in enumerate(zip(history.epoch, history.rows, strict=True)):
            if place < hidden:
                self._table.remember(row)
            else:
                self._print_row(epoch, row)

    def _print_row(self, epoch: int, logs: Logs) -> None:
        for line in self._table.lines(f"{epoch + 1}/{self.run.epochs}", logs, self.run, self._screen.size):
            self._screen.print(line)

    def _epoch_title(self) -> str:
        return f"epoch {self.run.state.epoch + 1}/{self.run.epochs}"

    def _begin(self, title: str, data: DataSource, *, above: Sequence[Gauge] = (), done: int = 0) -> None:
        """Show a new bar, below those of the same epoch; nothing is read for it."""
        self._screen.open()
        self._gauges = [*above, Gauge(title, data.steps or self._totals.get(data.name), monotonic(), done)]
        self._batch = done - 1
        self._next = 0.0 if self._screen.is_open else math.inf
        self._draw()

    def _advance(self, logs: Logs) -> None:
        now = monotonic()
        self._next = now + _INTERVAL
        self._gauges[-1].advance(now, self._batch + 1, _samples(logs), dict(logs))
        self._draw()

    def _finish(self, data: DataSource, logs: Logs) -> None:
        self._totals[data.name] = self._batch + 1
        self._gauges[-1].finish(monotonic(), self._batch + 1, _samples(logs), dict(logs))
        self._draw()

    def _leave(self) -> None:
        if self._gauges and self._screen.is_open:
            for line in self._gauges[0].summary(self._screen.size.columns):
                self._screen.print(line)
        self._gauges = []
        self._screen.close()

    def _draw(self) -> None:
        if not self._screen.is_open:
            return
        columns = self._screen.size.columns
        indent = 2 + max(10, *(width(gauge.title) for gauge in self._gauges))
        lines: list[Line] = []
        for gauge in self._gauges:
            lines += gauge.lines(columns, indent, self._more() if gauge is self._gauges[-1] else [])
        self._screen.draw(lines)

    def _more(self) -> Line:
        """Return what concerns the whole run: time left, memory."""
        left, memory = self._left(), _memory(self.run.device)
        texts = ("" if left is None else f"fit: {clock(left)} left", memory)
        return [(text, "dim") for text in texts if text]

    def _left(self) -> float | None:
        """Return the seconds to the end of `fit`; None where there is one epoch, or it cannot be told."""
        run, left = self.run, self._gauges[-1].left
        if not run.trains or run.epochs < 2 or left is None:
            return None
        spent = sum(gauge.spent for gauge in self._gauges)
        lately = [row["seconds"] for row in run.state.history.rows[-_EPOCHS:]]
        each = sum(lately) / len(lately) if lately else spent + left
        validates = len(self._gauges) > 1
        is_last_pass = run.val_data is [*run.val_sets.values()][-1] if validates else not run.validates(run.state.epoch)
        rest = left if is_last_pass else max(left, each - spent)
        return rest + each * (run.epochs - run.state.epoch - 1)


ProgbarLogger = ProgressBar  # its name in Keras


def _samples(logs: Logs) -> int:
    return logs.samples if isinstance(logs, MetricSet) else 0


def _memory(device: torch.device | None) -> str | None:
    """Tell the memory that tensors take on an accelerator; known to the process, so nothing waits."""
    if device is None or device.type == "cpu":
        return None
    backend = torch.get_device_module(device)
    if not hasattr(backend, "memory_allocated"):
        return None
    now, most = (count(device) / 2**30 for count in (backend.memory_allocated, backend.max_memory_allocated))
    return f"memory: {now:.1f} GB, at most {most:.1f} GB"
