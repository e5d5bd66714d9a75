"""Weights of classes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.labels import MOST_CLASSES, label_counts
from kerastorch.data.told import as_tensor
from kerastorch.errors import DataError, did_you_mean


def class_weights(spec: Any, data: Any, *, name: str, rows: Tensor | None = None, classes: int | None = None) -> Tensor:
    """Return the weight of each class, float32 `(C,)`.

    Args:
        spec: `{label: weight}`, where labels that are left out weigh 1; or one weight per class, `(C,)`; or
            `"balanced"`, which gives all classes that are there the same share in the loss: n / (classes * count), as
            scikit-learn's `compute_class_weight` has it (after King and Zeng, Logistic Regression in Rare Events Data,
            2001). The label -100 is not counted.
        data: What is trained on, read for `"balanced"` only.
        name: What the user calls it, for messages.
        rows: Numbers of the samples to count, int64 `(M,)`; all by default.
        classes: C, where it is known; classes without a weight weigh 1. By default as many as the weights need.

    Raises:
        ValueError: `spec` is none of these, or does not fit `classes`.
        DataError: The data have no labels, or can be read only once.
    """
    if isinstance(spec, str):
        if spec != "balanced":
            raise ValueError(f"Unknown class_weight {spec!r}.{did_you_mean(spec, ['balanced'])} {_KNOWN}")
        weights = _balanced(label_counts(data, name=name, rows=rows), name)
    elif isinstance(spec, Mapping):
        weights = _by_label(spec)
    else:
        weights = _by_place(spec, classes)
    if classes is None or len(weights) == classes:
        return weights
    if len(weights) > classes:
        raise ValueError(
            f"class_weight has a weight for the class {len(weights) - 1}, but there are {classes} classes, from 0."
        )
    return torch.cat([weights, weights.new_ones(classes - len(weights))])


_KNOWN = "It is {label: weight}, one weight per class, or 'balanced'."


def _balanced(counts: Tensor, name: str) -> Tensor:
    if not counts.sum():
        raise DataError(f"{name} has no labels to count.")
    present = counts > 0
    balanced = counts.sum() / (present.sum() * counts.double())  # infinite where there is nothing to weigh
    return torch.where(present, balanced, 1.0).float()


def _by_label(spec: Mapping[Any, Any]) -> Tensor:
    for label, weight in spec.items():
        if not isinstance(label, Integral) or not 0 <= int(label) < MOST_CLASSES:
            raise ValueError(
                f"class_weight is {{label: weight}} with labels 0, 1, 2 and so on; got the label {label!r}."
            )
        if not isinstance(weight, Real):
            raise ValueError(f"class_weight[{label!r}] is a number; got {weight!r}.")
    weights = torch.ones(1 + max(map(int, spec), default=-1))
    for label, weight in spec.items():
        weights[int(label)] = float(weight)
    return _checked(weights)


def _by_place(spec: Any, classes: int | None) -> Tensor:
    weights = as_tensor(spec)
    if weights is None or weights.ndim != 1:
        raise ValueError(f"Unknown class_weight {spec!r}. {_KNOWN}")
    if classes is not None and len(weights) != classes:
        raise ValueError(f"class_weight has {len(weights)} weights, but there are {classes} classes.")
    return _checked(weights.float())


def _checked(weights: Tensor) -> Tensor:
    if not len(weights):
        raise ValueError(f"class_weight is empty. {_KNOWN}")
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bad.any():
        place = int(bad.nonzero()[0])
        raise ValueError(
            f"The weight of a class is 0 or more; class_weight has {weights[place]:g} for the class {place}."
        )
    return weights
