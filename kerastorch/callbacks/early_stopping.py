"""When nothing gets better any more."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kerastorch import checkpoint
from kerastorch.callbacks.monitor import Mode, Monitor, check_counts, logs_of_main, lost_in_any
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs, Stage


class EarlyStopping(Callback):
    """Ends training when a value has not become better for some epochs.

    Epochs that were not validated do not count; NaN is never better, nor are weights that are to be restored and hold
    it. Every `fit` begins anew.

    Example:
        >>> kt.callbacks.EarlyStopping("val_accuracy", patience=5, restore_best_weights=True)

    Args:
        monitor: The value.
        min_delta: By how much it must be better than the best to count as better.
        patience: Epochs that may pass without a better one; 1 does the same as 0. The first epoch never is the last.
        mode: `"min"`, `"max"`, or `"auto"` to tell from the name.
        baseline: A value that must be beaten as well before `patience` is counted from 0 again.
        restore_best_weights: Give the net the weights of its best epoch when training ends: by this callback or by
            another, after the last epoch, by Ctrl-C, and by an error. The state of the optimizer stays that of the end.
        start_from_epoch: The first epoch to look at, from 0: a warm-up before it cannot stop, nor be the best.
        verbose: 1 to print which weights came back, also where `fit` shows nothing else; 0 not to. By default as `fit`.

    Attributes:
        wait: Epochs since the best.
        best_epoch: The best epoch, from 0; None if no epoch had a number.
        stopped_epoch: The epoch after which this callback ended training, from 0; None if it did not.
        best_weights: A copy of the net's state while training runs.

    Raises:
        ValueError: Another mode, one that is needed, or a number that is negative.
    """

    stage: Stage = "monitor"
    wait: int
    best_epoch: int | None
    stopped_epoch: int | None
    best_weights: dict[str, Any] | None

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        *,
        mode: Mode = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        verbose: int | None = None,
    ) -> None:
        check_counts(patience=patience, start_from_epoch=start_from_epoch)
        self.monitor = Monitor(monitor, mode, min_delta=min_delta, baseline=baseline)
        self.monitor.resolve()
        self.patience = patience
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.verbose = verbose
        self._reset()

    def __repr__(self) -> str:
        monitor = self.monitor
        return (
            f"EarlyStopping({monitor.name!r}, min_delta={monitor.min_delta}, patience={self.patience}, "
            f"mode={monitor.mode!r}, baseline={monitor.baseline}, restore_best_weights={self.restore_best_weights}, "
            f"start_from_epoch={self.start_from_epoch}, verbose={self.verbose})"
        )

    def on_train_begin(self, logs: Logs) -> None:
        """Forget the last `fit`."""
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Compare, and stop if patience is at its end."""
        if epoch < self.start_from_epoch:
            return
        values = logs_of_main(self.run, logs)
        value = self.monitor.read(values, self.run, epoch)
        if value is None:
            return
        self.wait += 1
        before = self.monitor.best
        if self.monitor.improves(values) and not self._refuses_lost(before):
            self.best_epoch = epoch
            if self.restore_best_weights:
                self.best_weights = _copied(self.run.state.module.state_dict())
            if self.monitor.beats_baseline(value):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self._stop(epoch)

    def on_train_end(self, logs: Logs) -> None:
        """Restore the best weights, whatever ended training."""
        self._restore()

    def on_exception(self, error: BaseException) -> None:
        """Restore the best weights: in a notebook, the net lives on after an error."""
        if self.run.trains:  # not if it was handed to an evaluation as well, which failed
            self._restore()

    def state_dict(self) -> dict[str, Any]:
        """Return what is the best so far, with its weights if they are to come back."""
        return {
            "best": self.monitor.best,
            "wait": self.wait,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.monitor.best = state["best"]
        self.wait = state["wait"]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"]

    def _reset(self) -> None:
        self.monitor.best = None
        self.wait = 0
        self.best_epoch = None
        self.stopped_epoch = None
        self.best_weights = None

    def _refuses_lost(self, before: float | None) -> bool:
        lost = lost_in_any(self.run) if self.restore_best_weights else None
        if lost is not None:
            self.monitor.best = before
            self.run.say(f"The weights of this epoch are not the best: {lost!r} is not finite.")
        return lost is not None

    def _stop(self, epoch: int) -> None:
        self.stopped_epoch = epoch
        name, best = self.monitor.name, self.monitor.best
        if best is None or self.best_epoch is None:
            reason = f"no {name} was a number"
        else:
            reason = f"no {name} was better than {format_number(best)} in epoch {self.best_epoch + 1}"
        self.run.stop(f"EarlyStopping ({reason})")

    def _restore(self) -> None:
        weights, self.best_weights = self.best_weights, None  # the net has them now; no second copy is kept
        if weights is not None and self.best_epoch is not None:
            module, is_main = self.run.state.module, self.run.strategy.group.is_main
            module.load_state_dict(checkpoint.placed(weights, module.state_dict()))
            if is_main and (self.run.verbose if self.verbose is None else self.verbose):
                print(f"The weights are those of epoch {self.best_epoch + 1}, the best.", flush=True)
        elif self.restore_best_weights and self.best_epoch is None and self.wait and self.run.strategy.group.is_main:
            warnings.warn(
                f"No {self.monitor.name!r} was a number, so there are no best weights; the net keeps its last.",
                stacklevel=2,
            )


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    # On the CPU: memory is what an accelerator runs out of, and a copy takes milliseconds, once per better epoch
    return {
        name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }
