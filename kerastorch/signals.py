"""Signals: Ctrl-C, the end of a job's time, and the death of the workers of a loader."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

ECHO = 5  # seconds in which the same signal again is the one that torchrun hands on
REPRIEVE = 2  # seconds that a worker lives on after SIGTERM: time for the process that trains to get its own and close

_ERASE = b"\x1b[J"  # on a terminal, the bars below
_HANDLERS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
if sys.platform != "win32":
    _HANDLERS[signal.SIGUSR1] = signal.SIG_DFL  # what SLURM is often told to send some time before the end

_Handler = Callable[[int, FrameType | None], Any]
_stood_down: list[bool] = []  # not empty: nothing can be finished any more


@contextmanager
def preemptible(first: Callable[[int], Any], *, saves: bool = True, tells: bool = True) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGUSR1 calls `first` with its number, the second stops at once.

    At once means KeyboardInterrupt for SIGINT, and `SystemExit(128 + number)` for the others. A signal that somebody
    else handles, or that is ignored, is left alone. Only in the main thread: signals reach no other. Afterwards all is
    as before; a signal at the last moment has called `first` even if nothing ran after it, so ask after this context.
    Under torchrun the same signal again, but for SIGINT, is no second one for some seconds: schedulers such as SLURM
    signal all processes of a job, and torchrun, which is one of them, hands it on.

    Args:
        first: What to do; it is called between any two lines of the program, so let it only take a note.
        saves: Whether the message may promise that the step is saved.
        tells: Whether there is a message; of several processes one is enough.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, told, told_at = os.getpid(), 0, 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal told, told_at
        if os.getpid() != process:
            _in_a_fork(number)
            return
        if told and not _stood_down and _is_echo(number, told, told_at):
            return
        if told or (_stood_down and number == signal.SIGTERM):
            _put_back(_HANDLERS, handle)  # a third does what it always did
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        told, told_at = number, time.monotonic()
        if tells:
            _write(number, saves=saves)
        first(number)

    ours = {number: before for number, before in _HANDLERS.items() if signal.getsignal(number) is before}
    try:
        for number in ours:
            signal.signal(number, handle)
        yield
    finally:
        _put_back(ours, handle)


def stand_down() -> None:
    """From now on the first SIGTERM ends this process: others that it trains with are gone, no step can be finished."""
    _stood_down.append(True)


def obey(number: int | None, *, is_saved: bool) -> None:
    """Do what a signal would have done at first, now that all is closed.

    Args:
        number: The signal; None if there was none.
        is_saved: Whether the training can go on another time. If not, what Ctrl-C has left is used in the rest of the
            script.

    Raises:
        KeyboardInterrupt: It was SIGINT, and all is saved.
        SystemExit: It was another; the exit code is 128 and the number.
    """
    if number is None or (number == signal.SIGINT and not is_saved):
        return
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _is_echo(number: int, first: int, since: float) -> bool:
    is_launched = "TORCHELASTIC_RUN_ID" in os.environ
    return is_launched and number == first != signal.SIGINT and time.monotonic() - since < ECHO


def _put_back(handlers: dict[int, Any], ours: _Handler) -> None:
    for number, before in handlers.items():
        if signal.getsignal(number) is ours:  # else somebody has set another meanwhile, who keeps it
            signal.signal(number, before)


def _write(number: int, *, saves: bool) -> None:
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    done = "will be finished and saved" if saves else "will be finished first"
    again = "press it again" if number == signal.SIGINT else "send it again"
    note = f"\n{name}: this step {done}; {again} to stop at once.\n".encode()
    with suppress(OSError):  # nobody reads any more
        os.write(2, _ERASE * os.isatty(2) + note)  # print is not safe here: it may have been interrupted itself


def _in_a_fork(number: int) -> None:
    # A child took the handler over. The process that trains decides; but who ends a child on purpose must be able to
    if number == signal.SIGTERM:
        if get_worker_info() is not None:
            leave_soon(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def leave_soon(number: int, frame: FrameType | None = None) -> None:
    """End a worker some seconds after its first SIGTERM, and at the second at once.

    A job that is ended gets SIGTERM in every process. Workers that died of it sooner than the process that trains has
    seen its own would look like an accident; one that ignored it would be waited for for ever at exit.
    """
    signal.signal(number, signal.SIG_DFL)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also in the middle of code in C
        signal.alarm(REPRIEVE)


class _ChildDeaths:
    """torch's handler for SIGCHLD, which raises wherever the main thread may be, held back to where it fetches."""

    def __init__(self, handler: _Handler) -> None:
        self.handler = handler
        self.is_fetching = False
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.is_fetching:
            self.came = True
            return
        self.is_fetching = False  # as it may raise at the very end of fetching, where nothing would take this back
        self.handler(number, frame)
        self.is_fetching = True

    def catch_up(self) -> None:
        """Do now what was held back. Raises where a worker that is still in use has died."""
        if self.came:
            self.came = False
            self.handler(signal.SIGCHLD, None)


_held: list[_ChildDeaths] = []


@contextmanager
def child_deaths_deferred() -> Iterator[None]:
    """Let the death of a worker raise only inside `fetching`, and not in the middle of a step or of a save.

    Nothing is lost: what happens elsewhere is found on entering `fetching`. Other handlers of SIGCHLD are called then
    too. Only in the main thread, and where torch has such a handler; afterwards all is as before.
    """
    handler = None if _held else _torch_handler()
    if handler is None:
        yield
        return
    deaths = _ChildDeaths(handler)
    _held.append(deaths)
    try:
        signal.signal(signal.SIGCHLD, deaths)
        yield
    finally:
        _put_back({signal.SIGCHLD: handler}, deaths)
        _held.remove(deaths)
        with suppress(RuntimeError):  # nobody waits for this worker; whoever does next finds it dead
            deaths.catch_up()


class fetching:  # a class, as it takes a third of the time of a generator
    """Let the death of a worker raise here; around `next(iterator)` and nothing else."""

    __slots__ = ("_deaths", "_outer")

    def __enter__(self) -> None:
        self._deaths = _held[-1] if _held and threading.current_thread() is threading.main_thread() else None
        if self._deaths is None:
            return
        self._outer = self._deaths.is_fetching
        try:
            self._deaths.is_fetching = True
            self._deaths.catch_up()
        except BaseException:  # there is no __exit__ then
            self._deaths.is_fetching = self._outer
            raise

    def __exit__(self, *exception: object) -> None:
        if self._deaths is not None:
            self._deaths.is_fetching = self._outer


def _torch_handler() -> _Handler | None:
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return None
    with suppress(ImportError, AttributeError):  # it is torch's own affair and may go
        from torch.utils.data._utils import signal_handling

        signal_handling._set_SIGCHLD_handler()  # at the first workers it would come on top of ours
        handler = signal.getsignal(signal.SIGCHLD)
        return handler if callable(handler) else None
    return None
