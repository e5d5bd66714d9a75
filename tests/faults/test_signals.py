"""Ctrl-C and SIGTERM, as a terminal, a shell, SLURM and systemd send them: saved, closed, exact afterwards."""

import importlib.util
import itertools
import os
import random
import signal
import time

import harness
import pytest

TRIALS = int(os.environ.get("KERASTORCH_TRIALS", "6"))  # scripts/soak takes more
RECEIVERS = ("group", "every process", "main")
KINDS = [(*kind, 2) for kind in itertools.product(RECEIVERS, (signal.SIGINT, signal.SIGTERM))]
KINDS += [(*kind, 0) for kind in itertools.product(RECEIVERS, (signal.SIGINT, signal.SIGTERM))]
CODES = {signal.SIGINT: {-signal.SIGINT}, signal.SIGTERM: {143}}
if importlib.util.find_spec("optree"):  # it comes with Keras, and makes the code of any uncaught KeyboardInterrupt 1
    CODES[signal.SIGINT].add(1)


@pytest.fixture(scope="module")
def server():
    return harness.Server()


@pytest.fixture(scope="module")
def whole(server, digits, tmp_path_factory):
    """The result of a training that got no signal. With a seed it does not depend on the number of workers."""
    directory = tmp_path_factory.mktemp("whole")
    harness.killed_until_done(server, directory / "backup", directory / "whole.pt", options(digits, 0), kills=0, seed=0)
    return directory / "whole.pt"


def options(digits, workers):
    return {"data": str(digits), "workers": workers, "seed": 0, "save_freq": "epoch", "pause": 0.01, "verbose": 2}


def send(number, receiver, process):
    if receiver == "group":
        os.killpg(process.pid, number)
        return
    for pid in [process.pid] if receiver == "main" else harness.group_of(process):
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # a worker that has just ended
            assert pid != process.pid


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_signal_saves_and_the_training_goes_on(trial, server, whole, digits, tmp_path):
    receiver, number, workers = KINDS[trial % len(KINDS)]
    directory, result = tmp_path / "backup", tmp_path / "result.pt"
    process = harness.run(directory, result, options(digits, workers))
    end = time.monotonic() + harness.LONGEST
    while not list(directory.glob("backup-*.pt")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(random.Random(trial).uniform(0, 0.5))
    send(number, receiver, process)
    output, errors = process.communicate(timeout=60)
    what = f"{number.name} to {receiver}, {workers} workers:\n{output}\n{errors}"
    assert process.returncode in CODES[number], what
    assert "run the same script again to go on" in output, what
    assert "Error" not in errors.replace("KeyboardInterrupt", ""), what
    assert harness.group_of(process) == [], what
    assert not result.exists(), what
    harness.killed_until_done(server, directory, result, options(digits, 2 - workers), kills=0, seed=0)
    assert harness.same(whole, result) == [], what


def test_the_second_signal_ends_at_once_and_harms_nothing(server, whole, digits, tmp_path):
    directory, result = tmp_path / "backup", tmp_path / "result.pt"
    process = harness.run(directory, result, {**options(digits, 2), "pause": 10.0, "save_freq": 1})
    while not list(directory.glob("backup-*.pt")) and process.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert time.monotonic() - began < 9.0
    assert harness.group_of(process) == []
    harness.killed_until_done(server, directory, result, options(digits, 0), kills=0, seed=0)
    assert harness.same(whole, result) == []
