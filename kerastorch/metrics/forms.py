"""What an output and its target mean together: scores of classes with labels, or values with truths of one shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.metrics.task import Outputs
from kerastorch.tree import describe


def form(output: Any, target: Any, labels: bool | None, what: str) -> tuple[Tensor, Tensor, bool]:
    """Decide what is compared.

    Args:
        output: `(N, C, ...)` with labels `(N, ...)`, or of the target's shape, or `(N, 1, ...)` for `(N, ...)`.
        target: The target.
        labels: Whether dimension 1 of the output holds a score for each class: then a target of its shape does so too.
        what: Who asks, for the message.

    Returns:
        Scores `(N, C, ...)`, labels `(N, ...)` and True; or values, truths of their shape, and False.

    Raises:
        MismatchError: They cannot be compared.
    """
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        if output.ndim > 1 and target.shape == output.shape[:1] + output.shape[2:]:
            by_class = output.shape[1] > 1 or bool(labels)
            return output, target if by_class else target.unsqueeze(1), by_class
        if output.shape == target.shape and not labels:
            return output, target, False
        if output.shape == target.shape and output.ndim > 1:
            return output, (target.byte() if target.dtype == torch.bool else target).argmax(1), True
    raise MismatchError(
        f"{what} cannot compare output {describe(output)} with target {describe(target)}. It takes labels (N, ...) for "
        "scores (N, C, ...), or two tensors of one shape."
    )


def counted(target: Tensor, ignore_index: int) -> Tensor:
    """Return where a target is not the label that is ignored."""
    return (target if target.is_floating_point() else target.long()) != ignore_index  # as bytes, 156 would be -100


def ignored(ignore_index: int | None, truth: Tensor, target: Tensor) -> int | None:
    """Return the label to ignore: none, where `form` made labels of a score for each class, as torch has it."""
    return None if truth.ndim < target.ndim else ignore_index


def marked(truth: Tensor, ignore_index: int | None, *, by_class: bool) -> Tensor:
    """Turn labels into integers, truths into zeros and ones, and mark those that do not count; see `are_counted`."""
    labels = truth.long() if by_class else (truth > 0.5).char()
    if ignore_index is None:
        return labels
    return labels.masked_fill(~counted(truth, ignore_index), torch.iinfo(labels.dtype).min)


def are_counted(labels: Tensor) -> Tensor:
    """Return where labels that were `marked` count."""
    return labels != torch.iinfo(labels.dtype).min


def as_columns(values: Tensor, what: str, hint: str = "") -> Tensor:
    """Give values that are compared element by element a dimension 1 for labels: `(N, L, ...)`; L is 1 for `(N,)`.

    Raises:
        MismatchError: They are `(N, A, B)`, which may be labels along A, or pictures.
    """
    if values.ndim == 3 and values.shape[1] > 1:
        raise MismatchError(
            f"{what} cannot tell whether {tuple(values.shape)} are pictures, or labels along dimension 1. "
            f"Give labels a dimension of their own: (N, 1, H, W) for pictures, (N, L, T, 1) for labels.{hint}"
        )
    return values.reshape(-1, 1) if values.ndim < 2 else values


def as_rows(columns: Tensor) -> Tensor:
    """Turn `(N, L, ...)` into `(M, L)`."""
    return columns if columns.ndim == 2 else columns.movedim(1, -1).reshape(-1, columns.shape[1])


def spread(weight: Tensor, values: Tensor) -> Tensor:
    """Give each value `(N, ...)` the weight of its sample: `(N,)` becomes `(N, ...)`.

    Raises:
        MismatchError: There are more or fewer weights than samples.
    """
    if values.shape[:1] != (weight.numel(),):
        raise MismatchError(
            f"There are {weight.numel()} sample weights for values of the shape {tuple(values.shape)}. Weights are "
            "(N,), one for each sample."
        )
    return weight.reshape(-1, *(1,) * (values.ndim - 1)).expand_as(values)


def probabilities(scores: Tensor, outputs: Outputs | None, *, by_class: bool) -> Tensor:
    """Turn scores `(M, C)` of classes, or values, on the CPU, into probabilities as float64.

    Where nobody knows what they are, they are logits if one of them is no probability.
    """
    scores = scores.double()
    if outputs is None:
        outputs = "logits" if ((scores < 0) | (scores > 1)).any() else "probabilities"
    if outputs == "log_probabilities":
        return scores.exp()
    if outputs == "probabilities":
        return scores
    return scores.softmax(1) if by_class else scores.sigmoid()


def exact(device: torch.device) -> torch.dtype:
    """Return the dtype for sums on a device: float64, so that small steps are not lost; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64
