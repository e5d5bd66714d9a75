"""A metric of one output of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kerastorch.metrics.base import Gather, Metric, Sum, Value
from kerastorch.metrics.task import Task
from kerastorch.tree import pick


class OnOutput(Metric):
    """A metric that is measured on one output of several.

    Its targets and sample weights are the part of the same key, where they are a dict, a tuple or a list; else all of
    them. When it is shown, and on which data it is measured, is as the metric has it.

    Args:
        metric: What is measured.
        key: The key or field of the output, or its place in a tuple.

    Example:
        >>> model.compile(metrics={"depth_mae": kt.metrics.OnOutput(kt.metrics.MeanAbsoluteError(), "depth")})
    """

    whole = True

    def __init__(self, metric: Metric, key: str | int) -> None:
        super().__init__(on=metric.on)
        self.metric = metric
        self.key = key
        self.running = metric.running

    def bound(self, task: Task) -> OnOutput:
        """Return one of the metric that knows what the loss of this output tells."""
        return OnOutput(self.metric.bound(task), self.key)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return what the metric measures on the part."""
        if isinstance(weight, Mapping):
            weight = weight.get(self.key)  # an output without weights
        parts = pick(output, self.key, "output"), self._part(target, "target"), self._part(weight, "sample weight")
        return self.metric.measure(*parts, size)

    def _part(self, tree: Any, what: str) -> Any:
        return pick(tree, self.key, what) if isinstance(tree, (Mapping, tuple, list)) else tree

    def value(self, sums: Sequence[Any]) -> Value:
        """Return the value of the metric."""
        return self.metric.value(sums)

    def value_of_all(self, sums: Sequence[Any], gather: Gather) -> Value:
        """Return the value of the metric over several processes."""
        return self.metric.value_of_all(sums, gather)

    def reset(self) -> None:
        """Prepare the metric for a new epoch."""
        self.metric.reset()

    def twin(self) -> OnOutput:
        """Return one of the twin of the metric."""
        return OnOutput(self.metric.twin(), self.key)

    def __call__(self, output: Any, target: Any) -> Value:
        """Return the value for one batch; waits for the device."""
        return self.metric(pick(output, self.key, "output"), self._part(target, "target"))
