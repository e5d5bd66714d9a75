"""Metrics of the order that the scores of an epoch put its samples in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import MismatchError, needs
from kerastorch.metrics.base import Metric, On, Rows, Sum
from kerastorch.metrics.counts import complain
from kerastorch.metrics.forms import are_counted, as_columns, as_rows, form, ignored, marked, probabilities
from kerastorch.metrics.task import Outputs, Task, filled

_PACKAGE = "torchmetrics.functional.classification"


class AUROC(Metric):
    """The area under the receiver operating characteristic: how often a 1 has a larger score than a 0.

    - Output `(N, C, ...)` with labels `(N, ...)`: the mean over the classes, each against the rest.
    - Output and target `(N,)`, `(N, 1, ...)` or `(N, L, ...)`: the mean over the labels.

    Classes and labels that do not occur, or nothing else, have no place in the mean; where none is left it is NaN. It
    keeps the scores of the epoch on their device, is computed at its end, by torchmetrics, and is not shown before.

    Args:
        ignore_index: A label that is not counted. None: the one that the loss ignores.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Raises:
        MissingPackageError: torchmetrics is not installed.
    """

    running = False

    def __init__(self, *, ignore_index: int | None = None, on: On = "both") -> None:
        super().__init__(on=on)
        needs(_PACKAGE, purpose="AUROC")
        self.ignore_index = ignore_index
        self.labels: bool | None = None
        self.outputs: Outputs | None = None

    def bound(self, task: Task) -> AUROC:
        """Return a copy that knows what the loss tells."""
        return filled(self, ignore_index=task.ignore_index, labels=task.labels, outputs=task.outputs)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return scores and labels."""
        return _rows(self, output, target, weight)

    def value(self, sums: Sequence[Any]) -> float:
        """Return the mean of the areas."""
        area = needs(_PACKAGE, purpose="AUROC").binary_auroc
        return _mean(area, _pairs(self, *sums), lambda truth: bool(truth.any()) and not bool(truth.all()))


class AveragePrecision(Metric):
    """The area under the curve of precision over recall, as the sum of steps that scikit-learn computes.

    What is measured, and when, is as for `AUROC`; classes and labels that do not occur have no place in the mean. With
    a score for each of two classes it is the mean of both; give the loss one output for the value of the ones.

    Args:
        ignore_index: A label that is not counted. None: the one that the loss ignores.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Raises:
        MissingPackageError: torchmetrics is not installed.
    """

    running = False

    def __init__(self, *, ignore_index: int | None = None, on: On = "both") -> None:
        super().__init__(on=on)
        needs(_PACKAGE, purpose="AveragePrecision")
        self.ignore_index = ignore_index
        self.labels: bool | None = None
        self.outputs: Outputs | None = None

    def bound(self, task: Task) -> AveragePrecision:
        """Return a copy that knows what the loss tells."""
        return filled(self, ignore_index=task.ignore_index, labels=task.labels, outputs=task.outputs)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return scores and labels."""
        return _rows(self, output, target, weight)

    def value(self, sums: Sequence[Any]) -> float:
        """Return the mean of the areas."""
        area = needs(_PACKAGE, purpose="AveragePrecision").binary_average_precision
        return _mean(area, _pairs(self, *sums), lambda truth: bool(truth.any()))


Ranking = AUROC | AveragePrecision


def _rows(metric: Ranking, output: Any, target: Any, weight: Tensor | None) -> tuple[Rows, Rows]:
    """Return scores `(M, C)` and labels `(M,)`; or values and truths `(M, L)`."""
    name = type(metric).__name__
    if weight is not None:
        raise MismatchError(
            f"{name} takes no sample weights, since torchmetrics has none for it. A function of scikit-learn takes "
            "them: Epoch(sklearn.metrics.roc_auc_score, outputs='probabilities')."
        )
    values, truth, by_class = form(output, target, metric.labels, name)
    labels = marked(truth, ignored(metric.ignore_index, truth, target), by_class=by_class)
    if by_class:
        return Rows(as_rows(values)), Rows(labels.reshape(-1))
    columns = as_columns(values, name)
    return Rows(as_rows(columns)), Rows(as_rows(labels.reshape(columns.shape)))


def _pairs(metric: Ranking, scores: Tensor, truth: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scores and truths `(M,)` of each class or label."""
    if truth.ndim > 1:
        for values, ones in zip(scores.unbind(1), truth.unbind(1), strict=True):
            counts = are_counted(ones)
            yield values[counts], ones[counts] == 1
        return
    counts, classes = are_counted(truth), scores.shape[1]
    scores, truth = scores[counts], truth[counts]
    complain(int(((truth < 0) | (truth >= classes)).sum()), classes)
    scores = probabilities(scores, metric.outputs, by_class=True)  # each class is ranked across samples
    for place in range(classes):
        yield scores[:, place], truth == place


def _mean(area: Callable[..., Tensor], pairs: Iterator[tuple[Tensor, Tensor]], fits: Callable[[Tensor], bool]) -> float:
    areas = []
    for scores, truth in pairs:
        if scores.isnan().any():
            return math.nan
        if fits(truth):
            areas.append(float(area(_ranks(scores), truth.long(), validate_args=False)))
    return math.fsum(areas) / len(areas) if areas else math.nan


def _ranks(scores: Tensor) -> Tensor:
    # torchmetrics would put what is not between 0 and 1 through a sigmoid in float32, and large scores would be equal
    ranks: Tensor = torch.unique(scores, return_inverse=True)[1]
    return ranks.double() / len(scores)
