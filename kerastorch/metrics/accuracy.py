"""Accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Metric, On, Sum
from kerastorch.metrics.forms import counted, form, ignored
from kerastorch.metrics.mean import weighted_sum
from kerastorch.metrics.task import Task, filled
from kerastorch.tree import describe, surely_not_negative


class Accuracy(Metric):
    """The share of right predictions.

    Output `(N, C, ...)` with labels `(N, ...)`: the largest of the C scores is the prediction. Output and target of one
    shape (or `(N, 1)` with `(N,)`): an output above the threshold is a 1, and each element counts by itself, so several
    labels a sample give the mean over all labels. With `classes=True` both hold a score for each class.

    Args:
        threshold: What separates 0 from 1: 0.5 for probabilities, 0 for logits. None: as the loss has it, else 0.5.
        classes: A target of the output's shape holds the probability of each class. None: as the loss has it.
        top_k: A prediction is right if the label is among the k classes of the largest scores.
        ignore_index: A label that is not counted. None: the one that the loss ignores.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Raises:
        ValueError: `top_k` is less than 1.

    Example:
        >>> model.compile("cross_entropy", "adam", {"accuracy": "accuracy", "top5": kt.metrics.Accuracy(top_k=5)})
    """

    def __init__(
        self,
        *,
        threshold: float | None = None,
        classes: bool | None = None,
        top_k: int = 1,
        ignore_index: int | None = None,
        on: On = "both",
    ) -> None:
        super().__init__(on=on)
        if top_k < 1:
            raise ValueError(f"top_k is at least 1; got {top_k}.")
        self.threshold = threshold
        self.classes = classes
        self.top_k = top_k
        self.ignore_index = ignore_index

    def bound(self, task: Task) -> Accuracy:
        """Return a copy that knows what the loss tells."""
        return filled(self, threshold=task.threshold, classes=bool(task.labels), ignore_index=task.ignore_index)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return how many are right, and how many there are."""
        scores, truth, by_class = form(output, target, self.classes, "accuracy")
        right = self._right(scores, truth, by_class)
        ignore_index = ignored(self.ignore_index, truth, target)
        if ignore_index is not None and ignore_index < 0 and by_class and surely_not_negative(truth):
            ignore_index = None
        if ignore_index is None:
            return (torch.count_nonzero(right), right.numel()) if weight is None else weighted_sum(right, weight)
        counts = counted(truth, ignore_index)
        if ignore_index >= 0 or not by_class:  # a negative class is never predicted, and so never right
            right = right & counts
        if weight is None:
            return torch.count_nonzero(right), torch.count_nonzero(counts)
        return weighted_sum(right, weight)[0], weighted_sum(counts, weight)[0]

    def _right(self, scores: Tensor, truth: Tensor, by_class: bool) -> Tensor:
        if by_class and self.top_k == 1:
            return scores.argmax(1) == truth
        if by_class and self.top_k < scores.shape[1]:
            return (scores.topk(self.top_k, dim=1).indices == truth.unsqueeze(1)).any(1)
        if self.top_k > 1:
            raise MismatchError(
                f"top_k={self.top_k} needs labels, and outputs (N, C) with more than {self.top_k} scores; "
                f"got output {describe(scores)}, target {describe(truth)}."
            )
        return (scores > (0.5 if self.threshold is None else self.threshold)) == (truth > 0.5)
