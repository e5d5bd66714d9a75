"""Perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Metric, On, Sum
from kerastorch.metrics.forms import counted
from kerastorch.metrics.mean import weighted_sum
from kerastorch.metrics.task import Outputs, Task, filled
from kerastorch.tree import describe


class Perplexity(Metric):
    """The exponential of the mean negative log likelihood of the labels: how many choices a model wavers between.

    The labels are `(N, ...)`. The output is `(N, C, ...)`, as `torch.nn.functional.cross_entropy` has it, or
    `(N, ..., C)`, as language models give it; where both fit, dimension 1 holds the classes. It holds logits, unless
    the loss is one of probabilities or of their logarithms.

    Args:
        ignore_index: A label that is not counted. None: the one that the loss ignores, else -100.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.
    """

    def __init__(self, *, ignore_index: int | None = None, on: On = "both") -> None:
        super().__init__(on=on)
        self.ignore_index = ignore_index
        self.labels: bool | None = None
        self.outputs: Outputs | None = None

    def bound(self, task: Task) -> Perplexity:
        """Return a copy that knows what the loss tells."""
        return filled(self, ignore_index=task.ignore_index, labels=task.labels, outputs=task.outputs)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the sum of the negative log likelihoods, and how many they are."""
        ignored = -100 if self.ignore_index is None else self.ignore_index
        scores, labels = _by_class(output, target, self.labels)
        counts, reduction = counted(target, ignored), "sum" if weight is None else "none"
        try:
            each = functional.nll_loss(self._logarithms(scores), labels, ignore_index=ignored, reduction=reduction)
        except IndexError as error:
            raise MismatchError(
                f"Perplexity has scores for labels 0 to {scores.shape[1] - 1}. {error} Say ignore_index= for a label "
                "that is not to be counted."
            ) from error
        if weight is None:
            return each, torch.count_nonzero(counts)
        return weighted_sum(each.reshape(target.shape), weight)[0], weighted_sum(counts, weight)[0]

    def _logarithms(self, scores: Tensor) -> Tensor:
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # sums in half precision would overflow
        if self.outputs == "log_probabilities":
            return scores
        return scores.log() if self.outputs == "probabilities" else scores.log_softmax(1)

    def value(self, sums: Sequence[Any]) -> float:
        """Return the exponential of the mean."""
        total, count = sums
        return float(torch.tensor(total / count, dtype=torch.float64).exp()) if count else math.nan


def _by_class(output: Any, target: Any, labels: bool | None) -> tuple[Tensor, Tensor]:
    """Return scores `(N, C, ...)` and labels `(N, ...)`, or `(M, C)` and `(M,)`."""
    if isinstance(output, Tensor) and isinstance(target, Tensor) and not target.is_floating_point() and output.ndim > 1:
        if target.shape == output.shape[:1] + output.shape[2:]:
            return output, target.long()
        if target.shape == output.shape[:-1] and not labels:
            return output.reshape(-1, output.shape[-1]), target.long().reshape(-1)
    raise MismatchError(
        "Perplexity needs labels (N, ...), and scores (N, C, ...) or (N, ..., C) for them; got output "
        f"{describe(output)}, target {describe(target)}."
    )
