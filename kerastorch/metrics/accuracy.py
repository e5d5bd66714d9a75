"""Accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Metric, Sum
from kerastorch.metrics.mean import weighted_sum
from kerastorch.tree import describe


class Accuracy(Metric):
    """The share of right predictions.

    Output `(N, C, ...)` with labels `(N, ...)`: the largest of the C scores is the prediction. Output and target of one
    shape (or `(N, 1)` with `(N,)`): an output above the threshold is a 1; with `classes=True` both hold a score for
    each class.

    Args:
        threshold: What separates 0 from 1: 0.5 for probabilities, 0 for logits.
        classes: A target of the output's shape holds the probability of each class.
        ignore_index: A label that is not counted.
    """

    def __init__(self, *, threshold: float = 0.5, classes: bool = False, ignore_index: int | None = None) -> None:
        self.threshold = threshold
        self.classes = classes
        self.ignore_index = ignore_index

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return how many are right, and how many there are."""
        right = self._compare(output, target)
        if self.ignore_index is None or target.is_floating_point() or target.shape != right.shape:
            return (torch.count_nonzero(right), right.numel()) if weight is None else weighted_sum(right, weight)
        counted = target.long() != self.ignore_index  # as bytes, 156 would be -100
        if self.ignore_index >= 0 or not self.classes:  # a negative class is never predicted, and so never right
            right = right & counted
        if weight is None:
            return torch.count_nonzero(right), torch.count_nonzero(counted)
        return weighted_sum(right, weight)[0], weighted_sum(counted, weight)[0]

    def _compare(self, output: Any, target: Any) -> Any:
        if isinstance(output, Tensor) and isinstance(target, Tensor):
            if output.ndim > 1 and target.shape == output.shape[:1] + output.shape[2:]:
                if output.shape[1] > 1 or self.classes:
                    return output.argmax(1) == target
                output = output.squeeze(1)
            if output.shape == target.shape and not self.classes:
                return (output > self.threshold) == (target > 0.5)
            if output.shape == target.shape and output.ndim > 1:
                return output.argmax(1) == target.argmax(1)
        raise MismatchError(f"accuracy cannot compare output {describe(output)} with target {describe(target)}.")
