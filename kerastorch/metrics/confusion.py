"""The confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kerastorch.errors import did_you_mean
from kerastorch.metrics.base import Metric, On, Sum
from kerastorch.metrics.counts import count_elements, count_pairs, of_pairs
from kerastorch.metrics.forms import as_columns, form, ignored, spread
from kerastorch.metrics.task import Task, filled

Normalize = Literal["true", "pred", "all"]


class ConfusionMatrix(Metric):
    """How often each class was taken for each other: rows are true labels, columns are predictions.

    Outputs and targets are as for `Precision`. The value is a tensor `(C, C)`, `(2, 2)` for one label, and `(L, 2, 2)`
    for L labels: integers, or float64 with sample weights or normalized. It is not shown while an epoch runs.

    Args:
        normalize: Divide by the sum of each row (`"true"`), of each column (`"pred"`) or of all (`"all"`); nothing by
            nothing is 0.
        threshold: What separates 0 from 1. None: as the loss has it, else 0.5.
        ignore_index: A label that is not counted. None: the one that the loss ignores.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Raises:
        ValueError: `normalize` is something else.
    """

    running = False

    def __init__(
        self,
        *,
        normalize: Normalize | None = None,
        threshold: float | None = None,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        if normalize is not None and normalize not in get_args(Normalize):
            hint = did_you_mean(str(normalize), get_args(Normalize))
            raise ValueError(f"normalize is 'true', 'pred', 'all' or None; got {normalize!r}.{hint}")
        self.normalize = normalize
        self.threshold, self.ignore_index = threshold, ignore_index
        self.labels: bool | None = None

    def bound(self, task: Task) -> ConfusionMatrix:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, ignore_index=task.ignore_index, labels=task.labels)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the counts, of classes `(C * C + 2,)` or of labels `(4, L)`, and 1 if they are weighted."""
        values, truth, by_class = form(output, target, self.labels, "ConfusionMatrix")
        weighted = int(weight is not None)
        if by_class:
            return count_pairs(values, truth, ignored(self.ignore_index, truth, target), weight), weighted
        weight = None if weight is None else spread(weight, truth)
        columns = as_columns(values, "ConfusionMatrix")
        return count_elements(columns, truth, self.threshold, self.ignore_index, weight), weighted

    def value(self, sums: Sequence[Any]) -> Tensor:
        """Return the matrix.

        Raises:
            MismatchError: There are labels that are no class.
        """
        counts, weighted = sums
        matrix = of_pairs(counts) if counts.ndim == 1 else _of_labels(counts)
        if self.normalize is None:
            return matrix if weighted else matrix.long()
        dims = {"true": (-1,), "pred": (-2,), "all": (-2, -1)}[self.normalize]
        return (matrix / matrix.sum(dims, keepdim=True)).nan_to_num_(0.0)


def _of_labels(counts: Tensor) -> Tensor:
    right, actual, predicted, number = counts
    cells = [number - actual - predicted + right, predicted - right, actual - right, right]
    matrix = torch.stack(cells, 1).clamp_min(0.0).reshape(-1, 2, 2)  # weights may leave less than nothing, by rounding
    return matrix[0] if len(matrix) == 1 else matrix
