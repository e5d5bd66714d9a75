"""Learning rates that follow what is learned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from kerastorch.callbacks.monitor import Mode, Monitor, check_counts, logs_of_main
from kerastorch.callbacks.rates import optimizer_of, rates_of, set_rates
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs, Stage


class ReduceLROnPlateau(Callback):
    """Lowers the learning rate when a value has not become better for some epochs.

    Epochs that were not validated do not count; NaN is never better. Every `fit` begins anew, with the learning rate
    that is there. The `lr` of the history is what the epoch was trained with. It does not go together with a schedule
    that sets the learning rate whatever it was; where one undoes a reduction, a warning says so.

    Example:
        >>> kt.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=3)

    Args:
        monitor: The value.
        factor: What the learning rate of every parameter group is multiplied by, between 0 and 1.
        patience: Epochs that may pass without a better one; 1 does the same as 0.
        mode: `"min"`, `"max"`, or `"auto"` to tell from the name.
        min_delta: By how much a value must be better than the best to count as better.
        cooldown: In which epoch after a reduction `patience` is counted again; 1 does the same as 0.
        min_lr: The learning rate does not go below it.
        verbose: 1 to print each reduction.

    Attributes:
        wait: Epochs since the best, or since the last reduction.
        cooling: Epochs of `cooldown` that are left.

    Raises:
        ValueError: A number out of its range, another mode, or one that is needed.
    """

    stage: Stage = "monitor"

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        *,
        mode: Mode = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        verbose: int = 0,
    ) -> None:
        if not 0 < factor < 1:
            raise ValueError(f"factor is between 0 and 1, as it makes the learning rate smaller; got {factor!r}.")
        if not min_lr >= 0:
            raise ValueError(f"min_lr is a number from 0; got {min_lr!r}.")
        check_counts(patience=patience, cooldown=cooldown)
        self.monitor = Monitor(monitor, mode, min_delta=min_delta)
        self.monitor.resolve()
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.verbose = verbose
        self.wait = 0
        self.cooling = 0
        self._lowered: list[float] = []

    def __repr__(self) -> str:
        monitor = self.monitor
        return (
            f"ReduceLROnPlateau({monitor.name!r}, factor={self.factor}, patience={self.patience}, "
            f"mode={monitor.mode!r}, min_delta={monitor.min_delta}, cooldown={self.cooldown}, min_lr={self.min_lr}, "
            f"verbose={self.verbose})"
        )

    def on_train_begin(self, logs: Logs) -> None:
        """Forget the last `fit`."""
        self.monitor.best = None
        self.wait = self.cooling = 0
        self._lowered = []

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """See that nothing undoes a reduction, for an epoch."""
        if self._lowered:
            self._warn_of_another()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Compare, and lower the learning rate if patience is at its end."""
        self._lowered = []
        values = logs_of_main(self.run, logs)
        if self.monitor.read(values, self.run, epoch) is None:
            return
        self.cooling = max(self.cooling - 1, 0)
        if self.monitor.improves(values) or self.cooling:
            self.wait = 0
            return
        self.wait += 1
        if self.wait >= self.patience:
            self._reduce(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return what is the best so far, and how long ago."""
        return {"best": self.monitor.best, "wait": self.wait, "cooling": self.cooling, "lowered": list(self._lowered)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.monitor.best = state["best"]
        self.wait = state["wait"]
        self.cooling = state["cooling"]
        self._lowered = list(state["lowered"])

    def _reduce(self, epoch: int) -> None:
        optimizer = optimizer_of(self)
        before = rates_of(optimizer)
        after = [min(rate, max(rate * self.factor, self.min_lr)) for rate in before]
        if after == before:
            return
        set_rates(optimizer, after)
        self._lowered = rates_of(optimizer)
        self.wait, self.cooling = 0, self.cooldown
        if self.verbose and self.run.strategy.is_main:
            print(f"Epoch {epoch + 1}: the learning rate is lowered to {format_number(after[0])}.", flush=True)

    def _warn_of_another(self) -> None:
        lowered, present = self._lowered, rates_of(optimizer_of(self))
        if any(rate > low for rate, low in zip(present, lowered, strict=False)):  # a group may have been added
            self._lowered = []
            warnings.warn(
                f"ReduceLROnPlateau has lowered the learning rate to {format_number(lowered[0])}, but something else "
                f"has set it to {format_number(present[0])} since. Leave one of them out.",
                stacklevel=2,
            )
