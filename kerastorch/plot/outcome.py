"""What a model says: classes and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import DataError, MismatchError
from kerastorch.tree import describe


def check_model(model: Any, purpose: str) -> None:
    """See that it predicts.

    Raises:
        TypeError: It is no `kerastorch.Model`.
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(f"{purpose} needs a kerastorch.Model; got a {type(model).__name__}. Type kt.Model(net).")


def answers(output: Any) -> tuple[Tensor, Tensor, int]:
    """Return the class of each sample, its probability, and how many classes there are.

    Args:
        output: Scores of classes `(N, C)`, or of one class against none, `(N,)` or `(N, 1)`: logits or probabilities;
            or a dict with such as `"logits"`.

    Returns:
        int64 `(N,)`, float64 `(N,)`, and the number.

    Raises:
        MismatchError: The output is something else.
    """
    scores: Any = output.get("logits") if isinstance(output, Mapping) else output
    if not isinstance(scores, Tensor) or scores.ndim not in (1, 2) or not scores.numel():
        raise MismatchError(f"A classifier gives (N, C), (N, 1) or (N,); got {describe(output)}.")
    scores = scores.double()
    within = bool(((scores >= 0) & (scores <= 1)).all())
    if scores.ndim == 1 or scores.shape[1] == 1:
        yes = (scores if within else scores.sigmoid()).reshape(-1)
        return (yes > 0.5).long(), torch.maximum(yes, 1 - yes), 2
    sums_to_one = bool(((scores.sum(1) - 1).abs() < 1e-3).all())
    sure, labels = (scores if within and sums_to_one else scores.softmax(1)).max(1)
    return labels, sure, scores.shape[1]


def truths(target: Any, output: Any, count: int) -> Tensor:
    """Return the label of each sample, int64 `(N,)`.

    Args:
        target: `(N,)`, `(N, 1)`, or `(N, C)` with a score for each class.
        output: What the model gave, for the message.
        count: How many samples there are.

    Raises:
        DataError: There is no target.
        MismatchError: It has another shape.
    """
    if not isinstance(target, Tensor):
        raise DataError(f"There are no labels to compare with: the targets are {describe(target)}. Pass (x, y).")
    if target.ndim == 2 and target.shape[1] > 1:
        target = target.float().argmax(1)
    if target.numel() != count:
        raise MismatchError(f"Labels are (N,) for one class a sample; got {describe(target)} for {describe(output)}.")
    labels: Tensor = target.flatten().long()
    return labels
