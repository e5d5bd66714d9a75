"""Metrics of torchmetrics."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from kerastorch.metrics.base import Metric, Sum, one_number


class TorchMetric(Metric):
    """A metric object of torchmetrics, or one with the same `update`, `compute` and `reset`.

    Args:
        metric: The object. It is moved to the device of the outputs.
        name: What to call it in messages.
    """

    def __init__(self, metric: Any, name: str) -> None:
        self.metric = metric
        self.name = name
        self.measured = False

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Update the object, which keeps its own sums."""
        if not self.measured and isinstance(self.metric, nn.Module) and isinstance(output, Tensor):
            self.metric.to(output.device)
        self.metric.update(output, target)
        self.measured = True
        return ()

    def value(self, sums: Any) -> float:
        """Compute; NaN before the first batch.

        Raises:
            MismatchError: The metric has more than one value, such as one for each class.
        """
        if not self.measured:
            return float("nan")
        return float(one_number(self.metric.compute(), f"The metric {self.name!r}"))

    def __call__(self, output: Any, target: Any) -> float:
        """Return the value for one batch, beside what the object has summed up."""
        fresh = self.twin()
        fresh.reset()
        fresh.measure(output, target, None, len(target))
        return fresh.value(())

    def twin(self) -> TorchMetric:
        """Return a copy with a copy of the object."""
        return TorchMetric(copy.deepcopy(self.metric), self.name)

    def reset(self) -> None:
        """Forget the epoch."""
        self.metric.reset()
        self.measured = False
