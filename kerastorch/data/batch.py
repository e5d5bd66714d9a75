"""One batch: inputs, targets, sample weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

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
    if type(item) in (tuple, list) and len(item) == 2:
        x, y = item
        if _is_ready(x) and _is_ready(y):  # what a DataLoader gives nearly always
            return Batch(index, x, y, None, x.size(0))
    x, y, weight = item, None, None
    if isinstance(item, (tuple, list)) and not hasattr(item, "to"):  # a PackedSequence is a tuple, and an input
        if not 1 <= len(item) <= 3:
            raise DataError(
                f"A batch is x, (x, y) or (x, y, sample_weight); batch {index} has {len(item)} items: "
                f"{describe(item)}. Several inputs go into a tuple of their own: ((a, b), y)."
            )
        x, y, weight = (*item, None, None)[:3]
    x = to_tensors(x, float_dtype)
    y = None if y is None else to_tensors(y, float_dtype, labels=True)
    size = count_samples(x, y)
    if weight is not None:
        weight = to_tensors(weight, float_dtype)
        if not isinstance(weight, Tensor) or weight.numel() != size:
            raise DataError(
                f"The third item of a batch is sample weights ({size},); batch {index} has {describe(weight)}. "
                "Several inputs go into a tuple of their own: ((a, b), y)."
            )
    return Batch(index, x, y, weight, size)


def _is_ready(value: Any) -> bool:
    return type(value) is Tensor and value.dtype is not torch.float64 and value.ndim > 0


def to_tensors(tree: Any, float_dtype: torch.dtype, *, labels: bool = False) -> Any:
    """Make arrays tensors, and float64 the dtype of the net; other leaves stay as they are."""
    if type(tree) is Tensor:
        return tree.to(float_dtype) if tree.dtype == torch.float64 else tree
    return map_leaves(lambda leaf: _to_tensor(leaf, float_dtype, labels), tree)


def _to_tensor(leaf: Any, float_dtype: torch.dtype, labels: bool) -> Any:
    if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "fiubc":
        is_labels = labels and leaf.dtype.kind in "iu"
        leaf = _from_numpy(leaf).long() if is_labels else _from_numpy(leaf)
    return leaf.to(float_dtype) if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 else leaf


def _from_numpy(array: Any) -> Tensor:
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    if array.flags.writeable:
        return torch.as_tensor(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # pandas gives such; none is written
        return torch.as_tensor(array)


def count_samples(*trees: Any) -> int:
    """Return how many samples the first tensor that has dimensions holds; 1 where there is none."""
    for tree in trees:
        for leaf in leaves(tree) if type(tree) is not Tensor else (tree,):
            if isinstance(leaf, Mapping):  # what a tokenizer gives: it has .to() itself
                return count_samples(*leaf.values())
            if isinstance(leaf, PackedSequence):
                return int(leaf.batch_sizes[0])
            if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim:
                return int(leaf.shape[0])
    return 1
