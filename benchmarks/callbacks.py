"""What callbacks and the progress bar cost over `fit` without them, per step.

    python -m benchmarks.callbacks

Ten callbacks that listen to every batch and read nothing, and the bar, which draws to a pseudo-terminal that a thread
reads empty; the net of the second is busy for
0.3 ms a step. CPU time of the thread that trains; they take turns; the median over the
rounds is compared. Give a path to write the figures as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import pty
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import kerastorch as kt

SECONDS = 3e-4  # a step of the second table


class Listener(kt.Callback):
    """Hears every batch, and reads nothing."""

    def on_train_batch_begin(self, batch, logs):
        """Do nothing."""

    def on_train_batch_end(self, batch, logs):
        """Do nothing."""


class Busy(nn.Module):
    """A net that takes a certain time, spent at work; 0 for none."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """Take the time."""
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return self.linear(x)


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Let stdout be a terminal for a while."""
    ours, theirs = pty.openpty()

    def drain() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 65536):
                pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    before, sys.stdout = sys.stdout, os.fdopen(theirs, "w")
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stdout = before
        reader.join()
        os.close(ours)


def microseconds(model: kt.Model, batches: list, **options: object) -> float:
    with terminal():
        started = time.thread_time()
        model.fit(1, batches, **options)
        return (time.thread_time() - started) / len(batches) * 1e6


def medians(seconds: float, ways: dict[str, dict], steps: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = kt.Model(Busy(seconds))
    model.compile("cross_entropy", "sgd", ["accuracy"], device="cpu")
    batches = [(torch.randn(4, 8), torch.randint(2, (4,))) for _ in range(steps)]
    found = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        for name, options in ways.items():
            value = microseconds(model, batches, **options)
            if turn:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TERM"] = "xterm-256color"
    size = {"steps": arguments.steps, "rounds": arguments.rounds}
    listeners = {"callbacks": [Listener() for _ in range(10)], "verbose": 0}
    listening = medians(0.0, {"no callback": {"verbose": 0}, "ten that listen": listeners}, **size)
    showing = medians(SECONDS, {"no bar": {"verbose": 0}, "with the bar": {"verbose": "bar"}}, **size)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread; {arguments.rounds} rounds")
    print(f"{'':20} {'us/step':>8}")
    for name, median in (listening | showing).items():
        print(f"{name:20} {median:8.1f}")
    added = listening["ten that listen"] - listening["no callback"]
    share = showing["with the bar"] / showing["no bar"] - 1
    print(f"ten callbacks add {added:.1f} us a step (goal: less than 5); the bar {share:.2%} (goal: less than 3 %)")
    if arguments.json:
        figures = {"torch": torch.__version__, "us_per_step": listening | showing}
        arguments.json.write_text(json.dumps(figures | {"ten_add_us": added, "bar_adds_share": share}, indent=2))


if __name__ == "__main__":
    main()
