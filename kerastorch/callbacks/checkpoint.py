"""When to write a checkpoint; how is the affair of kerastorch.checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from kerastorch import checkpoint, resume
from kerastorch.callbacks.monitor import Mode, Monitor, logs_of_main, lost_in_any
from kerastorch.callbacks.retention import Retention
from kerastorch.errors import did_you_mean
from kerastorch.history import format_number, numbers
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.state import TrainState


class ModelCheckpoint(Callback):
    """Writes the net, or the whole training state, after each epoch or every so many batches.

    A file is whole or not there: it is written beside its place and moved there when it is on the disk. Older ones are
    deleted only then. A file that cannot be written is an error. A net that is lost, since it holds NaN, is not written
    at all, with a warning: it never is the best, and no file has to go for it. A net that FSDP spread over several
    processes has directories of these names instead, which load like files; its weights alone are files.

    Example:
        >>> kt.callbacks.ModelCheckpoint("runs/cifar10_{epoch:02d}_{val_loss:.3f}.pt", keep=2, keep_best=3)
        >>> kt.callbacks.ModelCheckpoint("best.pt", monitor="val_accuracy", save_best_only=True)

    Args:
        filepath: A pattern, filled in with `epoch` (from 1), every value of the logs, and with a number as `save_freq`
            also `batch` (from 1). Directories are made. Where it asks for values of a validation, epochs without one
            have no file.
        monitor: What decides which epoch is the best.
        verbose: 1 to print what is written, and why.
        save_best_only: Write only when `monitor` is better than ever before in this training; NaN never is.
            An epoch without validation is none. If the logs never have `monitor`, every epoch is written, with a
            warning.
        save_weights_only: Write the weights alone, not optimizer, counters and history. A `.safetensors` file always
            holds weights alone.
        mode: `"min"`, `"max"`, or `"auto"` to tell from the name.
        save_freq: `"epoch"`, or a number of batches, counted on from epoch to epoch; their logs are running values.
        initial_value_threshold: What must be beaten by the first file of `save_best_only`.
        keep: How many of the last files to keep; those that this callback wrote in this training.
        keep_best: How many of the best to keep. Without `keep`, one that is not among them is not written. A better one
            of the same name, from a `fit` before, is not written over: the new one gets another name.

    Raises:
        ValueError: Another mode, one that is needed, a broken pattern, or a number below 1; or, after the first epoch,
            a name in the pattern that the logs do not have.
    """

    stage: Stage = "checkpoint"

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        *,
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Mode = "auto",
        save_freq: Literal["epoch"] | int = "epoch",
        initial_value_threshold: float | None = None,
        keep: int | None = None,
        keep_best: int | None = None,
    ) -> None:
        self.filepath = str(filepath)
        fields = [name for _, name, _, _ in Formatter().parse(self.filepath) if name is not None]
        _check(self.filepath, fields, save_freq, keep=keep, keep_best=keep_best)
        if save_best_only and keep_best is not None:
            raise ValueError("save_best_only writes what is better than all before; leave it out with keep_best.")
        self.monitor = Monitor(monitor, mode)
        if save_best_only or keep_best is not None:
            self.monitor.resolve()
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.initial_value_threshold = initial_value_threshold
        self._retention = Retention(keep, keep_best)
        self._batches = 0
        self._has_value = False
        self._has_warned = False
        self._state: TrainState | None = None

    def __repr__(self) -> str:
        return (
            f"ModelCheckpoint({self.filepath!r}, {self.monitor.name!r}, verbose={self.verbose}, "
            f"save_best_only={self.save_best_only}, save_weights_only={self.save_weights_only}, "
            f"mode={self.monitor.mode!r}, save_freq={self.save_freq!r}, "
            f"initial_value_threshold={self.initial_value_threshold}, keep={self._retention.last}, "
            f"keep_best={self._retention.best})"
        )

    def on_train_begin(self, logs: Logs) -> None:
        """Forget what was the best of another model, or of this one before it was compiled anew."""
        self._has_warned = self._is_due = False
        if self._state is not self.run.state:
            self.monitor.best = self.initial_value_threshold
            self._retention.load({})
            self._batches, self._has_value = 0, False
        self._state = self.run.state

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Write, if it is time."""
        if isinstance(self.save_freq, int):
            self._batches += 1
            self._is_due = self._is_due or self._batches % self.save_freq == 0
            if self._is_due and not self.run.state.pending:
                self._is_due = False
                self._consider(f"Epoch {self.run.state.epoch + 1}, batch {batch + 1}", logs, is_missed=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write, if this epoch is to be kept."""
        if self.save_freq == "epoch":
            is_missed = not self.run.has_validation or self.run.validates(epoch)
            self._consider(f"Epoch {epoch + 1}", logs, is_missed=is_missed)

    def state_dict(self) -> dict[str, Any]:
        """Return what was the best, and which files are kept."""
        return {
            "best": self.monitor.best,
            "has_value": self._has_value,
            "batches": self._batches,
            "files": dict(self._retention.files),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.monitor.best = state["best"]
        self._has_value = state["has_value"]
        self._batches = state["batches"]
        self._retention.load(state["files"])
        self._state = self.run.state

    def _consider(self, place: str, logs: Logs, *, is_missed: bool) -> None:
        """Write, if it is wanted; `is_missed` where a value to monitor could have been expected."""
        before, logs = self.monitor.best, logs_of_main(self.run, logs)
        value = numbers(logs).get(self.monitor.name) if self._compares else None
        if value is not None:
            value, self._has_value = float(value), True
        elif self._compares and is_missed and not self._has_value:
            self._warn(logs)
        elif self._compares and self._retention.last is None:
            return  # not validated, or gone
        if value is not None and not self._is_wanted(value, logs):
            rest = f"improve from {_told(before)}" if self.save_best_only else f"reach the {self._retention.best} best"
            self._say(f"{place}: {self.monitor.name} {format_number(value)} did not {rest}.")
            return
        path = self._path(logs, is_missed=is_missed)
        if path is None or self._refuses_lost(place, before):
            return
        if self._retention.best is not None:
            path = self._retention.spared(path, value, self._direction)
        surplus = self._retention.add(str(path), value, self._direction)
        self._write(path)
        for name in surplus if self.run.strategy.group.is_main else ():
            checkpoint.remove(Path(name).expanduser())
        why = (
            ""
            if value is None
            else f" {self.monitor.name} {format_number(value)}, the best before was {_told(before)};"
        )
        self._say(f"{place}:{why} saved to {path}.")

    def _refuses_lost(self, place: str, before: float | None) -> bool:
        lost = lost_in_any(self.run)
        if lost is None:
            return False
        self.monitor.best = before
        if not self._has_warned and self.run.strategy.group.is_main:
            warnings.warn(
                f"{place}: not saved, since {lost!r} is not finite; what was saved before stays.", stacklevel=2
            )
        self._has_warned = True
        return True

    @property
    def _compares(self) -> bool:
        return self.save_best_only or self._retention.best is not None

    @property
    def _direction(self) -> Literal["min", "max"]:
        return self.monitor.resolve() if self._compares else "min"

    def _is_wanted(self, value: float, logs: Logs) -> bool:
        improves = self.monitor.improves(logs)
        return improves if self.save_best_only else self._retention.is_wanted(value, self._direction)

    def _write(self, path: Path) -> None:
        group = self.run.strategy.group
        if self.save_weights_only or path.suffix == ".safetensors":
            weights = checkpoint.whole(self.run.state.module.state_dict(), is_main=group.is_main)
            told = self.run.facts.told()
            checkpoint.by_main(group, lambda: checkpoint.save_weights(weights, path, told))
        else:
            checkpoint.save_together(resume.content_of(self.run), path, group)

    def _path(self, logs: Logs, *, is_missed: bool) -> Path | None:
        """Return the name of the file; None where it asks for values of a validation that this epoch did not have."""
        # The epoch that is running, or that has just been counted
        state = self.run.state
        known = {"epoch": state.epoch + (self.save_freq != "epoch")} | dict(logs)
        if self.save_freq != "epoch":
            known["batch"] = state.batch
        try:
            return Path(self.filepath.format(**known))
        except KeyError as error:
            name = str(error.args[0])
            if name.startswith("val_") and (not is_missed or name in self.run.state.history):
                return None
            raise ValueError(
                f"The file name {self.filepath!r} asks for {name!r}, which this epoch does not have."
                f"{did_you_mean(name, known)} There are {', '.join(known)}."
            ) from error

    def _warn(self, logs: Logs) -> None:
        if self.run.strategy.group.is_main:
            self.monitor.warn(logs)

    def _say(self, text: str) -> None:
        if self.verbose and self.run.strategy.group.is_main:
            print(text, flush=True)


def _told(value: float | None) -> str:
    return "nothing" if value is None else format_number(value)


def _check(filepath: str, fields: list[str], save_freq: Any, **limits: int | None) -> None:
    if not all(fields):
        raise ValueError(f"The file name {filepath!r} has an empty pattern; type {{epoch}} or {{val_loss:.3f}}.")
    if save_freq != "epoch" and (isinstance(save_freq, bool) or not isinstance(save_freq, int) or save_freq < 1):
        raise ValueError(f"save_freq is 'epoch' or a number of batches, 1 or more; got {save_freq!r}.")
    if "batch" in fields and save_freq == "epoch":
        raise ValueError(
            f"The file name {filepath!r} asks for 'batch', which goes with save_freq=100 or another number."
        )
    for name, limit in limits.items():
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"{name} is a number of files, 1 or more; got {limit!r}.")
        if limit is not None and not fields:
            raise ValueError(f"With {name}, each file needs a name of its own: type {{epoch}} in {filepath!r}.")
