"""A clock that charges every moment to one part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeVar, cast

_T = TypeVar("_T")


class Part(NamedTuple):
    """What time is charged to.

    Attributes:
        name: Its row in the table.
        detail: Which one of several, for the advice: a hook of a callback, a metric.
    """

    name: str
    detail: str = ""


class Clock:
    """Charges every moment to exactly one part, so that all parts add up to the time since it was made.

    What a part calls, and is a part itself, is charged to that alone.

    Args:
        part: What runs at first, and between the others.
        wait: Called at each change of parts by `timed`: it returns when work that was handed over is done.
    """

    def __init__(self, part: Part, wait: Callable[[], object] | None = None) -> None:
        self._wait = wait
        self._cells: dict[Part, list[int]] = {}  # a cell is found once, not at every change
        self._current = self._cell(part)
        self._since = perf_counter_ns()

    def switch(self, part: Part) -> None:
        """Charge what comes from now on to another part."""
        now = perf_counter_ns()
        self._current[0] += now - self._since
        self._since = now
        self._current = self._cell(part)

    def timed(self, part: Part, function: Callable[..., _T]) -> Callable[..., _T]:
        """Return a function whose time is charged to a part."""
        cell = self._cell(part)
        if self._wait is not None:
            function = _then(function, self._wait)

        def call(*arguments: Any, **options: Any) -> _T:
            outer, now = self._current, perf_counter_ns()
            outer[0] += now - self._since
            self._since = now
            self._current = cell
            try:
                return function(*arguments, **options)
            finally:
                now = perf_counter_ns()
                cell[0] += now - self._since
                self._since = now
                self._current = outer

        return call if self._wait is None else _first(self._wait, call)

    def seconds(self) -> dict[Part, float]:
        """Return the time of each part until now."""
        now = perf_counter_ns()
        self._current[0] += now - self._since
        self._since = now
        return {part: cell[0] / 1e9 for part, cell in self._cells.items()}

    def _cell(self, part: Part) -> list[int]:
        return self._cells.setdefault(part, [0])


def _first(before: Callable[[], object], function: Callable[..., _T]) -> Callable[..., _T]:
    def call(*arguments: Any, **options: Any) -> _T:
        before()
        return function(*arguments, **options)

    return call


def _then(function: Callable[..., _T], after: Callable[[], object]) -> Callable[..., _T]:
    def call(*arguments: Any, **options: Any) -> _T:
        result = function(*arguments, **options)
        after()
        return result

    return call


class _StandIn:
    """Has some things of its own, and all else of the object it stands for; a copy of it is a copy of that object."""

    def __init__(self, original: Any, own: Mapping[str, Any]) -> None:
        vars(self).update(own, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return _itself, (self._original,)


def stand_in(original: _T, own: Mapping[str, Any]) -> _T:
    """Return what behaves as an object does, except for what it has of its own; the object is left as it is."""
    return cast(_T, _StandIn(original, own))


def _itself(original: Any) -> Any:
    return original
