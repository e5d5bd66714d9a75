"""The process that one row lives in: it does what it is told through a socket, and times it.

    python -m benchmarks.worker serve ROW SOCKET     (started by `python -m benchmarks`)
    python -m benchmarks.worker once ROW             import everything, train one step, leave

Nothing heavy is imported before the process is bound to its core: torch counts the cores when it is loaded.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers import ROWS, Row

if TYPE_CHECKING:
    from benchmarks.workloads import Job, Size, Work

Answer = dict[str, Any]
OLD_TORCHKERAS = "KERASTORCH_BENCH_TORCHKERAS1"


def bind() -> None:
    """Bind this process to the last of its cores; the first stays for the process that reads the terminals."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])


def find_packages(row: Row) -> None:
    """Let the folder of the old torchkeras come before the packages of the environment."""
    if row.key == "torchkeras1":
        folder = os.environ.get(OLD_TORCHKERAS)
        if not folder:
            raise ModuleNotFoundError("--torchkeras1 does not say where it lies")
        sys.path.insert(0, folder)


def set_up(row: Row, work: Work) -> Job:
    module = importlib.import_module(f"benchmarks.peers.{row.module}")
    return module.prepare(work, **row.options)


class Worker:
    """One row, and the workload that it is at."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.name = ""
        self.work: Work | None = None
        self.job: Job | None = None
        self.result: Any = None

    def hello(self) -> Answer:
        import torch

        torch.set_num_threads(1)
        find_packages(self.row)
        return {"version": version(self.row.distribution)}

    def prepare(self, name: str, size: str) -> Answer:
        """Make data and net and hand them to the framework; answer what the untrained net gives."""
        from benchmarks import workloads

        self.drop()
        self.work = workloads.make(name, workloads.SIZES[size])
        trains = self.work.kind in ("steps", "epoch")
        before = workloads.outcome(self.work, self.work.net, None) if trains else {}
        self.job = set_up(self.row, self.work)
        return {"before": before}

    def run(self) -> Answer:
        gc.collect()
        held = forget_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        self.result = self.job.run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        growth = memory("VmHWM") - held if held is not None else None
        return {"cpu": cpu, "wall": wall, "growth": growth}

    def check(self) -> Answer:
        from benchmarks import workloads

        return {"outcome": workloads.outcome(self.work, self.job.forward, self.result)}

    def drop(self) -> Answer:
        self.work = self.job = self.result = None
        gc.collect()
        return {}


def version(distribution: str) -> str:
    if distribution == "kerastorch":
        import kerastorch

        return kerastorch.__version__
    return importlib.metadata.version(distribution)


def forget_peak() -> float | None:
    """Let the peak of memory begin anew; return the MB held now, None where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return memory("VmRSS")
    except OSError:
        return None


def memory(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def guarded(action: Callable[..., Answer], **arguments: Any) -> Answer:
    """Return what the action answers, or why it failed; the whole trace goes to the terminal of the process."""
    try:
        return action(**arguments)
    except BaseException as error:
        traceback.print_exc()
        text = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {text[0] if text else ''}"[:200]}


def serve(row: Row, connection: socket.socket) -> None:
    worker = Worker(row)
    actions = {name: getattr(worker, name) for name in ("hello", "prepare", "run", "check", "drop")}
    with connection, connection.makefile("rw", encoding="utf-8") as pipe:
        for line in pipe:
            request = json.loads(line)
            answer = guarded(actions[request.pop("do")], **request)
            pipe.write(json.dumps(answer) + "\n")
            pipe.flush()


def once(row: Row) -> None:
    """Train one step, as a short program would."""
    find_packages(row)
    import torch

    from benchmarks import workloads

    torch.set_num_threads(1)
    one: Size = workloads.Size(steps=1, images=1, rows=32, held_out=32)
    set_up(row, workloads.make("step", one)).run()


def main() -> None:
    bind()
    action, key, *rest = sys.argv[1:]
    if action == "once":
        once(ROWS[key])
    else:
        serve(ROWS[key], socket.socket(fileno=int(rest[0])))


if __name__ == "__main__":
    main()
