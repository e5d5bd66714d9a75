"""One line per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerastorch.display.screen import say
from kerastorch.history import format_number, numbers
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.run import Run

SPEED = ("lr", "seconds", "samples_per_second")


def shown(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that people follow: loss and metrics, not rates and times, and no matrices."""
    return {name: value for name, value in numbers(logs).items() if name not in SPEED}


def going_on(run: Run) -> str:
    """Say where a run goes on that was killed; nothing of one that begins."""
    resumed = run.resumed
    if resumed is None:
        return ""
    if resumed.epoch >= run.epochs:
        return f"All {run.epochs} epochs are finished, says {resumed.source}."
    of = f" of {run.train_data.steps}" if run.train_data.steps else ""
    after = f" after batch {resumed.batch}{of}" if resumed.batch else ""
    return f"Going on in epoch {resumed.epoch + 1}/{run.epochs}{after}, from {resumed.source}."


class EpochLines(Callback):
    """Prints one line per epoch, for log files. A run that goes on says so; its lines before are in the file."""

    stage: Stage = "display"

    def on_train_begin(self, logs: Logs) -> None:
        """Say where a run goes on."""
        if text := going_on(self.run):
            say(text)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Print the line."""
        values = " - ".join(f"{name}: {format_number(value)}" for name, value in shown(logs).items())
        say(f"Epoch {epoch + 1}/{self.run.epochs} - {logs['seconds']:.1f}s - {values}")
