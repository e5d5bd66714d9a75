"""Which value is the best so far."""

from __future__ import annotations

import math
import warnings
from typing import Literal

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

    def improves(self, logs: Logs) -> bool | None:
        """Whether the value is the best so far, and remember it. NaN never is; None where there is no value."""
        value = logs.get(self.name)
        if value is None:
            known = ", ".join(logs)
            warnings.warn(f"There is no {self.name!r} to monitor; there are {known}.", stacklevel=2)
            return None
        if math.isnan(value) or not (self.best is None or self._better(value, self.best)):
            return False
        self.best = value
        return True

    def _better(self, value: float, best: float) -> bool:
        mode = better_direction(self.name) if self.mode == "auto" else self.mode
        return value < best if mode == "min" else value > best
