"""Curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kerastorch.errors import needs
from kerastorch.history import numbers
from kerastorch.hooks import Callback, Logs, Stage


class TensorBoard(Callback):
    """Writes loss and metrics as curves: `tensorboard --logdir logs` shows them.

    Training goes to `log_dir/train`, validation to `log_dir/validation`, both under `epoch_<name>`, so that they are
    drawn into one chart. Every `update_freq` steps the running values of training are written as `batch_<name>`.
    Epochs count from 0, steps are those of the optimizer since `compile`.

    Args:
        log_dir: Where to; made when the first value is written.
        update_freq: Steps between two points of the `batch_` curves; by default what `fit` was told as `log_step_freq`.
            0 for none.

    Raises:
        MissingPackageError: The package tensorboard is not installed.
    """

    stage: Stage = "logger"

    def __init__(self, log_dir: str | Path = "logs", *, update_freq: int | None = None) -> None:
        needs("tensorboard", purpose="The TensorBoard callback")
        self.log_dir = Path(log_dir)
        self.update_freq = update_freq
        self._writers: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"TensorBoard({str(self.log_dir)!r}, update_freq={self.update_freq})"

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Write the running values, every `update_freq` steps."""
        every = self.run.log_step_freq if self.update_freq is None else self.update_freq
        step = self.run.state.step
        if every and step % every == 0:
            for name, value in logs.items():
                self._writer("train").add_scalar(f"batch_{name}", value, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write the values of the epoch."""
        for name, value in numbers(logs).items():
            place = "validation" if name.startswith("val_") else "train"
            self._writer(place).add_scalar(f"epoch_{name.removeprefix('val_')}", value, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: Logs) -> None:
        """Close the files."""
        self._close()

    def on_exception(self, error: BaseException) -> None:
        """Close the files; what was written stays."""
        self._close()

    def _writer(self, place: str) -> Any:
        if place not in self._writers:
            module = needs("torch.utils.tensorboard", purpose="The TensorBoard callback", install="tensorboard")
            self._writers[place] = module.SummaryWriter(str(self.log_dir / place))
        return self._writers[place]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
