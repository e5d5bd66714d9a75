"""What every logger has in common: when values are written, and that a run outlives its logs."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, Literal

from torch import Tensor

from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.run import Run

UpdateFreq = int | Literal["epoch"] | None

_SLOW = 1.0  # seconds; a write that fails at once may be tried again at once
_REST = 9  # times as long as it took to fail: a lost server holds up a run by a tenth at most


class Logger(Callback, ABC):
    """Writes the values of a run somewhere. For a logger of your own, `write` is all that it needs.

    Example:
        >>> class Printer(kt.callbacks.Logger):
        ...     def write(self, step, values):
        ...         print(step, values)

    `write` gets

    - after each epoch `{"epoch": 3, "loss": ..., "val_loss": ..., "lr": ...}`, epochs counted from 0;
    - every `update_freq` steps the running means `{"batch_loss": ...}`; reading them waits for the device;
    - what others hand to `self.run.log({...})` while training runs: images, say;
    - in `evaluate(callbacks=[logger])` the result as `{"test_loss": ...}`.

    What cannot be written never ends a run: an error of `write` or `close` becomes a warning, one for each kind in a
    run. Where it took long to fail, nothing is written for nine times as long. An error of `open` does end the run,
    before the first batch, after a `close`.

    Where a run goes on that was killed, `kept` returns what the own `state_dict` has put into the checkpoint. A logger
    that has one writes nothing until it is loaded: callbacks then do not know yet where training is.

    Attributes:
        update_freq: Steps between two writes of running means; 0 or `"epoch"` for none; None for what `fit` was told as
            `log_step_freq`.
    """

    stage: Stage = "logger"
    update_freq: UpdateFreq = None
    _opened_by: Run | None = None
    _every: int = 0
    _written: int = -1  # the last step whose running means were written
    _rests_until: float = 0.0
    _warned: frozenset[str] = frozenset()
    _waits: bool = False  # for the checkpoint to be loaded
    _epoch: int | None = None  # whose values are being written; users may log a value "epoch" of their own

    @abstractmethod
    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write values: numbers, tensors, text, whatever users log.

        Args:
            step: Steps of the optimizer since `compile`.
            values: By name; values of an epoch have its number as `"epoch"`.
        """

    def open(self) -> None:
        """Prepare for a run; `self.run.trains` says whether it is one of `fit`, or of `evaluate`."""

    def close(self, error: BaseException | None) -> None:
        """End a run, with the error that ended it, if one did; it may be one of `open`."""

    def kept(self) -> Mapping[str, Any]:
        """Return what the checkpoint that this run goes on from holds of this logger; nothing in a run that begins."""
        resumed = self.run.resumed
        if resumed is None:
            return {}
        name = next((name for name, extra in self.run.state.extras.items() if extra is self), "")
        state: Mapping[str, Any] = resumed.content["callbacks"].get(name, {})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write again; `open` has read the state already."""
        self._waits = False

    def on_train_begin(self, logs: Logs) -> None:
        """Open, and listen to `run.log`."""
        self._open()
        self.run.writers.append(self.try_to_write)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Write the running means, if it is time."""
        step = self.run.state.step
        if self._every and step % self._every == 0 and step != self._written:
            self._written = step
            self.try_to_write(step, {f"batch_{name}": value for name, value in logs.items()})

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write the values of the epoch."""
        self._epoch = epoch
        try:
            self.try_to_write(self.run.state.step, {"epoch": epoch, **logs} | {"epoch": epoch})
        finally:
            self._epoch = None

    def on_test_end(self, logs: Logs) -> None:
        """Write the result of `evaluate`; a validation is a part of its epoch."""
        run = self.run
        if run.trains:
            return
        if self._opened_by is None:  # it is not, if evaluate is called inside the fit that this logger writes
            self._open()
        prefix = next((prefix for prefix, data in run.val_sets.items() if data is run.val_data), "")
        self.try_to_write(run.state.step, {f"test_{prefix}{name}": value for name, value in logs.items()})
        if self._opened_by is run and run.val_data is [*run.val_sets.values()][-1]:
            self._close(None)

    def on_train_end(self, logs: Logs) -> None:
        """Close."""
        self._close(None)

    def on_exception(self, error: BaseException) -> None:
        """Close; what was written stays."""
        if self._opened_by is self.run:
            self._close(error)

    def try_to_write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write; warn where that fails, and rest for a while where it took long to fail."""
        started = perf_counter()
        if self._waits or started < self._rests_until:
            return
        try:
            self.write(step, {name: _plain(value) for name, value in values.items()})
        except Exception as error:
            ended = perf_counter()
            rest = _REST * (ended - started) if ended - started > _SLOW else 0.0
            self._rests_until = ended + rest
            self._warn_of(error, f" The next {rest:.0f} s nothing is written." if rest else "")

    @contextmanager
    def leaving_out(self, name: str) -> Iterator[None]:
        """Let what fails here cost this value alone, and one warning; not where the place fails, or takes long to."""
        started = perf_counter()
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            if perf_counter() - started > _SLOW:
                raise
            text = " ".join(str(error).split()).rstrip(".")
            self.warn_once(f"{name} {type(error)}", f"{self!r} leaves out {name!r}: {text or type(error).__name__}.")

    def warn_once(self, kind: str, text: str) -> None:
        """Warn, unless there was a warning of this kind in this run."""
        if kind not in self._warned:
            self._warned |= {kind}
            warnings.warn(text, stacklevel=2)

    def _open(self) -> None:
        every = self.run.log_step_freq if self.update_freq is None else self.update_freq
        self._every = 0 if every is None or every == "epoch" else every
        self._written = -1 if self.run.resumed is None else self.run.state.step  # the killed process has written it
        self._rests_until, self._warned = 0.0, frozenset()
        self._waits = bool(self.kept())
        try:
            self.open()
        except BaseException as error:
            with suppress(Exception):  # half of it may be open; the error to tell of is the first one
                self.close(error)
            raise
        self._opened_by = self.run

    def _close(self, error: BaseException | None) -> None:
        self._opened_by = None
        if self.try_to_write in self.run.writers:
            self.run.writers.remove(self.try_to_write)
        try:
            self.close(error)
        except Exception as another:
            self._warn_of(another)

    def _warn_of(self, error: Exception, rest: str = "") -> None:
        kind, text = type(error).__name__, " ".join(str(error).split()).rstrip(".")
        self.warn_once(kind, f"{self!r} could not write: {kind}: {text}.{rest} Training goes on; this is said once.")


