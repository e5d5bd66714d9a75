"""What `fit` costs over a loop written by hand: CPU time per step of a tiny MLP, where overhead shows most.

    python -m benchmarks.overhead

Both train the same net on the same ready batches with the same Adam, loss and accuracy, the sums kept as tensors. They
take turns; the median over the rounds is compared. Give a path to write the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import kerastorch as kt

Batches = list[tuple[Tensor, Tensor]]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


def accuracy(y_pred: Tensor, y_true: Tensor) -> Tensor:
    return (y_pred.argmax(1) == y_true).float().mean()


def by_hand(batches: Batches) -> Callable[[], object]:
    module, loss_function = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def epoch() -> tuple[float, float]:
        loss_sum = torch.zeros((), dtype=torch.float64)
        accuracy_sum = torch.zeros((), dtype=torch.float64)
        samples = 0
        module.train()
        for x, y in batches:
            output = module(x)
            loss = loss_function(output, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(x)
            accuracy_sum += accuracy(output.detach(), y) * len(x)
            samples += len(x)
        return loss_sum.item() / samples, accuracy_sum.item() / samples

    return epoch


def by_fit(batches: Batches, metric: object, verbose: object = 0) -> Callable[[], object]:
    module = net()
    model = kt.Model(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    model.compile(nn.CrossEntropyLoss(), optimizer, {"accuracy": metric}, device="cpu")
    return lambda: model.fit(1, batches, verbose=verbose)


def microseconds_per_step(epoch: Callable[[], object], steps: int) -> float:
    started = time.process_time()
    epoch()
    return (time.process_time() - started) / steps * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(32, 32, generator=generator), torch.randint(10, (32,), generator=generator))
        for _ in range(arguments.steps)
    ]
    ways = {
        "loop by hand": by_hand(batches),
        "fit, the same metric function": by_fit(batches, accuracy),
        "fit, metrics=['accuracy']": by_fit(batches, "accuracy"),
    }
    for epoch in ways.values():
        epoch()  # warm up
    rounds = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, epoch in ways.items():
            rounds[name].append(microseconds_per_step(epoch, arguments.steps))
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread; {arguments.rounds} rounds")
    print(f"{'':32} {'us/step':>8} {'ratio':>6}")
    for name, median in medians.items():
        print(f"{name:32} {median:8.0f} {median / medians['loop by hand']:6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "us_per_step": medians}, indent=2))


if __name__ == "__main__":
    main()
