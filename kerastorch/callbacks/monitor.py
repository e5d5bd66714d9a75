"""Which value is the best so far."""

from __future__ import annotations

import math
import warnings
from typing import Literal

from kerastorch.errors import did_you_mean
from kerastorch.health import first_lost
from kerastorch.history import better_direction, numbers
from kerastorch.hooks import Logs
from kerastorch.run import Run

Mode = Literal["auto", "min", "max"]


class Monitor:
    """Watches one value of the logs.

    Args:
        name: Which, such as `"val_loss"`.
        mode: Whether a low or a high value is better; `"auto"` tells from the name, when it first must.
        min_delta: By how much a value must be better than the best, or than the baseline, to count as better.
        baseline: A value that is to be beaten besides; None for none.

    Raises:
        ValueError: Another mode, or a negative `min_delta`.
    """

    def __init__(self, name: str, mode: Mode, *, min_delta: float = 0, baseline: float | None = None) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode is 'auto', 'min' or 'max'; got {mode!r}.")
        if not min_delta >= 0:
            raise ValueError(f"min_delta is a number from 0, in either mode; got {min_delta!r}.")
        self.name = name
        self.mode = mode
        self.min_delta = min_delta
        self.baseline = baseline
        self.best: float | None = None

    def resolve(self) -> Literal["min", "max"]:
        """Return what is better, the lower or the higher value.

        Raises:
            ValueError: Neither `mode` nor the name tells.
        """
        return better_direction(self.name) if self.mode == "auto" else self.mode

    def read(self, logs: Logs, run: Run, epoch: int) -> float | None:
        """Return the value of an epoch; None where it has none, with a warning unless it was not validated."""
        value = numbers(logs).get(self.name)
        if value is not None:
            return float(value)
        if run.strategy.group.is_main and (not run.has_validation or run.validates(epoch)):
            self.warn(logs)
        return None

    def improves(self, logs: Logs) -> bool:
        """Whether the value is the best so far, and remember it. NaN never is."""
        value = float(logs[self.name])
        if math.isnan(value) or not (self.best is None or self._better(value, self.best)):
            return False
        self.best = value
        return True

    def beats_baseline(self, value: float) -> bool:
        """Whether a value is better than the baseline; every one is where there is none."""
        return self.baseline is None or self._better(value, self.baseline)

    def warn(self, logs: Logs) -> None:
        """Say that there is no value, and which there are."""
        known = ", ".join(numbers(logs))
        if self.name in logs:
            text = f"{self.name!r} is not one number, and cannot be monitored."
        else:
            text = f"There is no {self.name!r} to monitor.{did_you_mean(self.name, logs)}"
        warnings.warn(f"{text} There are {known}.", stacklevel=2)

    def _better(self, value: float, best: float) -> bool:
        return value < best - self.min_delta if self.resolve() == "min" else value > best + self.min_delta


def logs_of_main(run: Run, logs: Logs) -> Logs:
    """Return the values as the main process has them, so that all decide alike; all call it."""
    group = run.strategy.group
    return logs if group.size == 1 else group.of_main(dict(logs))


def lost_in_any(run: Run) -> str | None:
    """Return the name of a weight by which the net is lost, in one of the processes; all call it."""
    found = run.strategy.group.everyone(first_lost(run.state.module))
    return next((name for name in found if name is not None), None)


def check_counts(**counts: int) -> None:
    """See that these are whole numbers from 0.

    Raises:
        ValueError: One is not.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is a whole number from 0; got {value!r}.")
