"""Nested tensors: dicts, lists, tuples and named tuples of anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import DataError


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to each leaf and keep the nesting.

    Tensors are leaves, and so is what has `.to()` itself, such as a PackedSequence.

    Example:
        >>> map_leaves(lambda leaf: leaf + 1, {"a": 1, "b": (2, 3)})
        {'a': 2, 'b': (3, 4)}
    """
    if hasattr(tree, "to"):
        return function(tree)
    if isinstance(tree, Mapping):
        mapped = {key: map_leaves(function, value) for key, value in tree.items()}
        # Output classes of model libraries are dicts that take their fields as keywords
        return mapped if type(tree) is dict else type(tree)(**mapped)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_leaves(function, value) for value in tree)
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield each leaf, in order."""
    if isinstance(tree, Mapping) and not hasattr(tree, "to"):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)) or hasattr(tree, "to"):
        yield tree
        return
    for value in tree:
        yield from leaves(value)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield each tensor, in order; other leaves are left out."""
    return (leaf for leaf in leaves(tree) if isinstance(leaf, Tensor))


def concatenate(trees: list[Any]) -> Any:
    """Join the outputs of batches along dimension 0, leaf by leaf.

    Args:
        trees: Structures of one nesting whose tensors have the shapes `(N_i, ...)`, all but N_i equal.

    Raises:
        DataError: The tensors cannot be joined.
    """
    first = trees[0]
    if isinstance(first, Mapping):
        joined = {key: concatenate([tree[key] for tree in trees]) for key in first}
        return joined if type(first) is dict else type(first)(**joined)
    if isinstance(first, (list, tuple)):
        columns = [concatenate(list(column)) for column in zip(*trees, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    return _join(trees)


def _join(parts: list[Any]) -> Any:
    if not isinstance(parts[0], Tensor):
        return parts[0] if parts[0] is None else parts
    if parts[0].ndim == 0:
        return torch.stack(parts)
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(sorted({str(tuple(part.shape[1:])) for part in parts}))
        raise DataError(
            f"The outputs of the batches cannot be joined: their shapes after the first dimension differ ({shapes}). "
            "Pad them in the net, or predict batch by batch with predict_on_batch."
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def describe(tree: Any) -> str:
    """Say shapes, dtypes and devices in one line, such as `float32 (64, 3, 32, 32) cpu`."""
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {tuple(tree.shape)} {tree.device}"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        return "(" + ", ".join(describe(value) for value in tree) + ")"
    return "None" if tree is None else type(tree).__name__


def move(tree: Any, device: torch.device | None, non_blocking: bool) -> Any:
    """Move whatever has `.to()` to a device; other leaves stay."""
    if type(tree) is Tensor:
        return tree if tree.device == device else tree.to(device, non_blocking=non_blocking)
    return map_leaves(lambda leaf: _moved(leaf, device, non_blocking), tree)


def _moved(leaf: Any, device: torch.device | None, non_blocking: bool) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to(device, non_blocking=non_blocking)
    return leaf.to(device) if hasattr(leaf, "to") else leaf
