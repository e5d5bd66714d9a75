"""Precision over recall, threshold by threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch.metrics.base import Metric, On, Sum
from kerastorch.metrics.forms import are_counted, as_columns, as_rows, exact, form, ignored, marked, spread
from kerastorch.metrics.task import Outputs, Task, filled


class PrecisionRecallCurve(Metric):
    """True and false positives at 127 thresholds, for the curves that TensorBoard draws of them.

    The value is a tensor `(C, 127, 2)` for C classes or labels: how many samples have a probability of at least
    `t / 126`, of those that are of the class, and of those that are not. Samples count by their weights. So
    `precision = value[c, t, 0] / value[c, t].sum()`, and `recall = value[c, t, 0] / value[c, 0, 0]`.

    Only these counts are kept, not the outputs of the epoch. It is not shown while an epoch runs. Where outputs are
    logits, or may be, they become probabilities first; what a metric is given, and how, is as for `AUROC`.

    Args:
        ignore_index: A label that is not counted. None: the one that the loss ignores.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Example:
        >>> model.compile("cross_entropy", "adam", {"curve": kt.metrics.PrecisionRecallCurve(on="val")})
    """

    running = False
    thresholds = 127  # as many as TensorBoard can show

    def __init__(self, *, ignore_index: int | None = None, on: On = "both") -> None:
        super().__init__(on=on)
        self.ignore_index = ignore_index
        self._labels: bool | None = None
        self._outputs: Outputs | None = None

    def bound(self, task: Task) -> PrecisionRecallCurve:
        """Return a copy that knows what the loss tells."""
        return filled(self, ignore_index=task.ignore_index, _labels=task.labels, _outputs=task.outputs)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return how many samples lie between two thresholds `(C, 127, 2)`."""
        values, truth, by_class = form(output, target, self._labels, "PrecisionRecallCurve")
        labels = marked(truth, ignored(self.ignore_index, truth, target), by_class=by_class)
        counts = are_counted(labels).to(exact(values.device))
        counts = counts if weight is None else counts * spread(weight, counts)
        scores = _probabilities(values.detach(), self._outputs, by_class=by_class)
        if by_class:
            scores = as_rows(scores)  # (M, C)
            places = torch.arange(scores.shape[1], device=scores.device)
            is_false = labels.reshape(-1, 1) != places
            counts = counts.reshape(-1, 1).expand_as(scores)
        else:
            columns = as_columns(scores, "PrecisionRecallCurve")
            is_false = as_rows((labels != 1).reshape(columns.shape))
            counts = as_rows(counts.reshape(columns.shape))
            scores = as_rows(columns)
            places = torch.arange(scores.shape[1], device=scores.device)
        steps = (scores.nan_to_num(0.0).clamp(0, 1) * (self.thresholds - 1)).floor().long()
        index = (places * self.thresholds + steps) * 2 + is_false
        sums = torch.zeros(scores.shape[1] * self.thresholds * 2, dtype=counts.dtype, device=scores.device)
        sums.index_add_(0, index.reshape(-1), counts.reshape(-1))
        return (sums.reshape(-1, self.thresholds, 2),)

    def value(self, sums: Sequence[Any]) -> Tensor:
        """Return how many lie above each threshold."""
        above: Tensor = sums[0].flip(1).cumsum(1).flip(1)
        return above


def _probabilities(scores: Tensor, outputs: Outputs | None, *, by_class: bool) -> Tensor:
    """Turn outputs into probabilities on their device, without waiting for it."""
    scores = scores.float()
    if outputs == "log_probabilities":
        return scores.exp()
    if outputs == "probabilities":
        return scores
    made = scores.softmax(1) if by_class else scores.sigmoid()
    if outputs == "logits":
        return made
    return torch.where(((scores < 0) | (scores > 1)).any(), made, scores)  # as nobody knows: by this batch