def _plain(value: Any) -> Any:
    """Return a number for a tensor of one: whoever writes a value waits for it anyway."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def check_update_freq(value: UpdateFreq) -> None:
    """See that this is a number of steps, `"epoch"` or None.

    Raises:
        ValueError: It is not.
    """
    if value not in (None, "epoch") and (not isinstance(value, int) or value < 0):
        raise ValueError(f"update_freq is a number of steps, 'epoch', or None for fit's log_step_freq; got {value!r}.")


def configuration(run: Run) -> dict[str, Any]:
    """Return what is known of a run in plain numbers and strings, for the tables of experiment trackers."""
    state, facts = run.state, dict[str, Any]()
    if run.trains:
        facts |= {"epochs": run.epochs, "steps_per_epoch": run.train_data.steps}
        facts["batch_size"] = run.train_data.batch_size
    if run.loss is not None:
        facts["loss"] = run.loss.name
    if state.optimizer is not None:
        group = state.optimizer.param_groups[0]
        facts["optimizer"] = type(state.optimizer).__name__
        plain = {name: value for name, value in group.items() if isinstance(value, (bool, int, float, str, tuple))}
        facts |= {
            f"optimizer_{name}": str(value) if isinstance(value, tuple) else value for name, value in plain.items()
        }
    facts["parameters"] = sum(parameter.numel() for parameter in state.module.parameters())
    return {name: value for name, value in facts.items() if value is not None}
