"""How long training takes, and when it has taken long enough."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from numbers import Real
from time import monotonic

from kerastorch.hooks import Callback, Logs

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_CLOCK = r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?"
_PART = r"(\d+(?:\.\d+)?)\s*(d(?:ays?)?|h(?:ours?)?|m(?:in(?:utes?)?)?|s(?:ec(?:onds?)?)?)\s*"


class Timer(Callback):
    """Ends training when its time is over, and tells how long it took.

    With a `BackupAndRestore` beside it, training ends after the batch at which the time is over, in the middle of an
    epoch or of a validation, and the backup is where the next job goes on exactly. Without one, that epoch is validated
    and counts as finished; leave time for that. Every `fit` has the whole time, also one that goes on from a backup: a
    new job has a new allowance.

    Example:
        >>> kt.callbacks.Timer("11:50:00")  # of 12 hours that a cluster gives
        >>> timer = kt.callbacks.Timer()
        >>> model.fit(3, dl_train, dl_val, callbacks=[timer])
        >>> timer.seconds_per_epoch, timer.validation_seconds

    Args:
        max_time: Seconds, a text such as `"90min"` or `"1d 2h"`, or a `datetime.timedelta`. None only measures. Texts
            are also read as SLURM writes them: `"55:00"` is minutes and seconds, `"3:55:00"` hours, minutes and
            seconds, `"1-12"`, `"1-12:30"` and `"1-12:30:00"` a day and the hours of the next.

    Attributes:
        seconds: Since `fit` began, until now or its end.
        seconds_per_epoch: Mean of the epochs that this process has trained as a whole, with their validation; NaN
            before the first.
        validation_seconds: Of all validations together.

    Raises:
        ValueError: `max_time` is not above 0, or a text that cannot be read.
        TypeError: It is none of these.
    """

    validation_seconds: float
    _began: float | None
    _ended: float | None
    _epoch_began: float | None

    def __init__(self, max_time: float | str | timedelta | None = None) -> None:
        self.max_time = max_time
        self._limit = math.inf if max_time is None else seconds_in(max_time)
        self._reset()

    def __repr__(self) -> str:
        return f"Timer({self.max_time!r})"

    def on_train_begin(self, logs: Logs) -> None:
        """Start the clock."""
        self._reset()
        self._began = began = monotonic()
        self._end = began + self._limit

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Note when an epoch begins."""
        # One that goes on in its middle is not known as a whole
        self._epoch_began = None if self.run.state.batch else monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Stop if the time is over."""
        if monotonic() >= self._end:
            self._stop()

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """Stop if the time is over, where the validation can be done later."""
        if monotonic() >= self._end and self._is_backed_up and self.run.trains:
            self._stop()

    def on_test_begin(self, logs: Logs) -> None:
        """Note when a validation begins."""
        self._validation_began = monotonic()

    def on_test_end(self, logs: Logs) -> None:
        """Note how long a validation took."""
        if self.run.trains:
            self.validation_seconds += monotonic() - self._validation_began

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Note how long the epoch took; stop if the time was over during its validation."""
        now = monotonic()
        if self._epoch_began is not None:
            self._epochs.append(now - self._epoch_began)
        if now >= self._end and epoch + 1 < self.run.epochs:
            self._stop()

    def on_train_end(self, logs: Logs) -> None:
        """Stop the clock."""
        self._ended = monotonic()

    def on_exception(self, error: BaseException) -> None:
        """Stop the clock."""
        if self.run.trains:
            self._ended = monotonic()

    @property
    def seconds(self) -> float:
        """Since `fit` began, until now or its end; 0 before."""
        if self._began is None:
            return 0.0
        return (monotonic() if self._ended is None else self._ended) - self._began

    @property
    def seconds_per_epoch(self) -> float:
        """Mean of the epochs that this process has trained as a whole; NaN before the first."""
        return sum(self._epochs) / len(self._epochs) if self._epochs else math.nan

    def _reset(self) -> None:
        self._began = None
        self._ended = None
        self._end = math.inf
        self._epoch_began = None
        self._validation_began = 0.0
        self._epochs: list[float] = []
        self.validation_seconds = 0.0

    @property
    def _is_backed_up(self) -> bool:
        return bool(self.run.peers["backup"])

    def _stop(self) -> None:
        end = self.run.interrupt if self._is_backed_up else self.run.stop
        end(f"Timer (max_time of {duration(self._limit)} is over)")


def duration(seconds: float) -> str:
    """Write a time for people: hours, minutes and seconds; below ten seconds with a decimal.

    Example:
        >>> [duration(seconds) for seconds in (5400, 3.21, 100000)]
        ['1:30:00', '3.2 s', '1 day, 3:46:40']
    """
    return f"{seconds:.1f} s" if seconds < 10 else str(timedelta(seconds=round(seconds)))


def seconds_in(time: float | str | timedelta) -> float:
    """Return the seconds of a time, as `Timer` takes it.

    Raises:
        ValueError: It is not above 0, or a text that cannot be read.
        TypeError: It is no time.
    """
    if isinstance(time, str):
        seconds = _read(time.strip().lower())
        if seconds is None:
            raise ValueError(
                f"max_time={time!r} cannot be read. Type '90min', '12h', '1d 2h 30min', '3:55:00', or seconds."
            )
    elif isinstance(time, timedelta):
        seconds = time.total_seconds()
    elif isinstance(time, Real) and not isinstance(time, bool):
        seconds = float(time)
    else:
        raise TypeError(f"max_time is seconds, a text such as '90min', or a datetime.timedelta; got {time!r}.")
    if not 0 < seconds < math.inf:
        raise ValueError(f"max_time is above 0; got {time!r}. Leave it out for a clock that ends nothing.")
    return seconds


def _read(text: str) -> float | None:
    """Return the seconds of a text; None where it is no time."""
    if re.fullmatch(f"(?:{_PART})+", text):
        return sum(float(number) * _UNITS[unit[0]] for number, unit in re.findall(_PART, text))
    clock = re.fullmatch(_CLOCK, text)
    if clock is None or not set("-:") & set(text):
        return None
    days, *rest = clock.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) == 2:
        parts.insert(0, 0)  # without hours
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
