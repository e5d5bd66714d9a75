"""How time and memory grow with parameters, batches, metrics and callbacks, under `fit` and in a loop written by hand.

    python -m benchmarks.cost

Both train the same net on one batch, again and again, with Adam, loss and accuracy; the loop is the optimised one of
`python -m benchmarks`. They take turns; medians of CPU time. It ends with an error if anything that `fit` holds grows
with the number of batches.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import kerastorch as kt
from benchmarks.peers import by_hand
from benchmarks.worker import forget_peak, memory
from benchmarks.workloads import Pair, Work

WIDTH = 16
SIZES = ((1, WIDTH), (4, WIDTH), (16, WIDTH), (64, WIDTH), (4, 256), (4, 1024))  # layers and their width
BYTES_PER_BATCH = 8.0  # a place in a list; a number in it takes 24 more


class Repeated:
    """One batch, so many times: data whose size does not grow with their number.

    Attributes:
        tidy: Whether to collect garbage now and then, so that what only waits for it does not count as held.
    """

    def __init__(self, batch: Pair, times: int) -> None:
        self.batch, self.times, self.tidy = batch, times, False

    def __iter__(self) -> Iterator[Pair]:
        for index in range(self.times):
            if self.tidy and index % 10 == 0:
                gc.collect()
            yield self.batch

    def __len__(self) -> int:
        return self.times


class Listener(kt.Callback):
    """Listens to every batch and does next to nothing."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1


def accuracy(y_pred: Tensor, y_true: Tensor) -> Tensor:
    return (y_pred.argmax(1) == y_true).float().mean()


def net(layers: int, width: int) -> nn.Module:
    """Return a net of `2 * layers` tensors."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(layers - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def batch(width: int) -> Pair:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, width, generator=generator), torch.randint(10, (32,), generator=generator)


def loop(module: nn.Module, batches: Repeated) -> Callable[[], object]:
    return by_hand.trains(Work("steps", module, 32, batches))


def fit(module: nn.Module, batches: Repeated, metrics: int = 1, callbacks: int = 0) -> Callable[[], object]:
    model = kt.Model(module)
    model.compile(nn.CrossEntropyLoss(), "adam", {f"accuracy{index}": accuracy for index in range(metrics)}, "cpu")
    listeners = [Listener() for _ in range(callbacks)]
    return lambda: model.fit(1, batches, verbose=0, callbacks=listeners)


def microseconds(ways: dict[str, Callable[[], object]], steps: int, rounds: int) -> dict[str, float]:
    """Return the median CPU time per step of each way, which take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        gc.collect()
        for name, train in ways.items():
            started = time.process_time()
            train()
            if turn:  # the first is to warm up
                taken[name].append((time.process_time() - started) / steps * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


def megabytes(make: Callable[[nn.Module, Repeated], Callable[[], object]], layers: int, width: int) -> float | None:
    """Return what the peak of memory in a first epoch lies above the net: gradients, state of Adam, the rest."""
    train = make(net(layers, width), Repeated(batch(width), 5))
    gc.collect()
    held = forget_peak()
    train()
    return None if held is None else memory("VmHWM") - held


def bytes_held(train: Callable[[], object], batches: Repeated) -> int:
    """Return the peak of what Python allocates during an epoch, tensors counted as objects."""
    gc.collect()
    gc.freeze()  # what was there before need not be searched at each collection
    batches.tidy = True
    tracemalloc.start()
    train()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batches.tidy = False
    gc.unfreeze()
    return peak


def heading(title: str, *columns: str) -> None:
    print(f"\n{title:28}" + "".join(f"{column:>12}" for column in columns))


def line(title: str, *values: float | None) -> None:
    print(f"{title:28}" + "".join(f"{'-' if value is None else f'{value:.1f}':>12}" for value in values))


def with_parameters(steps: int, rounds: int, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    heading("parameters", "loop us", "fit us", "fit - loop", "loop MB", "fit MB")
    for layers, width in sizes:
        few = max(20, steps * 2 // (layers + 1) // max(1, width // WIDTH))
        batches = Repeated(batch(width), few)
        ways = {"loop": loop(net(layers, width), batches), "fit": fit(net(layers, width), batches)}
        took = microseconds(ways, few, rounds)
        grown = [megabytes(make, layers, width) for make in (loop, fit)]
        elements = sum(parameter.numel() for parameter in net(layers, width).parameters())
        title = f"{2 * layers} tensors, {elements:,}"
        line(title, took["loop"], took["fit"], took["fit"] - took["loop"], *grown)


def with_metrics_and_callbacks(steps: int, rounds: int) -> None:
    batches = Repeated(batch(WIDTH), steps)
    for what in ("metrics", "callbacks"):
        heading(what, "fit us", "each us")
        counts = (0, 1, 4, 16)
        ways = {str(count): fit(net(2, WIDTH), batches, **{what: count}) for count in counts}
        took = microseconds(ways, steps, rounds)
        for count in counts:
            line(f"{count} {what}", took[str(count)], (took[str(count)] - took["0"]) / count if count else None)


def with_batches(counts: tuple[int, ...], rounds: int) -> float:
    """Print a table; return the bytes that `fit` holds for each batch more."""
    heading("batches in an epoch", "loop us", "fit us", "loop kB", "fit kB")
    held = {}
    for count in counts:
        batches = Repeated(batch(WIDTH), count)
        ways = {"loop": loop(net(2, WIDTH), batches), "fit": fit(net(2, WIDTH), batches)}
        took = microseconds(ways, count, rounds)
        held[count] = {name: bytes_held(train, batches) for name, train in ways.items()}
        line(f"{count:,}", took["loop"], took["fit"], *(held[count][name] / 1e3 for name in ways))
    few, many = counts[-2:]
    return (held[many]["fit"] - held[few]["fit"]) / (many - few)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the smallest nets, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread; {parsed.rounds} rounds")
    with_parameters(parsed.steps, parsed.rounds)
    with_metrics_and_callbacks(parsed.steps, parsed.rounds)
    steps = parsed.steps
    grown = with_batches((max(1, steps // 10), steps, steps * 5), parsed.rounds)
    print(f"\n{max(grown, 0):.2f} bytes held for each batch more")
    if grown > BYTES_PER_BATCH:
        raise SystemExit("fit holds something for each batch.")


if __name__ == "__main__":
    main()
