"""The other end of `benchmarks.worker`: a process for each row, bound to one core, on a pseudo terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers import Row
from benchmarks.worker import OLD_TORCHKERAS

ROOT = Path(__file__).parents[1]
SECONDS = 600  # for one answer


class Failed(Exception):
    """A framework could not do its work."""


def environment(folder: str, torchkeras1: str | None) -> dict[str, str]:
    """Return the environment of all workers: one thread, no accelerator, caches of their own."""
    ours = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TERM": "xterm-256color",
        "MPLBACKEND": "agg",
        "TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "inductor")),
        "XDG_CACHE_HOME": str(Path(folder, "cache")),
    }
    if torchkeras1:
        ours[OLD_TORCHKERAS] = str(Path(torchkeras1).resolve())
    return {**os.environ, **ours}


class Terminal:
    """A pseudo terminal that somebody watches: what is written is read at once, and the end of it kept."""

    def __init__(self) -> None:
        self.own, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))  # rows, columns
        self.end = b""
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while True:
            try:
                written = os.read(self.own, 65536)
            except OSError:  # the last process that had it has left
                written = b""
            if not written:
                os.close(self.own)
                return
            self.end = (self.end + written)[-8192:]

    def handed_over(self) -> None:
        os.close(self.theirs)

    def last_line(self) -> str:
        lines = [line.strip() for line in self.end.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")


def start(row: Row, action: str, settings: Mapping[str, str], folder: str, *handles: int) -> tuple[Any, Terminal]:
    terminal = Terminal()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", action, row.key, *map(str, handles)],
        stdin=subprocess.DEVNULL,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        cwd=folder,  # loggers and checkpoints write where they stand
        env=dict(settings),
        pass_fds=handles,
        start_new_session=True,
    )
    terminal.handed_over()
    return process, terminal


class Worker:
    """A row in a process of its own; ask it for one thing after another."""

    def __init__(self, row: Row, settings: Mapping[str, str], folder: str) -> None:
        self.row = row
        self.folder = tempfile.mkdtemp(dir=folder)
        ours, theirs = socket.socketpair()
        self.process, self.terminal = start(row, "serve", settings, self.folder, theirs.fileno())
        theirs.close()
        ours.settimeout(SECONDS)
        self.socket, self.pipe = ours, ours.makefile("rw", encoding="utf-8")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return its answer.

        Raises:
            Failed: It could not, has died, or takes longer than ten minutes.
        """
        try:
            self.pipe.write(json.dumps({"do": do, **arguments}) + "\n")
            self.pipe.flush()
            line = self.pipe.readline()
        except TimeoutError:
            self.kill()
            raise Failed(f"no answer within {SECONDS} s") from None
        except OSError:
            line = ""
        if not line:
            raise Failed(f"the process has ended: {self.terminal.last_line()}"[:200])
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # with the compilers it may have started

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a dead process was not told
            self.pipe.close()
        self.socket.close()
        self.kill()
        self.process.wait()


def seconds_of_one_step(row: Row, settings: Mapping[str, str], folder: str) -> dict[str, float]:
    """Return CPU and wall time of a fresh process that imports everything and trains one step.

    Raises:
        Failed: It left with an error.
    """
    started = time.perf_counter()
    process, terminal = start(row, "once", settings, tempfile.mkdtemp(dir=folder))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        time.sleep(0.1)  # for the rest of what it has said
        raise Failed(terminal.last_line()[:200])
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": time.perf_counter() - started}
