"""When it is time to write."""

from __future__ import annotations

from time import monotonic
from typing import Any

from kerastorch.callbacks.timer import seconds_in
from kerastorch.strategy.group import Group

_WORD = 0.1  # seconds of training for each word between processes, which takes half a millisecond


class Pace:
    """Counts batches, or looks at the clock, which of several processes the main one does.

    Args:
        save_freq: `"epoch"`, a number of batches, or a time such as `"10min"`.

    Raises:
        ValueError: It is something else.
    """

    def __init__(self, save_freq: Any) -> None:
        self._batches, self._seconds = _frequency(save_freq)
        self._group = Group()
        self.begin(self._group)

    def begin(self, group: Group) -> None:
        """Begin anew, in each of these processes."""
        self._group = group
        self._silent, self._pause, self._asked = 0, 1, monotonic()  # batches until the main process is asked again
        self.note()

    def note(self) -> None:
        """Note that it was written."""
        self._next = monotonic() + (self._seconds or 0.0)

    def after_batch(self, number: int) -> bool:
        """Whether it is time after so many batches; all processes say the same."""
        if self._batches:
            return number % self._batches == 0
        return self._seconds is not None and self._ask(at_once=False)

    def after_epoch(self) -> bool:
        """Whether it is time after an epoch."""
        is_each = self._batches is None and self._seconds is None
        return is_each or (self._seconds is not None and self._ask(at_once=True))

    def _ask(self, *, at_once: bool) -> bool:
        now = monotonic()
        if self._group.size == 1:
            return now >= self._next
        self._silent -= 1
        if not at_once and self._silent > 0:
            return False
        batches = int(self._pause * _WORD / max(now - self._asked, 1e-6))  # at the speed since it was asked last
        is_time, self._pause = self._group.of_main((now >= self._next, max(1, min(batches, 2 * self._pause))))
        self._silent, self._asked = self._pause, now
        return bool(is_time)


def _frequency(save_freq: Any) -> tuple[int | None, float | None]:
    """Return batches or seconds between two files."""
    if save_freq == "epoch":
        return None, None
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq, None
    if isinstance(save_freq, str):
        try:
            return None, seconds_in(save_freq)
        except ValueError:
            pass
    raise ValueError(
        f"save_freq is 'epoch', a number of batches above 0, or a time such as '10min'; got {save_freq!r}."
    )
