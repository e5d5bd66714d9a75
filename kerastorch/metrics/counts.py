"""What is right, what is there and what is predicted, counted for each class without waiting for the device.

`torch.bincount` would be shorter; on a GPU it waits for the largest number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from kerastorch.errors import MismatchError, did_you_mean
from kerastorch.metrics.forms import as_columns, counted, exact, form, ignored, spread

Average = Literal["macro", "micro", "weighted"]
_MANY = 128  # up to here pairs are faster, and need a third of the memory for pictures
Share = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Counting(Protocol):
    """What a metric of counts says of itself."""

    average: Average | None
    threshold: float | None
    ignore_index: int | None
    labels: bool | None


def known(average: Average | None) -> Average | None:
    """Return a known average.

    Raises:
        ValueError: It is none.
    """
    if average is not None and average not in get_args(Average):
        hint = did_you_mean(str(average), get_args(Average))
        raise ValueError(f"average is 'macro', 'micro', 'weighted' or None; got {average!r}.{hint}")
    return average


def count(metric: Counting, output: Any, target: Any, weight: Tensor | None) -> Tensor:
    """Return the counts of a batch.

    Returns:
        For classes see `count_pairs`, for very many of them `count_classes`; for values that are compared element by
        element `count_elements`.

    Raises:
        MismatchError: Output and target cannot be compared.
    """
    name = type(metric).__name__
    values, truth, by_class = form(output, target, metric.labels, name)
    if by_class:
        counts = count_pairs if values.shape[1] <= _MANY else count_classes
        return counts(values, truth, ignored(metric.ignore_index, truth, target), weight)
    weight = None if weight is None else spread(weight, truth)
    if metric.average == "micro":
        values, truth = values.reshape(-1, 1), truth.reshape(-1, 1)
        weight = None if weight is None else weight.reshape(-1, 1)
    hint = "" if metric.average is None else " Or type average='micro' to count all elements alike."
    return count_elements(as_columns(values, name, hint), truth, metric.threshold, metric.ignore_index, weight)


def count_pairs(scores: Tensor, labels: Tensor, ignore_index: int | None, weight: Tensor | None) -> Tensor:
    """Count label and prediction together, of scores `(N, C, ...)` and labels `(N, ...)`.

    Returns:
        `(1 + C * C + 1,)`: row by row how often each label was taken for each class; before and after it the labels
        that are no class.
    """
    classes = scores.shape[1]
    each = weigh(labels, ignore_index, weight)
    places = torch.add(scores.argmax(1), labels.long(), alpha=classes).clamp_(-1, classes**2).add_(1)
    counts = torch.zeros(classes**2 + 2, dtype=each.dtype, device=each.device)
    return counts.scatter_add_(0, places.reshape(-1), each.expand(places.numel()))


def count_classes(scores: Tensor, labels: Tensor, ignore_index: int | None, weight: Tensor | None) -> Tensor:
    """Count for scores `(N, C, ...)` and labels `(N, ...)`.

    Returns:
        `(3, 1 + C + 1)`: right, actual and predicted ones of each class; before and after the actual ones the labels
        that are no class.
    """
    classes = scores.shape[1]
    each = weigh(labels, ignore_index, weight)
    labels, predicted = labels.long(), scores.argmax(1)
    right = labels.masked_fill(predicted != labels, -1)
    places = torch.stack([right, labels, predicted]).clamp_(-1, classes).add_(1)
    places = places if places.ndim == 2 else places.flatten(1)
    counts = torch.zeros(3, classes + 2, dtype=each.dtype, device=each.device)
    return counts.scatter_add_(1, places, each.expand(places.shape))


def weigh(labels: Tensor, ignore_index: int | None, weight: Tensor | None) -> Tensor:
    """Return what each label `(N, ...)` counts, in one row `(M,)`, or `(1,)` if all count 1."""
    dtype = exact(labels.device)
    if weight is None and ignore_index is None:
        return labels.new_ones(1, dtype=dtype)
    if weight is None:
        return counted(labels, cast(int, ignore_index)).to(dtype).reshape(-1)
    each = spread(weight.to(dtype), labels)
    return (each if ignore_index is None else each * counted(labels, ignore_index)).reshape(-1)


def count_elements(
    values: Tensor, truth: Tensor, threshold: float | None, ignore_index: int | None, weight: Tensor | None
) -> Tensor:
    """Count for values, truths and weights `(N, L, ...)`.

    Returns:
        `(4, L)`: right, actual and predicted ones of each label, and all that count.
    """
    truth = truth.reshape(values.shape)
    predicted, actual = values > (0.5 if threshold is None else threshold), truth > 0.5
    counts = torch.ones_like(actual)
    if ignore_index is not None:
        counts = counted(truth, ignore_index)
        predicted, actual = predicted & counts, actual & counts
    each = torch.stack([predicted & actual, actual, predicted, counts])
    if weight is not None:
        each = each * weight.to(exact(each.device)).reshape(values.shape)
    return each.sum((1, *range(3, each.ndim)), dtype=exact(each.device))


def averaged(counts: Tensor, average: Average | None, share: Share) -> float | Tensor:
    """Make a value of the counts of an epoch.

    Args:
        counts: As `count` gives them.
        average: How the values of the classes become one.
        share: Says of right, actual and predicted ones what is divided by what.

    Raises:
        MismatchError: There are labels that are no class.
    """
    by_class = counts.ndim == 1 or len(counts) == 3
    counts = of_classes(counts) if by_class else counts
    right, actual, predicted = counts[:3].sum(1, keepdim=True) if average == "micro" else counts[:3]
    over, under = share(right, actual, predicted)
    each = torch.where(under == 0, 0.0, over / under)
    if not counts[1 if by_class else 3].any():
        each = torch.full_like(each, torch.nan)
    elif average == "weighted" and actual.any():
        return float((each * actual).sum() / actual.sum())
    elif average == "macro" and by_class:
        each = each[(actual + predicted) > 0]
    return each if average is None else float(each.mean())


def of_classes(counts: Tensor) -> Tensor:
    """Return the counts `(3, C)` of right, actual and predicted ones.

    Raises:
        MismatchError: There are labels that are no class.
    """
    if counts.ndim == 1:
        matrix = of_pairs(counts)
        return torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])
    complain(float(counts[1, 0] + counts[1, -1]), counts.shape[1] - 2)
    return counts[:, 1:-1]


def of_pairs(counts: Tensor) -> Tensor:
    """Return the matrix `(C, C)` of pairs, a row for each label.

    Raises:
        MismatchError: There are labels that are no class.
    """
    classes = math.isqrt(len(counts) - 2)
    complain(float(counts[0] + counts[-1]), classes)
    return counts[1:-1].reshape(classes, classes)


def complain(outside: float, classes: int) -> None:
    """Raise a MismatchError if there are labels that are no class."""
    if outside:
        raise MismatchError(
            f"The output has scores for labels 0 to {classes - 1}, but there are others: {outside:g} of them. Labels "
            "begin at 0; say ignore_index= for one that is not to be counted."
        )
