import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from kerastorch.data import Batch
from kerastorch.metrics import MetricSet


class Processes:
    """What several processes tell each other; here they are threads."""

    def __init__(self, count):
        self.told = [None] * count
        self.barrier = threading.Barrier(count, timeout=20)

    def exchange(self, place, item):
        self.told[place] = item
        self.barrier.wait()
        everything = list(self.told)
        self.barrier.wait()
        return everything

    def result(self, place, metrics):
        return metrics.result(
            SimpleNamespace(
                size=len(self.told),
                total=lambda numbers: [sum(parts) for parts in zip(*self.exchange(place, numbers), strict=True)],
                gather=lambda tensor: self.exchange(place, tensor),
                of_main=lambda value: self.exchange(place, value)[0],
            )
        )


def batches(output, target, weight, sizes):
    start, index = 0, 0
    for size in itertools.cycle(sizes):
        part = slice(start, start + size)
        yield (
            output[part],
            Batch(index, None, target[part], None if weight is None else weight[part], len(output[part])),
        )
        start, index = start + size, index + 1
        if start >= len(output):
            return


def over_epoch_(metric, output, target, *, sizes=(1000,), weight=None, shares=1, every=False):
    sets = [MetricSet({"value": metric.twin()}) for _ in range(shares)]
    for index, (part, batch) in enumerate(batches(output, target, weight, sizes)):
        sets[index % shares].update([("loss", torch.tensor(0.0), batch.size)], part, batch)
    processes = Processes(len(sets))
    with ThreadPoolExecutor(len(sets)) as pool:
        results = list(pool.map(processes.result, range(len(sets)), sets))
    assert all(repr(result) == repr(results[0]) for result in results)
    results[0].pop("loss")
    return results[0] if every else results[0]["value"]


@pytest.fixture(scope="session")
def over_epoch():
    """The value of a metric over an epoch in batches of some sizes, whose sums several processes share."""
    return over_epoch_
