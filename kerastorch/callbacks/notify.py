"""Tell somebody how training goes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from kerastorch.callbacks.timer import duration
from kerastorch.history import Best, format_number, numbers
from kerastorch.hooks import Callback, Logs, Stage


class Notify(Callback):
    """Calls a function with a line of text when training has ended, however it ended.

    The line says how many epochs there were, how long they took, the best loss, and why training ended early. Where a
    run goes on that was killed, what was before counts too, its time up to the last backup. Where the
    function fails, it is a warning, once, and never the end of training. Training waits for it, so give what sends a
    message a time limit.

    Example:
        >>> kt.callbacks.Notify(lambda text: requests.post(url, json={"text": text}, timeout=10))

    Args:
        function: Takes a text of one line.
        every: Call it after every so many epochs, too.

    Raises:
        TypeError: `function` cannot be called.
        ValueError: `every` is below 1.
    """

    stage: Stage = "logger"

    def __init__(self, function: Callable[[str], Any], *, every: int | None = None) -> None:
        if not callable(function):
            raise TypeError(f"Notify takes a function of one text, such as print; got {function!r}.")
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every is a number of epochs, 1 or more; got {every!r}.")
        self.function = function
        self.every = every
        self._began = 0.0
        self._warned = False

    def __repr__(self) -> str:
        return f"Notify({getattr(self.function, '__name__', repr(self.function))}, every={self.every})"

    def on_train_begin(self, logs: Logs) -> None:
        """Start the clock."""
        self._began = monotonic()
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        """Return how long training has taken so far."""
        return {"seconds": monotonic() - self._began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from there."""
        self._began -= state["seconds"]

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Tell the values of the epoch, if it is time."""
        if self.every is not None and (epoch + 1) % self.every == 0:
            unshown = ("seconds", "samples_per_second")
            values = [f"{name} {format_number(value)}" for name, value in numbers(logs).items() if name not in unshown]
            self._tell(f"Epoch {epoch + 1} of {self.run.epochs} after {self._time()}: {', '.join(values)}.")

    def on_train_end(self, logs: Logs) -> None:
        """Tell the end."""
        reason = self.run.stop_reason
        self._tell(f"Training has ended: {self._summary()}{f', stopped by {reason}' if reason else ''}.")

    def on_exception(self, error: BaseException) -> None:
        """Tell the error, and where it came up."""
        if self.run.trains:
            what = " ".join([f"{type(error).__name__}:", *str(error).split()]) if str(error) else type(error).__name__
            self._tell(f"Training has failed in epoch {self.run.state.epoch + 1}: {what} ({self._summary()})")

    def _summary(self) -> str:
        history = self.run.state.history
        found = next((best for name in ("val_loss", "loss") if (best := self._best(name)) is not None), "")
        return f"{len(history)} epoch{'' if len(history) == 1 else 's'} in {self._time()}{found}"

    def _best(self, name: str) -> str | None:
        history = self.run.state.history
        try:
            best: Best = history.best(name)
        except (KeyError, ValueError):  # there is none, or it never was a number
            return None
        return f", best {name} {format_number(best.value)} in epoch {best.epoch + 1}"

    def _time(self) -> str:
        return duration(monotonic() - self._began)

    def _tell(self, text: str) -> None:
        try:
            self.function(text)
        except Exception as error:  # a mail server that is down must not end a run of days
            if not self._warned:
                self._warned = True
                warnings.warn(f"Notify could not tell {text!r}: {error!r}. Training goes on.", stacklevel=2)
