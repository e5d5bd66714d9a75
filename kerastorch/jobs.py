"""The processes of one attempt of `launch`: started, watched, and what they leave behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from kerastorch import cpus
from kerastorch.errors import DistributedError, add_note

FOLDER = "KERASTORCH_LAUNCH"  # environment variable: where processes leave their results and errors
UNGUARDED = (
    "kt.launch was called while a new process read the script, and would have begun again in it, without end. Type\n"
    "if __name__ == '__main__':\n    kt.launch(...)\nat the end of the script, and leave functions and classes outside."
)
_REPRIEVE = 1.0, 5.0  # seconds after the first failure until the others get SIGTERM, and SIGKILL
_FORWARDED = [signal.SIGINT, signal.SIGTERM] + ([] if sys.platform == "win32" else [signal.SIGUSR1])


class _Traceback(Exception):
    """A traceback of another process, as the cause of an error."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass
class _Report:
    """What a process says of its failure.

    Attributes:
        is_first: Whether no other had failed before.
        when: The time in seconds.
        error: The exception; None where it cannot be sent.
        text: Its traceback.
    """

    is_first: bool
    when: float
    error: BaseException | None
    text: str


@dataclass
class Job:
    """The processes of one attempt."""

    count: int
    folder: Path
    timeout: float
    processes: list[Any] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    is_late: bool = False
    store: Any = None

    @property
    def is_final(self) -> bool:
        """Whether another attempt would be against somebody's will, or in vain."""
        return bool(self.signals) or (self.folder / "unguarded").exists()

    @contextmanager
    def signals_forwarded(self) -> Iterator[None]:
        """Hand signals on to the processes; they decide what to do, and this one waits for them."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            usual = (signal.SIG_DFL, signal.default_int_handler)
            before = {number: signal.getsignal(number) for number in _FORWARDED if signal.getsignal(number) in usual}
        try:
            for number in before:
                signal.signal(number, self._forward)
            yield
        finally:
            for process in self.processes:
                if process.is_alive():
                    process.kill()
                process.join()
            self.store = None
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        for process in self.processes:
            with suppress(ProcessLookupError, TypeError):  # it has ended, or not begun
                os.kill(process.pid, number if len(self.signals) < 3 else signal.SIGKILL)

    def start(self, method: str, attempt: tuple[int, int], fn: Callable[..., Any], args: Sequence[Any]) -> None:
        """Start all processes; a signal that comes meanwhile is handed on as well."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self.folder.mkdir()
        # One for each attempt, so that nobody reads what was written in another; here, where it outlives process 0
        self.store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(hours=1))
        threads = 0 if "OMP_NUM_THREADS" in os.environ else max(1, cpus.usable_cpus() // self.count)
        threads, work = (1, _fork) if method == "fork" else (threads, _work)  # OpenMP hangs in a fork with more
        environment = _environment(self.count, self.store.port, *attempt)
        context: Any = multiprocessing.get_context(method)
        os.environ[FOLDER] = str(self.folder)
        try:
            for rank in range(self.count):
                process = context.Process(target=work, args=(rank, environment, self.folder, threads, (fn, args)))
                process.start()
                self.processes.append(process)
        finally:
            os.environ.pop(FOLDER)

    def wait(self) -> None:
        """Wait until all have ended; once one has failed, the others soon must."""
        deadline = None
        while len(self.ended) < self.count:
            running = [rank for rank in range(self.count) if rank not in self.ended]
            left = 0.5 if deadline is None else min(0.5, max(0.0, deadline - time.monotonic()))
            connection.wait([self.processes[rank].sentinel for rank in running], left)
            for rank in running:
                if self.processes[rank].exitcode is None:
                    continue
                self.ended.append(rank)
                if self.processes[rank].exitcode == 0 and deadline is None:
                    deadline = time.monotonic() + self.timeout
                elif self.processes[rank].exitcode and not self._failed_before(rank):
                    deadline = time.monotonic() + _REPRIEVE[0]
            if deadline is not None and time.monotonic() >= deadline:
                deadline = self._stop()

    def _failed_before(self, rank: int) -> bool:
        return any(self.processes[other].exitcode for other in self.ended if other != rank)

    def _stop(self) -> float:
        late = not any(self.processes[rank].exitcode for rank in self.ended)
        self.is_late |= late and len(self.ended) < self.count
        for rank, process in enumerate(self.processes):
            if rank not in self.ended and process.is_alive():
                process.kill() if rank in self.stopped else process.terminate()
                self.stopped.add(rank)
        return time.monotonic() + _REPRIEVE[1] - _REPRIEVE[0]

    def error(self) -> BaseException | None:
        """Return what to raise, if anything: what came first."""
        codes = [process.exitcode for process in self.processes]
        if not any(codes):
            return None
        if (self.folder / "unguarded").exists():
            return DistributedError(UNGUARDED)
        if self.is_late:
            return DistributedError(
                f"Process {self.ended[0]} of {self.count} has ended, others went on for more than {self.timeout:g} "
                "seconds. All must make the same calls; if it may take so long, type kt.launch(..., timeout=...)."
            )
        killed = [rank for rank in self.ended if codes[rank] < 0 and rank not in self.stopped]
        if killed and not self.signals:
            return DistributedError(
                f"Process {killed[0]} of {self.count} was killed by {signal.Signals(-codes[killed[0]]).name}. SIGKILL "
                "comes mostly as memory ran out; SIGSEGV and SIGABRT are errors of a library."
            )
        return self._told() or self._silent(codes)

    def _told(self) -> BaseException | None:
        found: list[tuple[int, _Report | None]] = [(rank, self._read(f"error {rank}")) for rank in range(self.count)]
        reports = [(not report.is_first, report.when, rank, report) for rank, report in found if report]
        if not reports:
            return None
        _, _, rank, report = min(reports, key=lambda item: item[:3])
        if report.error is None:
            return DistributedError(f"Process {rank} of {self.count} has failed:\n{report.text}")
        error: BaseException = report.error
        error.__cause__ = _Traceback(report.text)
        return error

    def _silent(self, codes: list[int]) -> BaseException:
        if self.signals:  # which found them before they could say anything
            return KeyboardInterrupt() if self.signals[0] == signal.SIGINT else SystemExit(128 + self.signals[0])
        rank = next(rank for rank in self.ended if codes[rank])
        return DistributedError(
            f"Process {rank} of {self.count} has ended with exit code {codes[rank]}, and without an exception."
        )

    def result(self) -> Any:
        """Return what the function has returned in process 0."""
        return self._read("result")

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return pickle.loads(path.read_bytes()) if path.exists() else None  # written by our own processes, in our folder


def _environment(count: int, port: int, attempt: int, max_restarts: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "TORCHELASTIC_MAX_RESTARTS": str(max_restarts),
        "TORCHELASTIC_RUN_ID": "kerastorch",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _fork(*arguments: Any) -> None:
    gc.freeze()  # it has inherited stores, whose end would wait for threads that it has not
    for number in _FORWARDED:  # and the handlers of the process that launched
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _work(*arguments)


def _work(
    rank: int,
    environment: dict[str, str],
    folder: Path,
    threads: int,
    call: tuple[Callable[..., Any], Sequence[Any]],
) -> None:
    from kerastorch.strategy import failure, processes

    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    _stand_alone()
    torch.set_num_threads(threads or torch.get_num_threads())
    try:
        fn, args = call
        result = fn(*args)
        if rank == 0:
            _leave(folder, "result", _pickled(result))
    except Exception as error:
        note = f"kerastorch: in process {rank} of {environment['WORLD_SIZE']}"
        if note not in getattr(error, "__notes__", []):
            add_note(error, note)
        _report(folder, rank, error, is_first=failure.is_first(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt as error:
        _report(folder, rank, error, is_first=True)
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit as error:
        if error.code not in {None, 0}:
            _report(folder, rank, error, is_first=failure.is_first(error))
        raise
    finally:
        processes.leave()


def _stand_alone() -> None:
    """Get signals from the process that launched only, and end when it is gone."""
    if sys.platform != "win32":
        os.setpgid(0, 0)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel] if parent else [])
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves, and stops
        time.sleep(30)
        os._exit(1)

    threading.Thread(target=watch, name="kerastorch parent", daemon=True).start()


def _pickled(result: Any) -> bytes:
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise DistributedError(
            f"What the function returns cannot be sent to the process that launched it: {error}. Return numbers, "
            "history.history or model.state_dict(), or save it to a file."
        ) from error


def _report(folder: Path, rank: int, error: BaseException, *, is_first: bool) -> None:
    trace = error.__traceback__.tb_next if error.__traceback__ else None  # without the line here
    text = "".join(traceback.format_exception(type(error), error, trace))
    try:
        sent: BaseException | None = pickle.loads(pickle.dumps(error))
    except Exception:  # its class is local, or wants other arguments
        sent = None
    _leave(folder, f"error {rank}", pickle.dumps(_Report(is_first, time.time(), sent, text)))


def _leave(folder: Path, name: str, content: bytes) -> None:
    """Write a file that is whole if it is there."""
    part = folder / f"{name}.part"
    part.write_bytes(content)
    part.replace(folder / name)
