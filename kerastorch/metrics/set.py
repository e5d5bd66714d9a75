"""Loss and metrics of an epoch, summed on the device, read in one transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.metrics.base import Metric, Sum, one_number, ratio


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
        self._add_loss(_read_if_free(loss), None if weight is None else _read_if_free(weight))
        for name, metric in self.metrics.items():
            self._add(name, metric.measure(output, batch.y, batch.weight, batch.size))
        self.samples += batch.size
        self._values = None

    @property
    def noted(self) -> set[str]:
        """The names that `update` takes in."""
        return {"loss", *self.metrics}

    def record(self, values: Mapping[str, Any], size: int, *, counts: bool = True) -> None:
        """Take in values of a batch of `size` samples that somebody else has measured.

        Args:
            values: One number each.
            size: Samples in the batch.
            counts: Whether the samples are new ones.
        """
        for name, value in values.items():
            self._add(name, (one_number(value, f"The value {name!r} of a step") * size, size))
        self.samples += size * counts
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

    def _add_loss(self, loss: Sum, weight: Sum | None) -> None:
        if weight is None:
            self._add("loss", (loss,))
        elif isinstance(loss, Tensor):
            # In float64, where half precision would overflow. The NaN of a batch without labels that count adds nothing
            total, count = self._sums.get("loss", (0, 0))
            total = total if isinstance(total, Tensor) else _zero(loss.device).add_(total)
            if isinstance(weight, Tensor):
                total.addcmul_(torch.where(weight == 0, 0.0, loss), weight)
            else:
                total.add_(loss, alpha=weight)
            self._sums["loss"] = [total, _grown(count, weight)]
        else:
            self._add("loss", (loss * weight if weight else 0.0, weight))

    def _add(self, name: str, parts: tuple[Sum, ...]) -> None:
        sums = self._sums.get(name, [0] * len(parts))
        self._sums[name] = [_grown(held, part) for held, part in zip(sums, parts, strict=True)]

    def _read(self, total: Callable[[list[float]], list[float]] | None) -> dict[str, list[float]]:
        held = [part for parts in self._sums.values() for part in parts]
        numbers = _numbers(held)
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


def _numbers(parts: list[Sum]) -> list[float]:
    tensors = {place: part for place, part in enumerate(parts) if isinstance(part, Tensor)}
    numbers = [0.0 if place in tensors else float(part) for place, part in enumerate(parts)]
    for device in {part.device for part in tensors.values()}:  # one, unless a metric sums up on the CPU
        places = [place for place, part in tensors.items() if part.device == device]
        stacked = torch.stack([tensors[place] for place in places])
        for place, number in zip(places, stacked.tolist(), strict=True):
            numbers[place] = number
    return numbers


def _read_if_free(part: Sum) -> Sum:
    # On the CPU there is no device to wait for, and a number is added ten times faster than a tensor
    return part.item() if isinstance(part, Tensor) and part.is_cpu else part


def _grown(held: Sum, part: Sum) -> Sum:
    part = _read_if_free(part)
    if isinstance(held, Tensor):
        return held.add_(part.detach() if isinstance(part, Tensor) else part)
    if isinstance(part, Tensor):
        return _zero(part.device).add_(part.detach()).add_(held)
    return held + part


def _zero(device: torch.device) -> Tensor:
    # float64, so that the small steps of a long epoch are not lost to rounding; Apple's GPUs have none
    return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
