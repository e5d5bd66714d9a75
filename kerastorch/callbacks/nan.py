"""When the loss is no number any more."""

from __future__ import annotations

import math

from kerastorch.errors import NonFiniteError
from kerastorch.health import is_loss
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.watch import Watch

_EVERY_APART = 20  # on an accelerator a look waits until all that is queued is done, and processes wait for each other


class TerminateOnNaN(Callback):
    """Ends training at the batch where the loss becomes NaN or infinite.

    The net is lost then: its weights hold NaN as well. So the epoch is not finished, as if Ctrl-C was pressed: it is
    not validated, not in the history, and no other callback writes a file of it. What ended training is printed.
    `EarlyStopping(restore_best_weights=True)` brings the best weights back.

    It takes the place of `fit(nan="raise")`, which raises before the batch makes its step. With `nan="skip"` and
    `nan="warn"` both act: what `fit` leaves out, this callback does not see.

    It looks at the running mean of `"loss"`, and of every value named `..._loss`. A mean that was NaN once stays so for
    the rest of the epoch: nothing is missed by looking less often, it is noticed later.

    With `diagnose=True` it also says where it begins: in the data, in the output of which layer, in the loss, or in the
    gradient of which parameter. For that every output, weight and gradient is read once more, which shows where a step
    is short. It waits for the device no more often; but where several batches lie between two looks, it may not know
    whether it was a loss or a gradient.

    Example:
        >>> kt.callbacks.TerminateOnNaN(every=100)
        >>> kt.callbacks.TerminateOnNaN(diagnose=True)

    Args:
        every: Batches between two looks; a look waits for the device. By default each batch on the CPU, where that
            costs next to nothing, and every 20th on an accelerator, or where several processes have to agree. The last
            batch of an epoch is always looked at.
        raise_error: Raise an error instead. The `on_train_end` of other callbacks is not called then.
        diagnose: Say where it begins.

    Raises:
        ValueError: `every` is below 1.
        NonFiniteError: The loss is NaN or infinite, and `raise_error` is set; in training.
    """

    stage: Stage = "monitor"

    def __init__(self, *, every: int | None = None, raise_error: bool = False, diagnose: bool = False) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every is a number of batches, 1 or more; got {every!r}.")
        self.every = every
        self.raise_error = raise_error
        self.diagnose = diagnose
        self._watch: Watch | None = None
        self._looked = 0  # batches of this epoch up to the last look

    def __repr__(self) -> str:
        return f"TerminateOnNaN(every={self.every}, raise_error={self.raise_error}, diagnose={self.diagnose})"

    def on_train_begin(self, logs: Logs) -> None:
        """Take over from `fit`, and begin to watch the net if it is to be diagnosed."""
        if self.run.nan == "raise":
            self.run.nan = "off"
        if self.diagnose:
            self._watch = Watch(self.run.state.module)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Begin with new means."""
        self._looked = 0

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Begin the notes of the batch."""
        run = self.run
        if self._watch is not None and run.current is not None:
            self._watch.begin(run.state.epoch, run.current)

    def on_optimizer_step_begin(self, step: int) -> None:
        """Note the gradients."""
        if self._watch is not None:
            self._watch.note_gradients()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Look, if it is time."""
        if self._watch is not None:
            self._watch.end()
        run, finished = self.run, batch + 1
        every = self.every
        if every is None:
            quick = run.strategy.group.size == 1 and (run.device is None or run.device.type == "cpu")
            every = 1 if quick else _EVERY_APART
        if finished % every == 0 or finished == run.train_data.steps:
            self._look(run.state.epoch, finished, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look once more: the last batch of data of unknown length was not known to be the last."""
        self._look(epoch, None, {name: value for name, value in logs.items() if not name.startswith("val_")})

    def on_train_end(self, logs: Logs) -> None:
        """Leave nothing on the net."""
        self._unwatch()

    def on_exception(self, error: BaseException) -> None:
        """Leave nothing on the net."""
        if self.run.trains:  # not if it was handed to an evaluation as well, which failed
            self._unwatch()

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.remove()

    def _look(self, epoch: int, finished: int | None, logs: Logs) -> None:
        found = [(name, value) for name, value in logs.items() if is_loss(name) and not math.isfinite(value)]
        group = self.run.strategy.group
        if group.any(bool(found)):  # with several processes each knows its own loss, and all end together
            found = [first for others in group.everyone(found) for first in others]
        if not found:
            self._looked = finished or 0
            if self._watch is not None:
                self._watch.forget()
            return
        self.run.lost = True
        name, value = found[0]
        first = self._looked + 1
        where = f"batch {first}" if first == finished else f"batches {first} to {finished or 'the last'}"
        cause = ""
        if self._watch is not None:
            cause = f": {self._watch.explain(epoch, finished - 1 if first == finished else None)}"
        if self.raise_error:
            hint = "" if cause else " TerminateOnNaN(diagnose=True) says where it begins."
            raise NonFiniteError(
                f"{name} is {value} in {where} of epoch {epoch + 1}{cause}. Try a lower learning rate or clipped "
                f"gradients.{hint}"
            )
        self.run.interrupt(f"TerminateOnNaN ({name} is {value} in {where}{cause})")
