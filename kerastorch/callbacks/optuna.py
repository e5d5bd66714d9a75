"""Trials of Optuna that are given up early."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kerastorch.callbacks.monitor import Monitor
from kerastorch.errors import needs
from kerastorch.history import better_direction
from kerastorch.hooks import Callback, Hooks, Logs, Stage


class OptunaPruning(Callback):
    """Tells a trial of Optuna a value after each epoch, and ends `fit` with `optuna.TrialPruned` if it is to be pruned.

    All callbacks see the end of that epoch, and of training, before the error is raised: files are closed, the best
    weights are back, `model.history` is there. The steps of the trial are epochs, from 0; a second `fit` in a trial
    goes on with `initial_epoch`. A run that goes on from a backup tells the trial of the epochs before as well.

    Of several processes the main one has the trial, and all end together; give the others `None` or, where each has
    one, the `TorchDistributedTrial` of optuna-integration. Ctrl-C is raised as `KeyboardInterrupt` when `fit` has
    ended, which ends the study: it must not take a net for trained that is not.

    In an estimator, `cross_val_score` takes a pruned trial for a failed fit, and the trial fails: type
    `error_score="raise"`. Optuna takes each epoch once: what the second fold reports is ignored with a warning.

    Example:
        >>> def objective(trial):
        ...     model.compile("cross_entropy", partial(torch.optim.Adam, lr=trial.suggest_float("lr", 1e-4, 1e-1)))
        ...     pruning = kt.callbacks.OptunaPruning(trial, "val_loss")
        ...     history = model.fit(20, train, val, callbacks=[pruning], verbose=0)
        ...     return history.best("val_loss").value

    Args:
        trial: The trial; it is not copied where the callback is, as estimators of scikit-learn do.
        monitor: The value; low must be better in a study that minimises, and high in one that maximises.

    Attributes:
        pruned: Whether the trial was, in the last `fit`.

    Raises:
        MissingPackageError: No package optuna is installed.
        TypeError: `trial` is no trial.
        ValueError: The study has several objectives, or seeks the other end of the value.
        optuna.TrialPruned: At the end of `fit`.
        KeyboardInterrupt: The same, where Ctrl-C was pressed.
    """

    stage: Stage = "monitor"

    def __init__(self, trial: Any, monitor: str = "val_loss") -> None:
        needs("optuna", purpose="OptunaPruning")
        if trial is not None:
            _check(trial, monitor)
        self.trial = trial
        self.monitor = monitor
        self.pruned = False
        self._monitor = Monitor(monitor, "min")  # only to read it
        self._told = 0  # epochs of this fit that the trial knows

    def __repr__(self) -> str:
        return f"OptunaPruning({self.trial!r}, {self.monitor!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OptunaPruning:
        return OptunaPruning(self.trial, self.monitor)

    @contextmanager
    def around(self, hooks: Hooks) -> Iterator[None]:
        """Raise the error when everything else has ended."""
        if not self.run.trains:
            yield
            return
        self.pruned, self._told = False, 0
        yield
        if self.run.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._told < len(self.run.state.history):  # nothing was trained: a backup says that it is complete
            self._ask()
        if self.pruned:
            raise needs("optuna", purpose="OptunaPruning").TrialPruned(self._reason)

    def on_train_begin(self, logs: Logs) -> None:
        """See that the main process has a trial, and that there will be values.

        Raises:
            TypeError: It has none.
            ValueError: The value is one of a validation, and there is none.
        """
        if self.run.strategy.group.of_main(self.trial is None):
            raise TypeError("OptunaPruning has no trial in the main process; only the others may have None.")
        if self.monitor.startswith("val_") and not self.run.has_validation:
            raise ValueError(f"There is no {self.monitor!r} without data to validate on. Type fit(..., dl_val=...).")

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Tell the trial, and stop if it is to be pruned."""
        self._ask()
        if self.pruned:
            self.run.stop(self._reason)

    @property
    def _reason(self) -> str:
        return f"OptunaPruning ({self.monitor} in epoch {self.run.state.epoch})"

    def _ask(self) -> None:
        """Let all processes know whether the trial is to be pruned."""
        group = self.run.strategy.group
        speaks = group.is_main or type(self.trial).__name__ == "TorchDistributedTrial"  # its processes speak together
        self.pruned = group.of_main(bool(speaks and self._tell()))
        self._told = len(self.run.state.history)

    def _tell(self) -> bool:
        """Tell the trial what it does not know yet; return whether it is to be pruned."""
        history, value = self.run.state.history, None
        for epoch, row in list(zip(history.epoch, history.rows, strict=True))[self._told :]:
            value = self._monitor.read(row, self.run, epoch)
            if value is not None:
                self.trial.report(value, epoch)
        return value is not None and self.trial.should_prune()


def _check(trial: Any, monitor: str) -> None:
    if not all(callable(getattr(trial, name, None)) for name in ("report", "should_prune")):
        raise TypeError(f"OptunaPruning takes the trial that the objective is called with; got {trial!r}.")
    directions = [each.name.lower() for each in getattr(getattr(trial, "study", None), "directions", ())]
    if len(directions) > 1:
        raise ValueError(f"Optuna prunes no trial of a study with several objectives; this one has {len(directions)}.")
    if len(directions) == 1:
        _check_direction(directions[0], monitor)


def _check_direction(direction: str, monitor: str) -> None:
    try:
        wanted = {"min": "minimize", "max": "maximize"}[better_direction(monitor)]
    except ValueError:  # its name does not tell
        return
    if direction != wanted:
        raise ValueError(
            f"The study has direction={direction!r}, and would prune the best {monitor!r}. Type "
            f"optuna.create_study(direction={wanted!r}), or monitor another value."
        )
