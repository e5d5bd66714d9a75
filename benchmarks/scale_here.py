"""The model of `benchmarks.scale` beside what processes of this machine take: `python -m benchmarks.scale --measure`.

All is measured three times in turns, by medians, of which the least counts: what else the machine does makes times
longer only.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.distributed import together
from benchmarks.facts import machine
from benchmarks.scale import Cluster, Link, Work, ddp
from benchmarks.workloads import labelled, mlp

HIDDEN = (128, 512, 2048)  # units of the nets
PROCESSES = (1, 2, 4)
BATCH = 64
SIZES = (2**10, 2**14, 2**17, 2**20, 2**22)  # bytes, to measure the link with
TURNS = 3


def on_shared_cores(work: Work, link: Link, processes: int, cores: int) -> float:
    """Return the seconds of a step of processes that share the cores of one machine.

    Sending is work for the same cores, so nothing is hidden behind backward unless each process has a second core, and
    all takes as many times as long as there are processes for a core.
    """
    if 2 * processes <= cores:
        return ddp(work, Cluster(processes, link, link), processes)
    return max(1.0, processes / cores) * (work.seconds + link.all_reduce(work.size, processes))


def fitted(seconds: dict[int, float]) -> Link:
    """Return the link that explains best, in relative terms, what all-reduces between two processes took, by bytes."""
    rows = torch.tensor([[2.0, float(size)] for size in seconds], dtype=torch.float64)  # 2 latencies, S / bandwidth
    took = torch.tensor(list(seconds.values()), dtype=torch.float64)
    latency, slowness = torch.linalg.lstsq(rows / took[:, None], torch.ones_like(took)[:, None]).solution.flatten()
    return Link(max(0.0, float(latency)), 1 / max(1e-15, float(slowness)))


def link_here(rounds: int) -> dict[int, float]:
    """Return the median seconds of an all-reduce, by bytes, in this process and the others."""
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            tensor = torch.zeros(size // 4)
            dist.barrier()
            started = time.perf_counter()
            for _ in range(10):
                dist.all_reduce(tensor)
            found[size].append((time.perf_counter() - started) / 10)
    return {size: statistics.median(times) for size, times in found.items()}


def steps_here(steps: int, rounds: int, alone: bool) -> list[float]:
    """Return the median seconds of a step of each net in this process, with the others by DDP, or alone."""
    epochs, found = [], []
    for hidden in HIDDEN:
        torch.manual_seed(0)
        net = mlp(784, hidden)
        module = net if alone else DistributedDataParallel(net, gradient_as_bucket_view=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
        x, y = labelled(torch.Generator().manual_seed(dist.get_rank()), BATCH, 784)
        epochs.append((module, optimizer, x, y))
        found.append([])
    for _ in range(rounds + 1):
        for times, (module, optimizer, x, y) in zip(found, epochs, strict=True):
            dist.barrier()
            started = time.perf_counter()
            for _ in range(steps):
                nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            times.append((time.perf_counter() - started) / steps)
    return [statistics.median(times) for times in found]


def measured(steps: int, rounds: int) -> dict[str, Any]:
    """Measure link, steps alone and steps of 1, 2, 4 processes; return them beside what the model says."""
    facts, links, alone = machine(), [], []
    took: dict[int, list[list[float]]] = {processes: [] for processes in PROCESSES}
    for _ in range(TURNS):
        links.append(together(2, link_here, rounds)[0])
        alone.append(together(1, steps_here, steps, rounds, True)[0])
        for processes, times in took.items():
            times.append(together(processes, steps_here, steps, rounds, False)[0])
    link = fitted({size: min(times[size] for times in links) for size in SIZES})
    rows = []
    for processes, times in took.items():
        for hidden, seconds, own in zip(HIDDEN, map(min, *times), map(min, *alone), strict=True):
            work = Work(785 * hidden + (hidden + 1) * 10, own)
            model = on_shared_cores(work, link, processes, facts["cores"])
            found = {"alone": own, "measured": seconds, "model": model, "error": model / seconds - 1}
            rows.append({"processes": processes, "parameters": int(work.parameters), **found})
    return {"machine": facts, "latency": link.latency, "bandwidth": link.bandwidth, "rows": rows}


def comparison(found: dict[str, Any]) -> str:
    facts = found["machine"]
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}; torch {facts['torch']}, Python "
        f"{facts['python']}; gloo, one thread a process, {BATCH} samples each",
        f"between two processes: latency {found['latency'] * 1e6:.0f} us, {found['bandwidth'] / 1e9:.2f} GB/s",
        f"{'processes':>10} {'parameters':>11} {'alone, ms':>10} {'model':>8} {'measured':>9} {'error':>6}",
    ]
    for row in found["rows"]:
        times = f"{row['alone'] * 1e3:10.2f} {row['model'] * 1e3:8.2f} {row['measured'] * 1e3:9.2f}"
        lines.append(f"{row['processes']:10} {row['parameters']:11,} {times} {row['error']:+6.0%}")
    return "\n".join(lines)
