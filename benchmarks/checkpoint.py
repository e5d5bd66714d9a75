"""What it costs to be able to go on: backups of a net of 25 million parameters, and the seed of a batch.

    python -m benchmarks.checkpoint

Wall time of training with Adam without a backup, with one at the end of each epoch, and with one in the background, for
epochs of about ten seconds; CPU time per batch of reading a DataLoader with and without `seed=`; and CPU time per step
of a tiny net with and without a `BackupAndRestore` that has nothing to write. They take turns, in an order of its own
each round; medians of the rounds and of their ratios are shown. Give a path to write the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kerastorch as kt
from benchmarks.overhead import net
from kerastorch.callbacks import BackupAndRestore

SIDE, BATCH = 2500, 64  # four square layers hold 25 million parameters


def large() -> kt.Model:
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(*(nn.Linear(SIDE, SIDE) for _ in range(4))))
    model.compile("mse", torch.optim.Adam(model.parameters(), lr=1e-4), device="cpu")
    return model


def backups(directory: Path, steps: int, epochs: int) -> dict[str, Callable[[], float]]:
    """Return trainings that return their seconds per epoch."""
    x = torch.randn(BATCH, SIDE)
    batches = [(x, x)] * steps

    def seconds(make: Callable[[], list[kt.Callback]]) -> Callable[[], float]:
        def train() -> float:
            model = large()
            model.train_on_batch(x, x)  # the state of Adam is there
            began = time.perf_counter()
            model.fit(epochs, batches, callbacks=make(), verbose=0)
            return (time.perf_counter() - began) / epochs

        return train

    return {
        "no backup": seconds(list),
        "no backup, once more": seconds(list),
        "at the end of each epoch": seconds(lambda: [BackupAndRestore(directory)]),
        "in the background": seconds(lambda: [BackupAndRestore(directory, background=True)]),
    }


def reading(batches: int) -> dict[str, Callable[[], float]]:
    """Return evaluations of a DataLoader that return CPU seconds per batch."""
    data = TensorDataset(torch.randn(batches * 32, 32), torch.randint(10, (batches * 32,)))

    def seconds(seed: int | None) -> Callable[[], float]:
        model = kt.Model(net())
        model.compile("cross_entropy", "sgd", device="cpu")
        loader = DataLoader(data, 32, shuffle=True)

        def train() -> float:
            began = time.process_time()
            model.fit(1, loader, seed=seed, verbose=0)
            return (time.process_time() - began) / batches

        return train

    return {"without a seed": seconds(None), "without a seed, once more": seconds(None), "seed=0": seconds(0)}


def idle(directory: Path, batches: int) -> dict[str, Callable[[], float]]:
    """Return trainings that return CPU seconds per step."""
    data: list[Any] = [(torch.randn(32, 32), torch.randint(10, (32,)))] * batches

    def seconds(make: Callable[[], list[kt.Callback]]) -> Callable[[], float]:
        model = kt.Model(net())
        model.compile("cross_entropy", "adam", device="cpu")

        def train() -> float:
            began = time.process_time()
            model.fit(1, data, callbacks=make(), verbose=0)
            return (time.process_time() - began) / batches

        return train

    return {
        "no backup": seconds(list),
        "no backup, once more": seconds(list),
        "every 10 minutes": seconds(lambda: [BackupAndRestore(directory, "10min")]),
    }


def measured(ways: dict[str, Callable[[], float]], rounds: int, unit: float, name: str) -> dict[str, dict[str, float]]:
    """Let ways take turns; print and return median and ratio to the first of each."""
    first = next(iter(ways))
    for way in ways.values():
        way()  # warm up
    table = []
    for _ in range(rounds):
        order = random.sample(list(ways), len(ways))
        table.append({way: ways[way]() for way in order})
    print(f"\n{name:32} {'median':>9} {'ratio':>7} {'more':>9}")
    figures = {}
    for way in ways:
        median = statistics.median(row[way] for row in table) * unit
        ratio = statistics.median(row[way] / row[first] for row in table)
        more = statistics.median(row[way] - row[first] for row in table) * unit
        figures[way] = {"median": median, "ratio": ratio, "more": more}
        print(f"{way:32} {median:9.3f} {ratio:7.3f} {more:9.3f}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="of each training with backups")
    parser.add_argument("--seconds", type=float, default=10.0, help="about so long is an epoch of these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    threads = f"{arguments.threads} thread{'' if arguments.threads == 1 else 's'}"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {threads}; {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        probe = backups(Path(folder), 5, 1)["no backup"]
        probe()
        steps = max(1, round(5 * arguments.seconds / probe()))
        large_ones = backups(Path(folder) / "large", steps, arguments.epochs)
        small_ones = idle(Path(folder) / "small", 2000)
        figures = {
            "seconds per epoch": measured(large_ones, arguments.rounds, 1.0, "s per epoch, 25 million weights"),
            "us per batch": measured(reading(1000), 3 * arguments.rounds, 1e6, "us per batch read and trained on"),
            "us per step": measured(small_ones, 3 * arguments.rounds, 1e6, "us per step of a tiny net"),
        }
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, **figures}, indent=2))


if __name__ == "__main__":
    main()
