"""When the loss is no number any more."""

from __future__ import annotations

import math

from kerastorch.hooks import Callback, Logs, Stage

_EVERY_ON_ACCELERATOR = 20  # a look waits until all that is queued is done; between two of them, steps queue up freely


class TerminateOnNaN(Callback):
    """Ends training at the batch where the loss becomes NaN or infinite.

    The net is lost then: its weights hold NaN as well. So the epoch is not finished, as if Ctrl-C was pressed: it is
    not validated, not in the history, and no other callback writes a file of it. What ended training is printed.
    `EarlyStopping(restore_best_weights=True)` brings the best weights back.

    It looks at the running mean of `"loss"`, and of every value named `..._loss`. A mean that was NaN once stays so for
    the rest of the epoch: nothing is missed by looking less often, it is noticed later.

    Example:
        >>> kt.callbacks.TerminateOnNaN(every=100)

    Args:
        every: Batches between two looks; a look waits for the device. By default each batch on the CPU, where that
            costs next to nothing, and every 20th on an accelerator. The last batch of an epoch is always looked at.
        raise_error: Raise an error instead. The `on_train_end` of other callbacks is not called then.

    Raises:
        ValueError: `every` is below 1.
        RuntimeError: The loss is NaN or infinite, and `raise_error` is set; in training.
    """

    stage: Stage = "monitor"

    def __init__(self, *, every: int | None = None, raise_error: bool = False) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every is a number of batches, 1 or more; got {every!r}.")
        self.every = every
        self.raise_error = raise_error
        self._looked = 0  # batches of this epoch up to the last look

    def __repr__(self) -> str:
        return f"TerminateOnNaN(every={self.every}, raise_error={self.raise_error})"

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Begin with new means."""
        self._looked = 0

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Look, if it is time."""
        run, finished = self.run, batch + 1
        every = self.every
        if every is None:
            every = 1 if run.device is None or run.device.type == "cpu" else _EVERY_ON_ACCELERATOR
        if finished % every == 0 or finished == run.train_data.steps:
            self._look(run.state.epoch, finished, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look once more: the last batch of data of unknown length was not known to be the last."""
        self._look(epoch, None, {name: value for name, value in logs.items() if not name.startswith("val_")})

    def _look(self, epoch: int, finished: int | None, logs: Logs) -> None:
        found = [(name, value) for name, value in logs.items() if _is_loss(name) and not math.isfinite(value)]
        if not found:
            self._looked = finished or 0
            return
        name, value = found[0]
        first = self._looked + 1
        where = f"batch {first}" if first == finished else f"batches {first} to {finished or 'the last'}"
        if self.raise_error:
            raise RuntimeError(
                f"{name} is {value} in {where} of epoch {epoch + 1}. Try a lower learning rate or clipped gradients; "
                "torch.autograd.set_detect_anomaly(True) shows which operation it begins with."
            )
        self.run.interrupt(f"TerminateOnNaN ({name} is {value} in {where})")


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("_loss")
