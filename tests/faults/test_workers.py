"""A worker of the loader is killed, as for lack of memory: the training goes on with the same numbers."""

import os
import random
import signal
import time
from pathlib import Path

import harness
import pytest

KILLS = 10


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_are_killed_are_replaced(persistent, digits, tmp_path):
    server = harness.Server()
    options = {"data": str(digits), "workers": 2, "seed": 0, "persistent": persistent, "save_freq": "epoch"}
    whole, result = tmp_path / "whole.pt", tmp_path / "result.pt"
    harness.killed_until_done(server, tmp_path / "never", whole, options, kills=0, seed=0)
    process = server.start(tmp_path / "backup", result, {**options, "heal_workers": 3 * KILLS, "pause": 0.05})
    killed, moments = 0, random.Random(0)
    while process.is_alive() and killed < KILLS // 2:
        time.sleep(moments.uniform(0.1, 0.5))
        workers = children(process.pid)
        if workers:
            os.kill(moments.choice(workers), signal.SIGKILL)
            killed += 1
    process.join(harness.LONGEST)
    assert process.exitcode == 0
    assert killed == KILLS // 2
    assert harness.same(whole, result) == []


def children(pid):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == pid and fields[0] != "Z" and b"resource_tracker" not in command:
            found.append(int(entry.name))
    return found
