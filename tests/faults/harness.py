"""Runs trainings in processes, kills them, runs them again, and compares what comes out."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from kerastorch import checkpoint
from kerastorch.errors import CheckpointError

TRAINING = Path(__file__).with_name("training.py")
LONGEST = 240.0  # seconds that one process may take


@dataclass
class Outcome:
    """What came of a training that was killed.

    Attributes:
        kills: How often it was.
        restarts: How many processes went on where another had been killed.
        damaged: Files that could not be read after a kill.
        places: The step at which each went on.
    """

    kills: int = 0
    restarts: int = 0
    damaged: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


class Server:
    """A process that has imported all there is to import, and forks one for each training."""

    def __init__(self) -> None:
        sys.path.insert(0, str(TRAINING.parent))
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["training"])

    def start(self, directory: Path, result: Path, options: dict[str, Any]) -> Any:
        """Start a training."""
        import training  # found by the path that was added

        process = self._context.Process(target=training.train, args=(str(directory), str(result), options))
        process.start()
        return process


def killed_until_done(
    server: Server, directory: Path, result: Path, options: dict[str, Any], *, kills: int, seed: int
) -> Outcome:
    """Kill a training at random moments, and run it again until it is complete.

    Args:
        server: Starts processes.
        directory: Of the backup.
        result: The file that a complete training writes.
        options: Of the training.
        kills: How often to kill it, if it lives long enough.
        seed: Of the moments.
    """
    outcome, moments = Outcome(), random.Random(seed)
    while not result.exists():
        process = server.start(directory, result, options)
        if outcome.kills < kills:
            _wait_for_backup(directory, process, outcome)
            process.join(moments.expovariate(1 / 0.12))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                outcome.kills += 1
        process.join(LONGEST)
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        if directory.exists():
            _look_at(directory, outcome)
        outcome.restarts += process.exitcode != 0
    return outcome


def same(one: Path, other: Path) -> list[str]:
    """Return in what two results differ."""
    return list(_differences(torch.load(one, weights_only=True), torch.load(other, weights_only=True), ""))


def run(
    directory: Path, result: Path, options: dict[str, Any], *, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a training as users do: an interpreter of its own, which leads a group of processes."""
    return subprocess.Popen(
        [sys.executable, str(TRAINING), str(directory), str(result), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def group_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes of a group that are alive, the leader first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == process.pid and fields[0] != "Z":
            found.append(int(entry.name))
    return sorted(found, key=lambda pid: (pid != process.pid, pid))


def _wait_for_backup(directory: Path, process: Any, outcome: Outcome) -> None:
    # Most of the time is not to be spent on the imports and the first batch
    newest = _newest(directory)
    end = time.monotonic() + LONGEST
    while process.is_alive() and _newest(directory) == newest and time.monotonic() < end:
        time.sleep(0.002)


def _newest(directory: Path) -> str:
    return max((path.name for path in directory.glob("backup-*.pt")), default="")


def _look_at(directory: Path, outcome: Outcome) -> None:
    outcome.places.append(_newest(directory))
    for path in directory.glob("*.pt"):
        try:
            checkpoint.load(path)
        except CheckpointError as error:
            outcome.damaged.append(f"{path}: {error}")


def _differences(one: Any, other: Any, place: str) -> Any:
    if isinstance(one, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict):
        for key in dict.fromkeys([*one, *other]):
            if key in one and key in other:
                yield from _differences(one[key], other[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}"
    elif not (torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other):
        yield place
