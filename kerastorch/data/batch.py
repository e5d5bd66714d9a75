"""One batch: inputs, targets, sample weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kerastorch.errors import DataError
from kerastorch.tree import describe, leaves, map_leaves


@dataclass(slots=True)
class Batch:
    """What one step works on.

    Attributes:
        index: Position in the epoch, from 0.
        x: What goes into the net: a tensor `(N, ...)`, or a tuple or dict of them.
        y: Targets `(N, ...)`, nested as the user likes; None where there are none.
        weight: Weight of each sample `(N,)`, or None.
        size: Number of samples N.
    """

    index: int
    x: Any
    y: Any = None
    weight: Any = None
    size: int = 1

    def describe(self) -> str:
        """Say shapes, dtypes and devices in one line."""
        weight = "" if self.weight is None else f", weight {describe(self.weight)}"
        return f"x {describe(self.x)}, y {describe(self.y)}{weight}"


def unpack(item: Any, index: int, float_dtype: torch.dtype) -> Batch:
    """Make a Batch of `x`, `(x,)`, `(x, y)` or `(x, y, weight)`.

    NumPy arrays become tensors. Float64 becomes `float_dtype`, integer arrays among the targets become int64.

    Raises:
        DataError: A tuple or list of no or more than three items.
    """
    x, y, weight = item, None, None
    if isinstance(item, (tuple, list)) and not hasattr(item, "to"):  # a PackedSequence is a tuple, and an input
        if not 1 <= len(item) <= 3:
            raise DataError(
                f"A batch is x, (x, y) or (x, y, sample_weight); batch {index} has {len(item)} items: "
                f"{describe(item)}. Several inputs go into a tuple of their own: ((a, b), y)."
            )
        x, y, weight = (*item, None, None)[:3]
    x = to_tensors(x, float_dtype)
    return Batch(
        index,
        x,
        None if y is None else to_tensors(y, float_dtype, labels=True),
        None if weight is None else to_tensors(weight, float_dtype),
        count_samples(x),
    )


def to_tensors(tree: Any, float_dtype: torch.dtype, *, labels: bool = False) -> Any:
    """Make arrays tensors, and float64 the dtype of the net; other leaves stay as they are."""
    if type(tree) is Tensor:  # what a DataLoader gives nearly always
        return tree.to(float_dtype) if tree.dtype == torch.float64 else tree
    return map_leaves(lambda leaf: _to_tensor(leaf, float_dtype, labels), tree)


def _to_tensor(leaf: Any, float_dtype: torch.dtype, labels: bool) -> Any:
    if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "fiub":
        leaf = torch.as_tensor(leaf)
        if labels and not leaf.is_floating_point() and leaf.dtype != torch.bool:
            leaf = leaf.long()
    return leaf.to(float_dtype) if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 else leaf


def count_samples(x: Any) -> int:
    """Return the length of the first dimension of the first tensor; 1 where there is none."""
    for leaf in leaves(x) if not isinstance(x, Tensor) else (x,):
        if isinstance(leaf, Tensor):
            return leaf.shape[0] if leaf.ndim else 1
    return 1
