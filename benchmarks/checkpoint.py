"""What it costs to be able to go on: backups of a net of 25 million parameters, and the seed of a batch.

    python -m benchmarks.checkpoint

How long training with Adam waits for a backup at the end of each epoch and at its own end, written at once and in the
background, for epochs of about ten seconds, which are told beside it: while a file is written they may be slower. Then
CPU time per batch of reading a DataLoader with and without `seed=`; and CPU time per step
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
from kerastorch.hooks import Logs

SIDE, BATCH = 2500, 64  # four square layers hold 25 million parameters


def large() -> kt.Model:
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(*(nn.Linear(SIDE, SIDE) for _ in range(4))))
    model.compile("mse", torch.optim.Adam(model.parameters(), lr=1e-4), device="cpu")
    return model


class Timed(BackupAndRestore):
    """Notes how long training waits for it."""

    def on_train_begin(self, logs: Logs) -> None:
        """Begin to take notes."""
        super().on_train_begin(logs)
        self.waits: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Note the wait at the end of an epoch."""
        began = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.waits.append(time.perf_counter() - began)

    def on_train_end(self, logs: Logs) -> None:
        """Note the wait at the end."""
        began = time.perf_counter()
        super().on_train_end(logs)
        self.last_wait = time.perf_counter() - began


def waits(directory: Path, steps: int, epochs: int, rounds: int) -> dict[str, dict[str, float]]:
    """Train without a backup and with both kinds in turns; print and return the medians, in seconds."""
    x = torch.randn(BATCH, SIDE)
    ways = {"no backup": None, "at once": False, "in the background": True}
    table: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in random.sample(list(ways), len(ways)):
            model, background = large(), ways[way]
            model.train_on_batch(x, x)  # the state of Adam is there
            backup = Timed(directory, background=bool(background))
            callbacks = [] if background is None else [backup]
            history = model.fit(epochs, [(x, x)] * steps, callbacks=callbacks, verbose=0)
            waited = backup.waits if callbacks else [0.0] * epochs
            middle = statistics.median(waited[1:])
            end = backup.last_wait if callbacks else 0.0
            table[way].append((statistics.median(history["seconds"]), waited[0], middle, end))
    names = ("epoch", "first wait", "wait", "wait at the end")
    columns = {way: list(zip(*rows, strict=True)) for way, rows in table.items()}
    figures = {way: dict(zip(names, map(statistics.median, each), strict=True)) for way, each in columns.items()}
    print(f"\n{'seconds, 25 million weights':32} {'epoch':>9} {'first wait':>11} {'wait':>7} {'at the end':>11}")
    for way, row in figures.items():
        print(
            f"{way:32} {row['epoch']:9.2f} {row['first wait']:11.3f} {row['wait']:7.3f} {row['wait at the end']:11.3f}"
        )
    return figures


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
    parser.add_argument("--epochs", type=int, default=3, help="of each training with backups")
    parser.add_argument("--seconds", type=float, default=10.0, help="about so long is an epoch of these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    threads = f"{arguments.threads} thread{'' if arguments.threads == 1 else 's'}"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {threads}; {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        x, probe = torch.randn(BATCH, SIDE), large()
        probe.fit(1, [(x, x)] * 3, verbose=0)
        steps = max(1, round(5 * arguments.seconds / probe.fit(1, [(x, x)] * 5, verbose=0)["seconds"][0]))
        small_ones = idle(Path(folder) / "small", 2000)
        figures = {
            "seconds": waits(Path(folder) / "large", steps, arguments.epochs, arguments.rounds),
            "us per batch": measured(reading(1000), 3 * arguments.rounds, 1e6, "us per batch read and trained on"),
            "us per step": measured(small_ones, 3 * arguments.rounds, 1e6, "us per step of a tiny net"),
        }
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, **figures}, indent=2))


if __name__ == "__main__":
    main()
