"""Loss and metrics of an epoch, summed on the device, read in one transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Gather, Metric, Rows, Sum, Value, as_value, one_number, ratio
from kerastorch.metrics.forms import exact

Total = Callable[[list[float]], list[float]]
Number = float | Tensor
Weight = Number | None


class MetricSet(Mapping[str, float]):
    """The values of an epoch by name: `"loss"`, then the metrics.

    As a Mapping it holds the running values: of each metric that is `running` and is one number. Reading them waits for
    the device, writing does not. All are read at once and kept until the next update. `result` holds every value.

    Args:
        metrics: Names and metrics. They are used, not copied.
        factors: Where there are several losses: their names, and what each counts in `"loss"`, their weighted sum.
    """

    def __init__(self, metrics: Mapping[str, Metric], factors: Mapping[str, float] | None = None) -> None:
        self.metrics = dict(metrics)
        self.factors = dict(factors or {})
        self.reset()

    def reset(self) -> None:
        """Forget everything; an epoch begins."""
        self.samples = 0
        self._sums: dict[str, list[Sum]] = {}
        self._recorded: set[str] = set()
        self._values: dict[str, float] | None = None
        for metric in self.metrics.values():
            metric.reset()

    def update(
        self, losses: Sequence[tuple[str, Tensor, Weight]], output: Any, batch: Batch, prediction: Any = None
    ) -> None:
        """Take in one batch.

        Args:
            losses: Name and value of each loss, detached, and its weight in the mean of the epoch; a weight of None
                adds the losses up. Without `factors` it is one loss, `"loss"`.
            output: What the net gave, detached.
            batch: What it was given.
            prediction: The part of the output that metrics of one output see; all of it by default.
        """
        seen = output if prediction is None else prediction
        truth = batch.y if batch.truth is None else batch.truth
        for name, loss, weight in losses:
            self._add_loss(name, _read_if_free(loss), None if weight is None else _read_if_free(weight))
        for name, metric in self.metrics.items():
            self._add(name, metric.measure(output if metric.whole else seen, truth, batch.weight, batch.size))
        self.samples += batch.size
        self._values = None

    @property
    def noted(self) -> set[str]:
        """The names that `update` takes in."""
        return {"loss", *self.factors, *self.metrics}

    def record(self, values: Mapping[str, Any], size: int, *, counts: bool = True) -> None:
        """Take in values of a batch of `size` samples that somebody else has measured.

        Args:
            values: One number each.
            size: Samples in the batch.
            counts: Whether the samples are new ones.
        """
        self._recorded.update(values)
        for name, value in values.items():
            self._add(name, (one_number(value, f"The value {name!r} of a step") * size, size))
        self.samples += size * counts
        self._values = None

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far, in plain containers."""
        return {
            "samples": self.samples,
            "sums": {name: [_kept(part) for part in parts] for name, parts in self._sums.items()},
            "recorded": sorted(self._recorded),
            "metrics": {name: kept for name, metric in self.metrics.items() if (kept := metric.state_dict())},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Go on from there, in the middle of an epoch; sums of metrics that are not here are left out.

        Args:
            state: What `state_dict` has returned.
            device: Where the sums go that are tensors.
        """
        self.reset()
        self.samples = state["samples"]
        self._recorded = set(state["recorded"])
        known = self.noted | self._recorded
        for name in state["sums"].keys() & known:
            self._sums[name] = [_taken_up(part, device) for part in state["sums"][name]]
        for name, kept in state["metrics"].items():
            if name in self.metrics:
                self.metrics[name].load_state_dict(kept)

    def result(self, total: Total | None = None, gather: Gather | None = None) -> dict[str, float | Tensor]:
        """Return all values; the only wait for the device.

        Args:
            total: Adds up sums over the processes.
            gather: Returns a tensor of every process, whose sizes of dimension 0 may differ; None for one process.

        Returns:
            A float for each value that is one number, a tensor on the CPU for others. Several values of one metric,
            such as those of a MetricCollection, go by their own names.

        Raises:
            MismatchError: Two values have one name, or a metric cannot be read.
        """
        found: dict[str, float | Tensor] = {}
        for name, value in self._read(self._sums, total, gather).items():
            for key, part in value.items() if isinstance(value, Mapping) else ((name, value),):
                if key in found or (key != name and key in self.noted):
                    raise MismatchError(
                        f"The metric {name!r} gives a value {key!r}, but there is another of that name. Rename the "
                        "other, or give a MetricCollection a prefix: MetricCollection(..., prefix='my_')."
                    )
                found[key] = part
        return found

    def _add_loss(self, name: str, loss: Number, weight: Number | None) -> None:
        if weight is None:
            self._add(name, (loss,))
        elif isinstance(loss, Tensor):
            # In float64, where half precision would overflow. The NaN of a batch without labels that count adds nothing
            total, count = self._sums.get(name, (0, 0))
            total = total if isinstance(total, Tensor) else _zeros_like(loss).add_(cast(float, total))
            if isinstance(weight, Tensor):
                total.addcmul_(torch.where(weight == 0, 0.0, loss), weight)
            else:
                total.add_(loss, alpha=weight)
            self._sums[name] = [total, _grown(count, weight, name)]
        else:
            self._add(name, (loss * weight if weight else 0.0, weight))

    def _add(self, name: str, parts: tuple[Sum, ...]) -> None:
        sums = self._sums.get(name)
        if sums is None:
            sums = [0] * len(parts)
        self._sums[name] = [_grown(held, part, name) for held, part in zip(sums, parts, strict=True)]

    def _read(self, names: Iterable[str], total: Total | None, gather: Gather | None) -> dict[str, Value]:
        sums = {name: self._sums[name] for name in names}
        numbers = _numbers([part for parts in sums.values() for part in parts])
        read = iter(numbers if total is None else total(numbers))
        found: dict[str, Value] = {}
        for name, parts in sums.items():
            found[name] = self._value(name, [_given_back(part, read, gather) for part in parts], gather)
        if self.factors and "loss" not in found and found.keys() >= self.factors.keys():
            found = {"loss": sum(factor * cast(float, found[name]) for name, factor in self.factors.items()), **found}
        return found

    def _value(self, name: str, parts: list[Any], gather: Gather | None) -> Value:
        metric = self.metrics.get(name)
        if metric is None or name in self._recorded:  # the mean of what a step of the user's own has measured
            return ratio(parts)
        value = metric.value(parts) if gather is None else metric.value_of_all(parts, gather)
        return as_value(value, f"The metric {name!r}")

    def _running(self) -> dict[str, float]:
        if self._values is None:
            known = self.metrics.keys() - self._recorded
            names = [name for name in self._sums if name not in known or self.metrics[name].running]
            values = self._read(names, None, None)
            self._values = {name: value for name, value in values.items() if isinstance(value, float)}
        return self._values

    def __getitem__(self, name: str) -> float:
        return self._running()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._running())

    def __len__(self) -> int:
        return len(self._running())

    def __bool__(self) -> bool:
        return bool(self._sums)  # without a wait


def _kept(part: Sum) -> Any:
    return {"rows": part.joined()} if isinstance(part, Rows) else part


def _taken_up(part: Any, device: torch.device | None) -> Sum:
    if isinstance(part, Mapping):
        return Rows(part["rows"].to(device))
    return cast(Sum, part.to(device, copy=True) if isinstance(part, Tensor) else part)


def _numbers(parts: list[Sum]) -> list[float]:
    """Return the numbers of all parts in one list; rows are left out."""
    held = [part for part in parts if isinstance(part, Tensor)]
    read = {}
    for device in {part.device for part in held}:  # one, unless a metric sums up on the CPU
        flat = torch.cat([part.reshape(-1) for part in held if part.device == device])
        read[device] = iter(flat.tolist())
    numbers: list[float] = []
    for part in parts:
        if isinstance(part, Tensor):
            numbers += islice(read[part.device], part.numel())
        elif not isinstance(part, Rows):
            numbers.append(float(part))
    return numbers


def _given_back(part: Sum, read: Iterator[float], gather: Gather | None) -> float | Tensor:
    """Return a part in its shape, with the numbers that were read."""
    if isinstance(part, Rows):
        rows = part.joined()
        return (rows if gather is None else torch.cat(gather(rows))).cpu()
    if isinstance(part, Tensor) and part.ndim:
        return torch.tensor(list(islice(read, part.numel())), dtype=torch.float64).reshape(part.shape)
    return next(read)


def _read_if_free(part: Number) -> Number:
    # On the CPU there is no device to wait for, and a number is added ten times faster than a tensor
    return part.item() if isinstance(part, Tensor) and part.is_cpu and not part.ndim else part


def _grown(held: Sum, part: Sum, name: str) -> Sum:
    if isinstance(part, Tensor):
        part = _read_if_free(part)
    if isinstance(part, Tensor):
        return _grown_tensor(held, part, name)
    if isinstance(part, Rows):
        if isinstance(held, Rows):
            held.parts += part.parts
        return held if isinstance(held, Rows) else part
    return cast(Number, held) + part


def _grown_tensor(held: Sum, part: Tensor, name: str) -> Tensor:
    if not isinstance(held, Tensor):
        return _zeros_like(part).add_(part.detach()).add_(cast(float, held))
    if part.shape != held.shape:
        raise MismatchError(
            f"A sum of the metric {name!r} is {tuple(held.shape)} for one batch and {tuple(part.shape)} for another. "
            "Does the number of classes or columns differ between batches?"
        )
    return held.add_(part.detach())


def _zeros_like(part: Tensor) -> Tensor:
    return torch.zeros(part.shape, dtype=exact(part.device), device=part.device)
