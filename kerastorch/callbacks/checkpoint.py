"""When to write a checkpoint; how is checkpoint.py's affair."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

from kerastorch import checkpoint
from kerastorch.callbacks.monitor import Mode, Monitor
from kerastorch.errors import did_you_mean
from kerastorch.history import numbers
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.state import TrainState


class ModelCheckpoint(Callback):
    """Writes the net, or the whole training state, after each epoch.

    A file is whole or not there: it is written beside its place and moved there when it is on the disk.

    Example:
        >>> kt.callbacks.ModelCheckpoint("runs/cifar10_{epoch:02d}_{val_loss:.3f}.pt")
        >>> kt.callbacks.ModelCheckpoint("best.pt", monitor="val_accuracy", save_best_only=True)

    Args:
        filepath: A pattern, filled in with `epoch` (from 1) and every value of the logs. Directories are made.
        monitor: What decides which epoch is the best.
        save_best_only: Write only when `monitor` is better than ever before in this training; NaN never is.
            An epoch without validation is none. If the logs never have `monitor`, every epoch is written, with a
            warning.
        save_weights_only: Write the weights alone, not optimizer, counters and history. A `.safetensors` file always
            holds weights alone.
        mode: `"min"`, `"max"`, or `"auto"` to tell from the name.

    Raises:
        ValueError: Another mode, one that is needed, or a broken pattern; or, after the first epoch, a name in the
            pattern that the logs do not have.
    """

    stage: Stage = "checkpoint"

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        *,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Mode = "auto",
    ) -> None:
        self.filepath = str(filepath)
        if any(name is not None and not name for _, name, _, _ in Formatter().parse(self.filepath)):
            raise ValueError(
                f"The file name {self.filepath!r} has an empty pattern; type {{epoch}} or {{val_loss:.3f}}."
            )
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.monitor = Monitor(monitor, mode)
        if save_best_only:
            self.monitor.resolve()
        self._state: TrainState | None = None

    def __repr__(self) -> str:
        return (
            f"ModelCheckpoint({self.filepath!r}, {self.monitor.name!r}, save_best_only={self.save_best_only}, "
            f"save_weights_only={self.save_weights_only}, mode={self.monitor.mode!r})"
        )

    def on_train_begin(self, logs: Logs) -> None:
        """Forget what was the best of another model, or of this one before it was compiled anew."""
        if self._state is not self.run.state:
            self.monitor.best = None
        self._state = self.run.state

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write, if this epoch is to be kept."""
        if self.save_best_only and not self._is_best(epoch, logs):
            return
        path = self._path(epoch, logs)
        if self.save_weights_only or path.suffix == ".safetensors":
            checkpoint.save_weights(self.run.state.module.state_dict(), path)
        else:
            checkpoint.save(self.run.state.state_dict(), path)

    def _is_best(self, epoch: int, logs: dict[str, float]) -> bool:
        if self.monitor.name in numbers(logs):
            return self.monitor.improves(logs)
        if self.monitor.best is not None or (self.run.has_validation and not self.run.validates(epoch)):
            return False
        self.monitor.warn(logs)
        return True

    def _path(self, epoch: int, logs: dict[str, float]) -> Path:
        try:
            return Path(self.filepath.format(epoch=epoch + 1, **logs))
        except KeyError as error:
            name = str(error.args[0])
            raise ValueError(
                f"The file name {self.filepath!r} asks for {name!r}, which this epoch does not have."
                f"{did_you_mean(name, logs)} There are epoch, {', '.join(logs)}."
            ) from error
