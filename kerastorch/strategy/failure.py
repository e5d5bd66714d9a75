"""What processes that train together tell each other when one of them fails.

The first to fail shows its error; all others end with one line. They learn of it from the store that all of them reach:
whoever dies of an exception leaves word there first, and a thread in each of the others looks for it twice a second.
So also a process that waits for ever in a collective comes to an end.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from kerastorch import signals
from kerastorch.errors import DistributedError, add_note
from kerastorch.strategy.group import Group

GRACE = 4.0  # seconds that a process may live on when another has failed
LOOK = 0.5  # seconds between two looks into the store
REPLY = 3 * LOOK  # seconds that others may take to say where they are, or that they have failed

_CLOSED = r"Connection closed by peer|Connection reset|Broken pipe|remote process exited|Connection refused"
_LATE = r"Timed out waiting|[Tt]imeout"
_UNLIKE = r"preamble|Message truncated|Detected mismatch"
_BROKEN = rf"gloo/|NCCL|{_CLOSED}|Timed out waiting \d+ms|Application timeout"


class Alarm:
    """The word that a process has failed, left for all others, and a look for it twice a second.

    Args:
        group: The processes; all of them make one at the same time.
    """

    def __init__(self, group: Group) -> None:
        self.base, self._rank, self._size, self._process = _get_default_store(), group.rank, group.size, os.getpid()
        store = self.base.clone() if hasattr(self.base, "clone") else self.base  # torch 2.6 has none: they take turns
        self._store = PrefixStore(group.of_main(uuid.uuid4().hex), store)  # torchrun keeps its store over restarts
        self._over = threading.Event()
        self._looker = threading.Thread(target=self._look, name="kerastorch alarm", daemon=True)
        self._main = threading.main_thread().ident
        self._before = sys.excepthook
        sys.excepthook = self._on_death
        self._looker.start()

    def raised(self, line: str = "") -> tuple[int, str] | None:
        """Return who failed first and of what; with a line, this process fails now. None if nobody has, or can say."""
        with suppress(RuntimeError):  # the store has gone with whoever kept it
            if line:
                word = self._store.compare_set("failed", "", f"{self._rank} {line}")
            elif self._store.check(["failed"]):
                word = self._store.get("failed")
            else:
                return None
            rank, _, text = bytes(word).decode().partition(" ")
            self._store.set(f"knows {self._rank}", "")
            return int(rank), text
        return None

    def awaited(self) -> tuple[int, str] | None:
        """Return who failed first, or None if nobody says so for a while, or somebody that it has ended."""
        deadline = time.monotonic() + REPLY
        while (first := self.raised()) is None and not self.ended() and time.monotonic() < deadline:
            time.sleep(LOOK / 10)
        return first

    def places(self) -> list[str]:
        """Ask every process where it is, and return what each says within a while."""
        with suppress(RuntimeError):
            self._store.set("where", "")
            self._store.set(f"place {self._rank}", _place(sys._getframe()))
            self._wait_for("place", REPLY)
            keys = [f"place {rank}" for rank in range(self._size)]
            said = [self._store.get(key).decode() if self._store.check([key]) else "does not answer" for key in keys]
            return [f"process {rank} {text}" for rank, text in enumerate(said)]
        return []

    def ended(self) -> list[int]:
        """Return the processes that have come to their end without an exception."""
        with suppress(RuntimeError):
            return [rank for rank in range(self._size) if self._store.check([f"ended {rank}"])]
        return []

    def stop(self) -> bool:
        """Look no more, as this process comes to its end. Return whether one has failed; if not, say that it ended."""
        if os.getpid() != self._process:
            return False
        failed = self._over.is_set() or self.raised() is not None
        if not failed:
            with suppress(RuntimeError):
                self._store.set(f"ended {self._rank}", "")
        self._over.set()
        self._looker.join(REPLY)
        if sys.excepthook == self._on_death:
            sys.excepthook = self._before
        return failed

    def fails(self, error: BaseException) -> bool:
        """Note that this process dies of an error. Return whether it is the first, whose error is to be shown."""
        self._over.set()
        line = last_line(error)
        rank, text = self.raised(line) or (self._rank, line)
        if rank == self._rank:
            _record(line, time.time())
            return True
        _record(f"process {rank} has failed: {text}", time.time() + 1)  # after the first, whose whole seconds count
        self._end_too(rank, text)
        return False

    def _on_death(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if os.getpid() != self._process:  # a fork's affair
            self._before(kind, error, trace)
            return
        if self.fails(error):
            self._before(kind, error, trace)
            sys.stderr.flush()
        if self._rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            with suppress(RuntimeError):  # the store ends with this process: let all others look first
                self._wait_for("knows", 2 * REPLY)

    def _wait_for(self, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        keys = [f"{what} {rank}" for rank in range(self._size)]
        while not self._store.check(keys) and time.monotonic() < deadline:
            time.sleep(LOOK / 10)

    def _look(self) -> None:
        first, asked = None, False
        with suppress(RuntimeError):
            while first is None and not self._over.wait(LOOK):
                if not asked and self._store.check(["where"]):
                    asked = True
                    self._store.set(f"place {self._rank}", _place(sys._current_frames().get(self._main or 0)))
                first = self.raised()
        if first is None:
            return
        signals.stand_down()
        if not self._over.wait(GRACE):
            self._end_too(*first)
            os._exit(1)  # the main thread waits in a collective, where no exception reaches it

    def _end_too(self, rank: int, text: str) -> None:
        line = f"kerastorch: process {self._rank} of {self._size} ends, as process {rank} has failed: {text}\n"
        with suppress(OSError):
            os.write(2, line.encode(errors="replace"))  # in one piece, as others write at the same time


_alarms: list[Alarm] = []  # one, since there is one default group


def alarm(group: Group) -> Alarm:
    """Return the alarm of the default process group; the first call is collective."""
    if not _alarms or _alarms[0].base is not _get_default_store():
        stop()
        _alarms.append(Alarm(group))
    return _alarms[0]


def stop() -> bool:
    """End the alarm: this process comes to its end, or leaves the group. Return whether a process has failed."""
    failed = False
    while _alarms:
        failed |= _alarms.pop().stop()
    return failed


def is_first(error: BaseException) -> bool:
    """Note that this process dies of an error. Return whether that is to be shown: no other has failed before."""
    return _alarms[0].fails(error) if _alarms else True


def report(group: Group, error: BaseException) -> BaseException:
    """Return what to raise for an error in this process: the same with its process named, or what lies behind it.

    Args:
        group: The processes.
        error: What was raised. A broken collective is explained: who has failed, or where each process is.
    """
    if group.size == 1 or not isinstance(error, Exception):
        return error
    if isinstance(error, RuntimeError) and not isinstance(error, DistributedError) and is_broken(error):
        told = explain(group, error)
        told.__cause__ = error
        error = told
    note = f"kerastorch: in process {group.rank} of {group.size}"
    if note not in getattr(error, "__notes__", []):
        add_note(error, note)
    return error


def is_broken(error: BaseException) -> bool:
    """Whether an error says that a collective could not be done."""
    return isinstance(error, dist.DistError) or re.search(_BROKEN, str(error)) is not None


def explain(group: Group, error: BaseException) -> DistributedError:
    """Return what lies behind an error of a collective. Afterwards SIGTERM ends this process at once."""
    signals.stand_down()
    text, bell = str(error), alarm(group) if _alarms else None
    first = bell.awaited() if bell else None
    if first is not None:
        return DistributedError(f"Process {first[0]} of {group.size} has failed: {first[1]}")
    ended = bell.ended() if bell else []
    if ended:
        return DistributedError(
            f"Process {' and '.join(map(str, ended))} of {group.size} has come to its end, and process {group.rank} "
            "still waits for it. All processes must make the same calls of fit, evaluate, predict and save; what only "
            "one is to do, such as printing, must call none of them."
        )
    if re.search(_CLOSED, text):
        return DistributedError(
            f"One of {group.size} processes is gone, and has not said why: it was killed, mostly as memory ran out, or "
            "it crashed. The launcher names it, with its exit code or signal."
        )
    if re.search(_UNLIKE, text):
        return DistributedError(
            f"The {group.size} processes do not do the same: what they sent each other differs in size ({text}). All "
            "must make the same calls in the same order."
        )
    if re.search(_LATE, text):
        return DistributedError(_late(group, bell))
    return DistributedError(f"The {group.size} processes could not talk to each other: {text}")


def last_line(error: BaseException) -> str:
    """Return an error in one line, as it ends a traceback."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _late(group: Group, bell: Alarm | None) -> str:
    places = "; ".join(bell.places()) if bell else ""
    return (
        f"Process {group.rank} of {group.size} has waited for the others until the time was up. They do not do the "
        f"same, or one takes very long{': ' if places else ''}{places}. All must make the same calls of fit, evaluate, "
        "predict and save, and as many batches; for slow ones type kt.DDP(timeout=3600) in compile(strategy=...)."
    )


def _place(frame: FrameType | None) -> str:
    """Say where a stack is: the innermost line that is neither torch's nor ours."""
    ours, inner = (f"{os.sep}torch{os.sep}", f"{os.sep}kerastorch{os.sep}", f"{os.sep}lib{os.sep}python"), frame
    while frame is not None and any(part in frame.f_code.co_filename for part in ours):
        frame = frame.f_back
    if frame is None or inner is None:
        return "is at its end"
    within = f", within {inner.f_code.co_name}" if inner is not frame else ""
    return f"is at {Path(frame.f_code.co_filename).name}, line {frame.f_lineno}, in {frame.f_code.co_name}{within}"


def _record(line: str, when: float) -> None:
    """Write the line that torchrun shows in its summary; the earliest counts as the cause."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and not Path(file).exists():
        content = {"message": {"message": line, "extraInfo": {"py_callstack": line, "timestamp": str(int(when))}}}
        with suppress(OSError):
            Path(file).write_text(json.dumps(content), encoding="utf-8")
