"""What a model says: classes and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import DataError, MismatchError
from kerastorch.metrics.task import Outputs, Task
from kerastorch.resolve.metric import task
from kerastorch.tree import describe

IGNORED = -100  # by the losses of torch


def check_model(model: Any, purpose: str) -> None:
    """See that it predicts.

    Raises:
        TypeError: It is no `kerastorch.Model`.
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(f"{purpose} needs a kerastorch.Model; got a {type(model).__name__}. Type kt.Model(net).")


def task_of(model: Any) -> Task:
    """Return what the loss that a model was compiled with tells; nothing for a model without."""
    recipe = getattr(getattr(model, "_session", None), "recipe", None)
    loss = getattr(recipe, "loss", None)
    return Task() if loss is None else task(loss)


def scores_of(output: Any) -> Tensor:
    """Return the scores in an output, float64 `(N, C)`, `(N, 1)` or `(N,)`.

    Args:
        output: Scores of classes `(N, C)`, or of one class against none, `(N,)` or `(N, 1)`; or a dict with such as
            `"logits"`.

    Raises:
        MismatchError: The output is something else.
    """
    scores: Any = output.get("logits") if isinstance(output, Mapping) else output
    if not isinstance(scores, Tensor) or scores.ndim not in (1, 2) or not scores.numel():
        raise MismatchError(f"A classifier gives (N, C), (N, 1) or (N,); got {describe(output)}.")
    return scores.double()


def answers(output: Any, outputs: Outputs | None = None) -> tuple[Tensor, Tensor, int]:
    """Return the class of each sample, its probability, and how many classes there are.

    Args:
        output: As for `scores_of`.
        outputs: What its numbers are; by default what they look like.

    Returns:
        int64 `(N,)`, float64 `(N,)`, and the number.

    Raises:
        MismatchError: The output is no scores.
        ValueError: There are NaN among them.
    """
    scores = scores_of(output)
    outputs = outputs or looks_like([output])
    is_one = scores.ndim == 1 or scores.shape[1] == 1
    if is_one:
        yes = _one_probability(scores.reshape(-1), outputs)
        labels, sure = (yes > 0.5).long(), torch.maximum(yes, 1 - yes)
    else:
        sure, labels = _probabilities(scores, outputs).max(1)
    missing = int(sure.isnan().sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(sure)} outputs are NaN. kt.callbacks.TerminateOnNaN() finds where it began."
        )
    return labels, sure, 2 if is_one else scores.shape[1]


def looks_like(outputs: Iterable[Any]) -> Outputs:
    """Return what the outputs of batches are, for a model whose loss does not tell; one batch can refute the others."""
    return "probabilities" if all(map(_may_be_probabilities, outputs)) else "logits"


def _may_be_probabilities(output: Any) -> bool:
    if isinstance(output, Mapping):
        return False
    scores = scores_of(output)
    within = bool(((scores >= 0) & (scores <= 1)).all())
    is_one = scores.ndim == 1 or scores.shape[1] == 1
    sums_to_one = is_one or bool(((scores.sum(1) - 1).abs() < 1e-3).all())
    return within and sums_to_one


def _one_probability(scores: Tensor, outputs: Outputs) -> Tensor:
    if outputs == "probabilities":
        return scores
    return scores.exp() if outputs == "log_probabilities" else scores.sigmoid()


def _probabilities(scores: Tensor, outputs: Outputs) -> Tensor:
    return scores if outputs == "probabilities" else scores.softmax(1)  # the exponents of logarithms sum to 1 already


def truths(target: Any, output: Any, count: int, classes: int, ignored: int | None = None) -> Tensor:
    """Return the label of each sample, int64 `(N,)`; `IGNORED` where a sample has none.

    Args:
        target: `(N,)`, `(N, 1)`, or `(N, C)` with the probability of each class.
        output: What the model gave, for the message.
        count: How many samples there are.
        classes: How many classes there are.
        ignored: The label of a sample that has none; -100 by default.

    Raises:
        DataError: There is no target.
        MismatchError: It has another shape, or is no class.
    """
    if not isinstance(target, Tensor):
        raise DataError(f"There are no labels to compare with: the targets are {describe(target)}. Pass (x, y).")
    if target.ndim == 2 and target.shape[1] > 1:
        target = _of_rows(target)
    if target.numel() != count:
        raise MismatchError(f"Labels are (N,) for one class a sample; got {describe(target)} for {describe(output)}.")
    labels = _whole(target.flatten(), classes)
    labels = labels.masked_fill(labels == (IGNORED if ignored is None else ignored), IGNORED)
    known = labels[labels != IGNORED]
    if len(known) and (known.min() < 0 or known.max() >= classes):
        raise MismatchError(f"There are {classes} classes, but labels from {known.min()} to {known.max()}.")
    return labels


def _of_rows(target: Tensor) -> Tensor:
    rows = target.double()
    one_class = ((rows.sum(1) - 1).abs() < 1e-3) & (rows >= 0).all(1)
    if not bool(one_class.all()):
        row = rows[int((~one_class).nonzero()[0])].tolist()
        shown = ", ".join(f"{value:g}" for value in row[:8]) + (", ..." if len(row) > 8 else "")
        raise MismatchError(
            f"A target (N, C) is one class a sample, so that its rows sum to 1; got a row [{shown}]. For several "
            "labels a sample, metrics=['confusion_matrix'] counts each by itself."
        )
    return rows.argmax(1)


def _whole(target: Tensor, classes: int) -> Tensor:
    if not target.is_floating_point() or bool((target == target.round()).all()):
        return target.long()
    if classes == 2 and bool((((target >= 0) & (target <= 1)) | (target == IGNORED)).all()):
        return torch.where(target == IGNORED, IGNORED, (target > 0.5).long())
    value = target[target != target.round()][0].item()
    raise MismatchError(f"The targets are no classes but numbers such as {value:.4g}: is the model a regression?")
