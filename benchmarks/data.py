"""What data in memory cost: an epoch over 60,000 rows of 784 floats, cut by slices or read by a DataLoader.

    python -m benchmarks.data

`fit` and loops written by hand train the same MLP (784-128-10, batches of 128, shuffled, Adam, loss and accuracy);
`fit` trains it with fused Adam as well, and one linear layer: the less there is to compute, the more data weigh. Then
they evaluate and predict 10,000 rows. They take turns; medians over the rounds. Compare the CPU time where others use
the machine. On Linux also what an epoch adds to the peak of memory, each way in a process of its own, and what outputs
do that are gathered.

Then data are only read: those rows; and 2,000 samples that take some CPU time each, as JPEG files do, in this process,
by workers that begin anew each epoch and by workers that stay. Compare the wall time there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kerastorch as kt
from kerastorch.data import adapt
from kerastorch.gathered import Gathered
from kerastorch.tree import concatenate

BATCH_SIZE = 128
Pair = tuple[Tensor, Tensor]
Ways = dict[str, Callable[[], object]]
Figures = dict[str, dict[str, float]]


def make_data(rows: int) -> Pair:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 784, generator=generator), torch.randint(10, (rows,), generator=generator)


def make_net(*, linear: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if linear:
        return nn.Linear(784, 10)
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def make_model(*, fused: bool | None = None, linear: bool = False) -> kt.Model:
    net = make_net(linear=linear)
    model = kt.Model(net)
    model.compile(nn.CrossEntropyLoss(), torch.optim.Adam(net.parameters(), fused=fused), ["accuracy"], device="cpu")
    return model


def loader(data: Pair, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*data), BATCH_SIZE, shuffle=shuffle)


def slices(data: Pair, *, shuffle: bool) -> Iterable[Pair]:
    x, y = data
    if not shuffle:
        return zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True)
    order = torch.randperm(len(x)).split(BATCH_SIZE)
    return ((x.index_select(0, chosen), y.index_select(0, chosen)) for chosen in order)


def right(output: Tensor, y: Tensor) -> Tensor:
    return (output.argmax(1) == y).sum()


def trains_by_hand(batches: Callable[[], Iterable[Pair]], rows: int) -> Callable[[], object]:
    net, loss_function = make_net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters())

    def epoch() -> tuple[float, float]:
        loss_sum, right_sum = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        net.train()
        for x, y in batches():
            output = net(x)
            loss = loss_function(output, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(x)
            right_sum += right(output.detach(), y)
        return loss_sum.item() / rows, right_sum.item() / rows

    return epoch


@torch.no_grad()
def evaluates_by_hand(net: nn.Module, batches: Iterable[Pair], rows: int) -> tuple[float, float]:
    loss_function = nn.CrossEntropyLoss()
    loss_sum, right_sum = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    net.eval()
    for x, y in batches:
        output = net(x)
        loss_sum += loss_function(output, y) * len(x)
        right_sum += right(output, y)
    return loss_sum.item() / rows, right_sum.item() / rows


@torch.no_grad()
def predicts_by_hand(net: nn.Module, batches: Iterable[Pair]) -> Tensor:
    net.eval()
    return torch.cat([net(x) for x, _ in batches])


def ways_to_train(data: Pair) -> Ways:
    rows = len(data[0])
    by_slices, by_loader, read = make_model(), make_model(), loader(data, shuffle=True)
    fused_by_slices, fused_by_loader = make_model(fused=True), make_model(fused=True)
    linear_by_slices, linear_by_loader = make_model(linear=True), make_model(linear=True)
    return {
        "fit(1, (x, y))": lambda: by_slices.fit(1, data, batch_size=BATCH_SIZE, verbose=0),
        "fit(1, DataLoader)": lambda: by_loader.fit(1, read, verbose=0),
        "by hand, slices": trains_by_hand(lambda: slices(data, shuffle=True), rows),
        "by hand, DataLoader": trains_by_hand(lambda: read, rows),
        "fit(1, (x, y)), fused Adam": lambda: fused_by_slices.fit(1, data, batch_size=BATCH_SIZE, verbose=0),
        "fit(1, DataLoader), fused Adam": lambda: fused_by_loader.fit(1, read, verbose=0),
        "fit(1, (x, y)), linear": lambda: linear_by_slices.fit(1, data, batch_size=BATCH_SIZE, verbose=0),
        "fit(1, DataLoader), linear": lambda: linear_by_loader.fit(1, read, verbose=0),
    }


def ways_to_evaluate(data: Pair) -> Ways:
    model, net, read, rows = make_model(), make_net(), loader(data, shuffle=False), len(data[0])
    return {
        "evaluate((x, y))": lambda: model.evaluate(data, batch_size=BATCH_SIZE),
        "evaluate(DataLoader)": lambda: model.evaluate(read),
        "by hand, slices": lambda: evaluates_by_hand(net, slices(data, shuffle=False), rows),
        "by hand, DataLoader": lambda: evaluates_by_hand(net, read, rows),
    }


def ways_to_predict(data: Pair) -> Ways:
    model, net, read = make_model(), make_net(), loader(data, shuffle=False)
    return {
        "predict((x, y))": lambda: model.predict(data, batch_size=BATCH_SIZE),
        "predict(DataLoader)": lambda: model.predict(read),
        "by hand, slices": lambda: predicts_by_hand(net, slices(data, shuffle=False)),
        "by hand, DataLoader": lambda: predicts_by_hand(net, read),
    }


class Images(Dataset[Pair]):
    """Samples that cost what it takes to sort so many numbers: 300 us for 10,000."""

    def __init__(self, count: int, work: int) -> None:
        self._count = count
        self._work = torch.rand(work)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pair:
        return self._work.sort().values[:3072].view(3, 32, 32), torch.tensor(index % 10)


def reads(data: object, **options: object) -> Callable[[], object]:
    """Read an epoch as `fit` does, and keep nothing."""
    source = adapt(data, name="data", training=True, **options)  # type: ignore[arg-type]
    return lambda: sum(batch.size for batch in source.batches(0))


def ways_to_read(data: Pair) -> Ways:
    plain = loader(data, shuffle=True)
    return {
        "plain DataLoader(TensorDataset)": lambda: sum(len(x) for x, _ in plain),
        "fit: DataLoader(TensorDataset)": reads(plain),
        "fit: (x, y)": reads(data, batch_size=BATCH_SIZE),
    }


def ways_to_read_images(count: int, work: int) -> Ways:
    images = Images(count, work)
    ways = {f"dataset, num_workers={number}": reads(images, num_workers=number) for number in (0, 1, 2)}
    chosen = adapt(images, name="data", training=True, seed=0)
    name = f"dataset, seed=0: {getattr(chosen.loader, 'num_workers', 0)} chosen"
    stay = DataLoader(images, 32, shuffle=True, num_workers=1, persistent_workers=True)
    return {**ways, name: reads(images, seed=0), "1 worker that stays": reads(stay)}


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU time and wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3


def compare(ways: Ways, rounds: int) -> Figures:
    """Print and return medians; ratios are of CPU time, over the first way."""
    for work in ways.values():
        work()  # warm up
    turns = [{name: milliseconds(work) for name, work in ways.items()} for _ in range(rounds)]
    cpu, wall = ({name: statistics.median(turn[name][kind] for turn in turns) for name in ways} for kind in (0, 1))
    first = next(iter(cpu.values()))
    print(f"\n{'':32} {'CPU ms':>8} {'wall ms':>8} {'ratio':>6}")
    for name in ways:
        print(f"{name:32} {cpu[name]:8.1f} {wall[name]:8.1f} {cpu[name] / first:6.2f}")
    return {name: {"cpu_ms": cpu[name], "wall_ms": wall[name]} for name in ways}


def growth(name: str, rows: int) -> float:
    """Return how many MB the peak of memory in a first epoch lies above what is held before it.

    A few batches before it have loaded what is loaded once: `torch.optim` alone imports 150 MB.
    """
    torch.set_num_threads(1)
    x, y = make_data(rows)
    ways_to_train((x[: 8 * BATCH_SIZE], y[: 8 * BATCH_SIZE]))[name]()
    work = ways_to_train((x, y))[name]
    # ru_maxrss would begin at what the parent process had, and a peak before the epoch would hide one inside it
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what is held now
    before = peak()
    work()
    return peak() - before


def growth_of_outputs(name: str, rows: int) -> float:
    """Return how many MB the peak lies above the outputs themselves, where batches of them are joined."""
    sizes, width = [BATCH_SIZE] * (rows // BATCH_SIZE), 1000
    gathered, kept = Gathered(sum(sizes)), list[Tensor]()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    for size in sizes:
        (gathered.add if name == "gathered" else kept.append)(torch.ones(size, width))
    result = gathered.result() if name == "gathered" else concatenate(kept)
    return peak() - before - result.nbytes / 2**20


def peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def compare_memory(grows: Callable[[str, int], float], names: Iterable[str], rows: int) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        growths = pool.starmap(grows, [(name, rows) for name in names], chunksize=1)
    print(f"\n{'':32} {'MB more':>8}")
    for name, megabytes in zip(names, growths, strict=True):
        print(f"{name:32} {megabytes:8.1f}")
    return dict(zip(names, growths, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=60_000, help="to train on; a sixth of them to evaluate")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread; {arguments.rounds} rounds")
    data, fewer = make_data(arguments.rows), make_data(arguments.rows // 6)
    training = ways_to_train(data)
    figures: dict[str, object] = {"torch": torch.__version__, "fit": compare(training, arguments.rounds)}
    figures["evaluate"] = compare(ways_to_evaluate(fewer), arguments.rounds)
    figures["predict"] = compare(ways_to_predict(fewer), arguments.rounds)
    if os.access("/proc/self/clear_refs", os.W_OK):
        figures["mb_more"] = compare_memory(growth, list(training), arguments.rows)
        figures["outputs"] = compare_memory(growth_of_outputs, ["gathered", "joined at the end"], arguments.rows // 6)
    figures["read"] = compare(ways_to_read(data), arguments.rounds)
    figures["images"] = compare(ways_to_read_images(arguments.rows // 30, 10_000), arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
