"""Precision, recall and their like: shares of what is right, actual and predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kerastorch.metrics.base import Metric, On, Sum
from kerastorch.metrics.counts import Average, averaged, count, known
from kerastorch.metrics.task import Task, filled


class Precision(Metric):
    """The share of right ones among the predictions of a class.

    What is measured, by shape:

    - Output `(N, C, ...)` with labels `(N, ...)`: the largest of the C scores is the prediction. There are C values,
      also where C is 2.
    - Output and target `(N,)` or `(N, 1, ...)`, or `(N, 1, ...)` with `(N, ...)`: above the threshold is a 1. There is
      one value, that of the ones, whatever the average.
    - Output and target `(N, L, ...)`: the same for each of L labels. There are L values.

    Nothing by nothing is 0; an epoch in which nothing counts gives NaN. Sample weights count. What has the label
    `ignore_index` is left out as if it were not there. The values are those of scikit-learn.

    Args:
        average: How several values become one. `"macro"`: their mean, without classes that are neither there nor
            predicted (a label of `(N, L)` always counts). `"weighted"`: their mean by how often each class is there.
            `"micro"`: one value, of all counts together. None: they stay, as a tensor `(C,)`.
        threshold: What separates 0 from 1. None: as the loss has it, else 0.5.
        ignore_index: A label that is not counted. None: the one that the loss ignores.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Raises:
        ValueError: The average is unknown.

    Example:
        >>> model.compile("cross_entropy", "adam", ["f1", kt.metrics.Precision(average="weighted")])
    """

    def __init__(
        self,
        *,
        average: Average | None = "macro",
        threshold: float | None = None,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        self.average, self.running = known(average), average is not None
        self.threshold, self.ignore_index = threshold, ignore_index
        self.labels: bool | None = None

    def bound(self, task: Task) -> Precision:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, ignore_index=task.ignore_index, labels=task.labels)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the counts of each class."""
        return (count(self, output, target, weight),)

    def value(self, sums: Sequence[Any]) -> float | Tensor:
        """Divide what is right by what is predicted."""
        return averaged(sums[0], self.average, lambda right, actual, predicted: (right, predicted))


class Recall(Metric):
    """The share of a class that is found.

    Its options, and what is measured, are those of `Precision`.
    """

    def __init__(
        self,
        *,
        average: Average | None = "macro",
        threshold: float | None = None,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        self.average, self.running = known(average), average is not None
        self.threshold, self.ignore_index = threshold, ignore_index
        self.labels: bool | None = None

    def bound(self, task: Task) -> Recall:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, ignore_index=task.ignore_index, labels=task.labels)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the counts of each class."""
        return (count(self, output, target, weight),)

    def value(self, sums: Sequence[Any]) -> float | Tensor:
        """Divide what is right by what is there."""
        return averaged(sums[0], self.average, lambda right, actual, predicted: (right, actual))


class F1(Metric):
    """The harmonic mean of precision and recall.

    Its options, and what is measured, are those of `Precision`.
    """

    def __init__(
        self,
        *,
        average: Average | None = "macro",
        threshold: float | None = None,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        self.average, self.running = known(average), average is not None
        self.threshold, self.ignore_index = threshold, ignore_index
        self.labels: bool | None = None

    def bound(self, task: Task) -> F1:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, ignore_index=task.ignore_index, labels=task.labels)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the counts of each class."""
        return (count(self, output, target, weight),)

    def value(self, sums: Sequence[Any]) -> float | Tensor:
        """Divide twice what is right by what is there and what is predicted."""
        return averaged(sums[0], self.average, lambda right, actual, predicted: (2 * right, actual + predicted))


class Dice(Metric):
    """Twice the overlap of two regions by the sum of their sizes: F1 by the name it has for segmentation.

    The regions are those of the whole epoch, not of each picture. Its options, and what is measured, are those of
    `Precision`.
    """

    def __init__(
        self,
        *,
        average: Average | None = "macro",
        threshold: float | None = None,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        self.average, self.running = known(average), average is not None
        self.threshold, self.ignore_index = threshold, ignore_index
        self.labels: bool | None = None

    def bound(self, task: Task) -> Dice:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, ignore_index=task.ignore_index, labels=task.labels)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the counts of each class."""
        return (count(self, output, target, weight),)

    def value(self, sums: Sequence[Any]) -> float | Tensor:
        """Divide twice what is right by what is there and what is predicted."""
        return averaged(sums[0], self.average, lambda right, actual, predicted: (2 * right, actual + predicted))


class IoU(Metric):
    """Intersection over union, the Jaccard index: the overlap of two regions by what either covers.

    The regions are those of the whole epoch, not of each picture. Its options, and what is measured, are those of
    `Precision`.
    """

    def __init__(
        self,
        *,
        average: Average | None = "macro",
        threshold: float | None = None,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        self.average, self.running = known(average), average is not None
        self.threshold, self.ignore_index = threshold, ignore_index
        self.labels: bool | None = None

    def bound(self, task: Task) -> IoU:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, ignore_index=task.ignore_index, labels=task.labels)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the counts of each class."""
        return (count(self, output, target, weight),)

    def value(self, sums: Sequence[Any]) -> float | Tensor:
        """Divide what is right by what is there or predicted."""
        return averaged(sums[0], self.average, lambda right, actual, predicted: (right, actual + predicted - right))
