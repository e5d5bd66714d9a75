"""What `fit` costs in several processes, over a loop with DistributedDataParallel that is written by hand.

    python -m benchmarks.distributed

It starts the processes itself. Both ways run in the same processes on the same data, and take turns; the second row is
the first once more, so it says how far rounds differ by themselves. Compared are the medians over the rounds of wall
time, since processes wait for one another, and beside it the CPU time of a process, which other work on the machine
disturbs less; `its epoch` leaves out what a call of `fit` does once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import kerastorch as kt
from benchmarks.facts import machine
from benchmarks.workloads import Pair, cnn, labelled, mlp

BATCH = 64  # samples of each process in a step
NETS = {"MLP 64-128-10": (lambda: mlp(64, 128), (64,)), "CNN of MNIST size": (cnn, (1, 28, 28))}
BY_HAND = "DDP loop by hand"
SECONDS = 600  # for all that one start of processes does

Times = tuple[float, float]  # wall, CPU
Epoch = Callable[[], Times]
Round = dict[str, Times]


def together(size: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `work(*args)` in so many processes with gloo and one thread each; return what each returned, by rank.

    Raises:
        RuntimeError: One of them failed; what it printed is above.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_one, args=(answers, (rank, size, port), work, args), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(_answers(answers, processes))
    finally:
        for process in processes:
            process.join(5)
            process.kill()  # nothing where it has ended
    return [found[rank] for rank in range(size)]


def _answers(answers: Any, processes: list[Any]) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    end = time.monotonic() + SECONDS
    while len(found) < len(processes):
        try:
            found.append(answers.get(timeout=1))
        except queue.Empty:
            failed = [rank for rank, process in enumerate(processes) if process.exitcode]
            if failed or time.monotonic() > end:
                raise RuntimeError(f"No answer from {failed or 'all processes in time'}.") from None
    return found


def _one(answers: Any, place: tuple[int, int, int], work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    rank, size, port = place
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
    }
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        answers.put((rank, work(*args)))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def by_hand(net: nn.Module, optimizer: Optimizer, data: Pair) -> Epoch:
    """Return an epoch of a good loop: slices of what lies in memory, sums that stay tensors, no copy of gradients."""
    x, y = data
    module = DistributedDataParallel(net, gradient_as_bucket_view=True)
    loss_function = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(0)  # the same in each process

    def epoch() -> Times:
        started = now()
        sums = torch.zeros(2, dtype=torch.float64)
        module.train()
        order = torch.randperm(len(x), generator=generator)
        for rows in order[dist.get_rank() :: dist.get_world_size()].split(BATCH):
            inputs, targets = x.index_select(0, rows), y.index_select(0, rows)
            output = module(inputs)
            loss = loss_function(output, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            sums[0] += loss.detach() * len(targets)
            sums[1] += (output.detach().argmax(1) == targets).sum()
        dist.all_reduce(sums)
        _, _ = (sums / len(x)).tolist()  # loss and accuracy of the epoch
        return since(started)

    return epoch


class Clock(kt.callbacks.Callback):
    """How long the last epoch took, without what comes before and after."""

    def on_epoch_begin(self, epoch: int, logs: Any) -> None:
        self.started = now()

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        self.took = since(self.started)


def by_fit(net: nn.Module, optimizer: Optimizer, data: Pair) -> Epoch:
    """Return a call of `fit` for one epoch; it returns the times of the epoch in it."""
    model, clock = kt.Model(net), Clock()
    model.compile(nn.CrossEntropyLoss(), optimizer, ["accuracy"], device="cpu")

    def epoch() -> Times:
        model.fit(1, data, batch_size=BATCH, verbose=0, callbacks=[clock])
        return clock.took

    return epoch


def rounds_of(name: str, steps: int, rounds: int) -> list[Round]:
    """Measure one net in this process; return the times of an epoch, by way, for each round.

    Raises:
        RuntimeError: A way has not done the work: other steps than these, or nets that differ between processes.
    """
    make, shape = NETS[name]
    data = labelled(torch.Generator().manual_seed(1), steps * BATCH * dist.get_world_size(), *shape)
    optimizers, ways = {}, {}
    for way, prepare in {BY_HAND: by_hand, "the same again": by_hand, "fit": by_fit}.items():
        torch.manual_seed(0)
        net = make()
        optimizers[way] = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        ways[way] = prepare(net, optimizers[way], data)
    found = [one_round(ways, backwards=bool(number % 2)) for number in range(rounds + 1)]
    for way, optimizer in optimizers.items():
        check(way, optimizer, steps * (rounds + 1))
    return found[1:]  # the first warms up


def one_round(ways: dict[str, Epoch], *, backwards: bool) -> Round:
    found = {}
    for way in reversed(ways) if backwards else ways:
        dist.barrier()
        started = now()
        inside = ways[way]()
        found[way] = since(started)
        if way == "fit":
            found["its epoch"] = inside
    return found


def now() -> Times:
    return time.perf_counter(), time.process_time()


def since(started: Times) -> Times:
    wall, cpu = now()
    return wall - started[0], cpu - started[1]


def check(way: str, optimizer: Optimizer, steps: int) -> None:
    parameters = optimizer.param_groups[0]["params"]
    taken = int(optimizer.state[parameters[0]]["step"])
    if taken != steps:
        raise RuntimeError(f"{way}: {taken} steps in place of {steps}, so its processes have not shared the data.")
    own = torch.cat([parameter.detach().flatten() for parameter in parameters])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    if not all(torch.equal(everyone[0], other) for other in everyone):
        raise RuntimeError(f"{way}: the processes have other weights each, so they have not trained together.")


def compared(rounds: list[Round], steps: int) -> dict[str, dict[str, float]]:
    """Return of each way the median time of a step, and median and quartiles of its ratio to the loop in each round."""
    table = {}
    for way in (BY_HAND, "the same again", "fit", "its epoch"):
        ratios, cpu_ratios = ([one[way][kind] / one[BY_HAND][kind] for one in rounds] for kind in (0, 1))
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        seconds = statistics.median(one[way][0] for one in rounds)
        figures = {"us": seconds / steps * 1e6, "ratio": middle, "low": low, "high": high}
        table[way] = {**figures, "cpu_ratio": statistics.median(cpu_ratios)}
    return table


def text(size: int, name: str, table: dict[str, dict[str, float]]) -> str:
    lines = [f"{f'{name}, {size} processes':36} {'us/step':>8} {'ratio':>6}  half of the rounds  {'CPU':>6}"]
    for way, row in table.items():
        half = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"{way:36} {row['us']:8.0f} {row['ratio']:6.3f}  {half:18}  {row['cpu_ratio']:6.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="how many, for each run")
    parser.add_argument("--steps", type=int, default=200, help="of each process in an epoch")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    facts, tables = machine(), []
    print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}", end="; ")
    print(f"torch {facts['torch']}, Python {facts['python']}")
    print(f"gloo, one thread a process, {BATCH} samples each, {arguments.steps} steps, {arguments.rounds} rounds")
    for size in arguments.processes:
        for name in NETS:
            found = together(size, rounds_of, name, arguments.steps, arguments.rounds)
            table = compared(found[0], arguments.steps)
            tables.append({"processes": size, "net": name, "ways": table})
            print("", text(size, name, table), sep="\n", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "tables": tables}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
