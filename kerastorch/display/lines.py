"""One line per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerastorch.display.screen import say
from kerastorch.history import format_number, numbers
from kerastorch.hooks import Callback, Stage

SPEED = ("lr", "seconds", "samples_per_second")


def shown(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that people follow: loss and metrics, not rates and times, and no matrices."""
    return {name: value for name, value in numbers(logs).items() if name not in SPEED}


class EpochLines(Callback):
    """Prints one line per epoch, for log files."""

    stage: Stage = "display"

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Print the line."""
        values = " - ".join(f"{name}: {format_number(value)}" for name, value in shown(logs).items())
        say(f"Epoch {epoch + 1}/{self.run.epochs} - {logs['seconds']:.1f}s - {values}")
