"""Which value is the best so far."""

from __future__ import annotations

import math
import warnings
from typing import Literal

from kerastorch.errors import did_you_mean
from kerastorch.history import better_direction
from kerastorch.hooks import Logs

Mode = Literal["auto", "min", "max"]


class Monitor:
    """Watches one value of the logs.

    Args:
        name: Which, such as `"val_loss"`.
        mode: Whether a low or a high value is better; `"auto"` tells from the name, when it first must.

    Raises:
        ValueError: Another mode.
    """

    def __init__(self, name: str, mode: Mode) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode is 'auto', 'min' or 'max'; got {mode!r}.")
        self.name = name
        self.mode = mode
        self.best: float | None = None

    def resolve(self) -> Literal["min", "max"]:
        """Return what is better, the lower or the higher value.

        Raises:
            ValueError: Neither `mode` nor the name tells.
        """
        return better_direction(self.name) if self.mode == "auto" else self.mode

    def improves(self, logs: Logs) -> bool:
        """Whether the value is the best so far, and remember it. NaN never is."""
        value = logs[self.name]
        if math.isnan(value) or not (self.best is None or self._better(value, self.best)):
            return False
        self.best = value
        return True

    def warn(self, logs: Logs) -> None:
        """Say that there is no value, and which there are."""
        known = ", ".join(logs)
        hint = did_you_mean(self.name, logs)
        warnings.warn(f"There is no {self.name!r} to monitor.{hint} There are {known}.", stacklevel=2)

    def _better(self, value: float, best: float) -> bool:
        return value < best if self.resolve() == "min" else value > best
