"""A batch, cut into parts along its samples."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.data import Batch
from kerastorch.errors import DataError
from kerastorch.tree import map_leaves, tensors


def cut(batch: Batch, most: int) -> list[Batch]:
    """Return parts of at most so many samples, in order, whose sizes differ by one at most: none has a mere rest.

    Tensors are cut along dimension 0 where that is as long as the batch, and not copied. In `x`, others are for every
    part, such as an adjacency matrix that all samples share.

    Args:
        batch: The batch; itself the only part where it is small enough.
        most: Samples in a part.

    Raises:
        DataError: It holds something that cannot be cut.
    """
    if batch.size <= most:
        return [batch]
    if not any(_is_long(tensor, batch.size) for tensor in _tensors(batch.x)):
        raise DataError(f"no input has the samples in dimension 0: x is {type(batch.x).__name__}")
    count = -(-batch.size // most)
    places = [place * batch.size // count for place in range(count + 1)]
    return [_part(batch, start, stop) for start, stop in itertools.pairwise(places)]


def _part(batch: Batch, start: int, stop: int) -> Batch:
    x = _cut(batch.x, start, stop, batch.size, shares=True)
    others = (_cut(tree, start, stop, batch.size) for tree in (batch.y, batch.weight, batch.truth))
    y, weight, truth = others
    return Batch(batch.index, x, y, weight, stop - start, truth)


def _cut(tree: Any, start: int, stop: int, size: int, *, shares: bool = False) -> Any:
    def of(leaf: Any) -> Any:
        if isinstance(leaf, Mapping):  # what a tokenizer gives: it has .to() itself
            twin: Any = copy.copy(leaf)
            for key, value in leaf.items():
                twin[key] = _cut(value, start, stop, size, shares=shares)
            return twin
        if leaf is None or (shares and isinstance(leaf, (bool, int, float))):
            return leaf
        if not isinstance(leaf, Tensor) or leaf.is_nested or leaf.layout != torch.strided:
            kind = f"{leaf.layout} tensor" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise DataError(f"it holds a {kind}, which cannot be cut into samples")
        if _is_long(leaf, size):
            return leaf[start:stop]
        if shares:
            return leaf
        raise DataError(f"targets or weights of the shape {tuple(leaf.shape)} have no samples in dimension 0")

    return map_leaves(of, tree)


def _is_long(tensor: Tensor, size: int) -> bool:
    return tensor.ndim > 0 and not tensor.is_nested and len(tensor) == size


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Mapping):  # also one that has .to()
        return [tensor for value in tree.values() for tensor in _tensors(value)]
    return list(tensors(tree))


def versions(tree: Any) -> list[int]:
    """Return numbers that change where a tensor is written into."""
    if type(tree) is Tensor:  # as nearly always
        return [0 if tree.is_inference() else tree._version]
    return [0 if tensor.is_inference() else tensor._version for tensor in _tensors(tree)]
