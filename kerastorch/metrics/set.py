"""Loss and metrics of an epoch, summed on the device, read in one transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Gather, Group, Metric, Sum, Value, as_value, one_number, ratio
from kerastorch.metrics.sums import (
    Number,
    Weight,
    blank,
    given_back,
    grown,
    kept,
    read_if_free,
    read_numbers,
    taken_up,
    zeros_like,
)

Total = Callable[[list[float]], list[float]]


_PLAIN = (int, float)


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
            self._add_loss(name, read_if_free(loss), None if weight is None else read_if_free(weight))
        for name, metric in self.metrics.items():
            self._add(name, metric.measure(output if metric.whole else seen, truth, batch.weight, batch.size))
        self.samples += batch.size
        self._values = None

    def open(self, parts: Mapping[str, Sequence[Sum]]) -> list[Tensor]:
        """Return the sums that tensors among `parts` belong to, for somebody who adds to them in place until `reset`.

        Args:
            parts: By name what a batch adds.
        """
        found: list[Tensor] = []
        for name, adds in parts.items():
            sums = self._sums.setdefault(name, [0] * len(adds))
            for place, part in enumerate(adds):
                if isinstance(part, Tensor):
                    held = sums[place]
                    sums[place] = total = held if isinstance(held, Tensor) else zeros_like(part).add_(cast(float, held))
                    found.append(total)
        return found

    def count(self, parts: Mapping[str, Sequence[Sum]], samples: int) -> None:
        """Take in numbers and rows of a batch whose tensors are in the sums that `open` gave."""
        for name, adds in parts.items():
            sums = self._sums[name]
            for place, part in enumerate(adds):
                if not isinstance(part, Tensor):
                    sums[place] = grown(sums[place], part, name)
        self.samples += samples
        self._values = None

    @property
    def epoch(self) -> object:
        """Something that is another after each `reset`."""
        return self._sums

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
            "sums": {name: [kept(part) for part in parts] for name, parts in self._sums.items()},
            "recorded": sorted(self._recorded),
            "metrics": {name: own for name, metric in self.metrics.items() if (own := metric.state_dict())},
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
        for name in filter(known.__contains__, state["sums"]):
            self._sums[name] = [taken_up(part, device) for part in state["sums"][name]]
        for name, own in state["metrics"].items():
            if name in self.metrics:
                self.metrics[name].load_state_dict(own)

    def result(self, group: Group | None = None) -> dict[str, float | Tensor]:
        """Return all values; the only wait for the device.

        Args:
            group: The processes that sum up together.

        Returns:
            A float for each value that is one number, a tensor on the CPU for others. Several values of one metric,
            such as those of a MetricCollection, go by their own names.

        Raises:
            MismatchError: Two values have one name, or a metric cannot be read.
        """
        found: dict[str, float | Tensor] = {}
        total, gather = None, None
        if group is not None and group.size > 1:
            self._join(group)
            total, gather = group.total, group.gather
        for name, value in self._read(self._sums, total, gather).items():
            for key, part in value.items() if isinstance(value, Mapping) else ((name, value),):
                if key in found or (key != name and key in self.noted):
                    raise MismatchError(
                        f"The metric {name!r} gives a value {key!r}, but there is another of that name. Rename the "
                        "other, or give a MetricCollection a prefix: MetricCollection(..., prefix='my_')."
                    )
                found[key] = part
        return found

    def _join(self, group: Group) -> None:
        """Have the sums that the main process has, in its order; a process without a batch has none of its own."""
        none_yet = {name: [blank(part) for part in parts] for name, parts in self._sums.items()}
        blanks, recorded = group.of_main((none_yet, self._recorded))
        self._sums = {name: self._sums.get(name, parts) for name, parts in blanks.items()}
        self._recorded |= recorded

    @property
    def is_finite(self) -> bool:
        """Whether all sums are finite numbers; it waits for the device."""
        return all(map(math.isfinite, read_numbers([part for parts in self._sums.values() for part in parts])))

    def _add_loss(self, name: str, loss: Number, weight: Number | None) -> None:
        if weight is None:
            self._add(name, (loss,))
        elif isinstance(loss, Tensor):
            # In float64, where half precision would overflow. The NaN of a batch without labels that count adds nothing
            total, count = self._sums.get(name, (0, 0))
            total = total if isinstance(total, Tensor) else zeros_like(loss).add_(cast(float, total))
            if isinstance(weight, Tensor):
                total.addcmul_(torch.where(weight == 0, 0.0, loss), weight)
            else:
                total.add_(loss, alpha=weight)
            self._sums[name] = [total, grown(count, weight, name)]
        else:
            self._add(name, (loss * weight if weight else 0.0, weight))

    def _add(self, name: str, parts: tuple[Sum, ...]) -> None:
        sums = self._sums.setdefault(name, [0] * len(parts))
        for place, (held, part) in enumerate(zip(sums, parts, strict=True)):
            is_plain = type(part) in _PLAIN and type(held) in _PLAIN
            sums[place] = cast(float, held) + cast(float, part) if is_plain else grown(held, part, name)

    def _read(self, names: Iterable[str], total: Total | None, gather: Gather | None) -> dict[str, Value]:
        sums = {name: self._sums[name] for name in names}
        found_numbers = read_numbers([part for parts in sums.values() for part in parts])
        read = iter(found_numbers if total is None else total(found_numbers))
        found: dict[str, Value] = {}
        for name, parts in sums.items():
            found[name] = self._value(name, [given_back(part, read, gather) for part in parts], gather)
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
