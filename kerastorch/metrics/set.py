"""Loss and metrics of an epoch, summed on the device, read in one transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.metrics.base import Metric, Sum, ratio


class MetricSet(Mapping[str, float]):
    """The running values by name: `"loss"`, then the metrics.

    Reading a value waits for the device, writing does not. All values are read at once and kept until the next update.

    Args:
        metrics: Names and metrics. They are used, not copied.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = dict(metrics)
        self.reset()

    def reset(self) -> None:
        """Forget everything; an epoch begins."""
        self.samples = 0
        self._sums: dict[str, list[Sum]] = {}
        self._values: dict[str, float] | None = None
        for metric in self.metrics.values():
            metric.reset()

    def update(self, loss: Tensor, weight: float | Tensor | None, output: Any, batch: Batch) -> None:
        """Take in one batch.

        Args:
            loss: The loss, detached.
            weight: Its weight in the mean of the epoch; None adds the losses up.
            output: What the net gave, detached.
            batch: What it was given.
        """
        self._add_loss(loss, weight)
        for name, metric in self.metrics.items():
            self._add(name, metric.measure(output, batch.y, batch.weight, batch.size))
        self.samples += batch.size
        self._values = None

    def record(self, values: Mapping[str, Sum], size: int) -> None:
        """Take in values of a batch of `size` samples that somebody else has measured."""
        for name, value in values.items():
            self._add(name, (value * size, size))
        self.samples += size
        self._values = None

    def result(self, total: Callable[[list[float]], list[float]] | None = None) -> dict[str, float]:
        """Return all values; the only wait for the device.

        Args:
            total: Adds up sums over the processes.
        """
        sums = self._read(total)
        return {
            name: self.metrics[name].value(parts) if name in self.metrics else ratio(parts)
            for name, parts in sums.items()
        }

    def _add_loss(self, loss: Tensor, weight: float | Tensor | None) -> None:
        total, count = self._sums.get("loss", (None, None)) if weight is not None else (None, None)
        if isinstance(total, Tensor) and isinstance(count, Tensor) and isinstance(weight, Tensor):
            total.addcmul_(loss, weight)  # one operation where a product and a sum would be two
            count.add_(weight)
        else:
            self._add("loss", (loss,) if weight is None else (loss * weight, weight))

    def _add(self, name: str, parts: tuple[Sum, ...]) -> None:
        sums = self._sums.get(name)
        if sums is None:
            self._sums[name] = sums = [0] * len(parts)
        for place, part in enumerate(parts):
            held = sums[place]
            if isinstance(held, Tensor):
                held.add_(part.detach() if isinstance(part, Tensor) else part)
            elif isinstance(part, Tensor):
                sums[place] = _zero(part.device).add_(part.detach()).add_(held)
            else:
                sums[place] = held + part

    def _read(self, total: Callable[[list[float]], list[float]] | None) -> dict[str, list[float]]:
        held = [part for parts in self._sums.values() for part in parts]
        tensors = [part for part in held if isinstance(part, Tensor)]
        stacked = iter(torch.stack(tensors).tolist() if tensors else ())
        numbers = [next(stacked) if isinstance(part, Tensor) else float(part) for part in held]
        read = iter(numbers if total is None else total(numbers))
        return {name: [next(read) for _ in parts] for name, parts in self._sums.items()}

    def __getitem__(self, name: str) -> float:
        if self._values is None:
            self._values = self.result()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)


def _zero(device: torch.device) -> Tensor:
    # float64, so that the small steps of a long epoch are not lost to rounding; Apple's GPUs have none
    return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
