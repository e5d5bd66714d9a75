"""Workers of a DataLoader: how they live through signals, die, and are closed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from kerastorch.signals import child_deaths_deferred, fetching, leave_soon

__all__ = ["DeadWorker", "dead_worker", "fetching", "initialiser", "shut_down"]

_PATIENCE = 3.0  # seconds for all workers together to close, before they are killed
_SHOWS = 2.0  # seconds for a death to show in the exit code; its pipes break first

_HINTS = {
    "SIGKILL": "Most often the system does that when memory runs out: use fewer workers, or smaller batches.",
    "SIGBUS": "Most often shared memory is too small: give a container more with --shm-size=8g, or use fewer workers.",
    "SIGSEGV": "That is a crash in compiled code that the dataset uses: num_workers=0 with `python -X faulthandler` "
    "shows where.",
}


def initialiser(own: Callable[[int], Any] | None = None) -> Callable[[int], None]:
    """Return a `worker_init_fn` for workers that outlast the signals of a job's end; it can be pickled if `own` can.

    Ctrl-C and SIGUSR1 are left to the process that trains. After SIGTERM a worker has some seconds, see `leave_soon`.
    It ends as well when that process is gone, whatever it is doing.

    Args:
        own: The user's `worker_init_fn`, called afterwards.
    """
    return functools.partial(_begin, own)


def _begin(own: Callable[[int], Any] | None, worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, leave_soon)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(os.getppid(), multiprocessing.parent_process()), daemon=True).start()
    if own is not None:
        own(worker)


def _follow(pid: int, parent: Any) -> None:
    # torch's workers look for their parent too, but not while they read a sample or wait for room in the queue, which
    # they would then do for ever. After fork, siblings keep `parent` alive to look at; with a server it is not `pid`.
    while os.getppid() == pid and (parent is None or parent.is_alive()):
        time.sleep(1)
    os._exit(1)


@dataclass(frozen=True)
class DeadWorker:
    """A worker that ended before its time.

    Attributes:
        index: Its number in the loader, from 0.
        pid: Its process.
        exitcode: As `multiprocessing` has it: of a signal, the negative number.
    """

    index: int
    pid: int
    exitcode: int

    def describe(self) -> str:
        """Say what happened and, where one can guess, why."""
        who = f"worker {self.index} (process {self.pid})"
        if self.exitcode >= 0:
            return f"{who} ended with exit code {self.exitcode}"
        try:
            name = signal.Signals(-self.exitcode).name
        except ValueError:  # a real-time signal
            name = f"signal {-self.exitcode}"
        hint = _HINTS.get(name)
        return f"{who} was killed by {name}" + (f". {hint}" if hint else "")


def dead_worker(error: BaseException, iterator: Iterator[Any]) -> DeadWorker | None:
    """Return the worker whose death an error of `next(iterator)` comes from; None if it comes from anything else.

    The error alone does not tell: a broken pipe or the end of a file may be the dataset's own affair. The exit codes of
    the workers decide.
    """
    workers = _workers(iterator)
    if not workers or not isinstance(error, (RuntimeError, OSError, EOFError)):
        return None
    deadline = time.monotonic() + _SHOWS * _speaks_of_death(error)
    with child_deaths_deferred():  # outside fit torch would raise here, of the very worker that is waited for
        while (dead := _first_dead(workers, error)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
    return dead


def _speaks_of_death(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    return "in DataLoader worker process" not in str(error)  # else the dataset raised it, in a worker that lives


def _first_dead(workers: Sequence[BaseProcess], error: BaseException) -> DeadWorker | None:
    named = re.findall(r"\d+", str(error))  # an exit code of 0 is a death only if torch says so: streams end like this
    for index, worker in enumerate(workers):
        code, pid = worker.exitcode, worker.pid
        if pid is not None and code is not None and (code != 0 or str(pid) in named):
            return DeadWorker(index, pid, code)
    return None


def shut_down(iterator: Iterator[Any]) -> None:
    """End the workers of an iterator for good, within seconds and whatever became of them; others are left alone.

    A DataLoader with `persistent_workers` still holds the iterator afterwards: let it go before the next epoch.
    """
    workers = _workers(iterator)
    close = getattr(iterator, "_shutdown_workers", None)
    if not workers or close is None:
        return

    def closing() -> None:
        with suppress(Exception):
            close()

    # torch waits 5 s for one worker after the other, and without limit for a thread that reads from a dead one
    thread = threading.Thread(target=closing, daemon=True)
    with child_deaths_deferred(), suppress(RuntimeError):  # Python that is about to exit starts no more threads
        try:
            thread.start()
            thread.join(_PATIENCE)
        finally:  # also where Ctrl-C is pressed meanwhile
            for worker in workers:
                _kill(worker)
        thread.join(1)  # it sees now that they are gone


def _kill(worker: BaseProcess) -> None:
    with suppress(Exception):  # it may be gone in this very moment, or be another process's child
        if worker.exitcode is None:
            worker.kill()
            worker.join(1)


def _workers(iterator: Any) -> list[BaseProcess]:
    workers = getattr(iterator, "_workers", None)
    return workers if isinstance(workers, list) and all(isinstance(worker, BaseProcess) for worker in workers) else []
