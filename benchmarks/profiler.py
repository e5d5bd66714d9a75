"""What the profiler costs: CPU time per step of a tiny MLP, where it shows most.

    python -m benchmarks.profiler

The same training without it, once more without it, and with it. They take turns, in an order of its own each round. The
median over the rounds is shown, with the median of its ratio to the first, and the least, with its ratio; that of the
two without is how far the machine can be trusted. Give a path to write the figures as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

import kerastorch as kt
from benchmarks.overhead import Batches, by_hand, microseconds_per_step, net


def by_fit(batches: Batches, callbacks: list[kt.Callback]) -> Callable[[], object]:
    module = net()
    model = kt.Model(module)
    model.compile("cross_entropy", torch.optim.Adam(module.parameters(), lr=1e-3), ["accuracy"], device="cpu")

    def epoch() -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # the table is printed whatever verbose is
            model.fit(1, batches, callbacks=callbacks, verbose=0)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(32, 32, generator=generator), torch.randint(10, (32,), generator=generator))
        for _ in range(arguments.steps)
    ]
    hook = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    ways = {
        "fit, off": by_fit(batches, []),
        "fit, off, once more": by_fit(batches, []),
        "fit, on": by_fit(batches, [kt.callbacks.Profiler()]),
        "fit, an empty hook per batch": by_fit(batches, [hook]),
        "fit, the empty hook timed": by_fit(batches, [hook, kt.callbacks.Profiler()]),
        "loop by hand": by_hand(batches),
    }
    for epoch in ways.values():
        epoch()  # warm up
    rounds = []
    for _ in range(arguments.rounds):
        order = random.sample(list(ways), len(ways))
        rounds.append({name: microseconds_per_step(ways[name], arguments.steps) for name in order})
    medians = {name: statistics.median(values[name] for values in rounds) for name in ways}
    least = {name: min(values[name] for values in rounds) for name in ways}
    ratios = {name: statistics.median(values[name] / values["fit, off"] for values in rounds) for name in ways}
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread; {arguments.rounds} rounds")
    print(f"{'':32} {'us/step':>8} {'ratio':>7} {'least':>7} {'ratio':>7}")
    for name, median in medians.items():
        print(f"{name:32} {median:8.1f} {ratios[name]:7.3f} {least[name]:7.1f} {least[name] / least['fit, off']:7.3f}")
    if arguments.json:
        figures = {"torch": torch.__version__, "us_per_step": medians, "least": least, "ratios": ratios}
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
