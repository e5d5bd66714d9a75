"""What several processes do as one: all have the result, or all have the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from kerastorch.errors import CheckpointError, KerastorchError

Result = TypeVar("Result")


class Group(Protocol):
    """The processes that train together, of whichever kind; see `kerastorch.strategy.group`."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""

    def everyone(self, value: Any) -> list[Any]:
        """Return a value of every process."""

    def of_main(self, value: Any) -> Any:
        """Return the value that the main process has."""


def by_main(group: Group, work: Callable[[], Result]) -> Result:
    """Do something in the main process alone; all return its result, or raise its error."""
    if group.size == 1:
        return work()
    result, error = _attempt(work) if group.is_main else (None, None)
    result, told = group.of_main((result, _told(error)))
    _raise(error, told)
    return result  # type: ignore[no-any-return]


def by_all(group: Group, work: Callable[[], Result]) -> Result:
    """Do something in every process; each returns its own result, or all raise an error if one does."""
    if group.size == 1:
        return work()
    result, error = _attempt(work)
    found = group.everyone(_told(error))
    _raise(error, next((told for told in found if told is not None), None))
    return result  # type: ignore[no-any-return]


def _attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _told(error: Exception | None) -> tuple[type[Exception], str] | None:
    """Return an error as the others can read it."""
    if error is None:
        return None
    return (type(error) if isinstance(error, KerastorchError) else CheckpointError), str(error)


def _raise(own: Exception | None, told: tuple[type[Exception], str] | None) -> None:
    if own is not None:
        raise own
    if told is not None:
        kind, text = told
        raise kind(text)
