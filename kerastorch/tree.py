"""Nested tensors: dicts, lists, tuples and named tuples of anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import DataError, MismatchError, did_you_mean


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
        return _alike(tree, {key: map_leaves(function, value) for key, value in tree.items()})
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_leaves(function, value) for value in tree)
    return function(tree)


def _alike(tree: Any, values: dict[Any, Any]) -> Any:
    if type(tree) is dict:
        return values
    if all(isinstance(key, str) for key in values):
        with suppress(TypeError):  # a class of the user's own may take something else
            return type(tree)(**values)  # output classes of model libraries take their fields as keywords
    twin = copy.copy(tree)
    twin.update(values)
    return twin


def leaves(tree: Any) -> Iterator[Any]:
    """Yield each leaf, in order."""
    if not _is_nested(tree):
        yield tree
        return
    for value in tree.values() if isinstance(tree, Mapping) else tree:
        yield from leaves(value)


def detached(tree: Any) -> Any:
    """Cut every tensor off its graph."""
    if type(tree) is Tensor:
        return tree.detach()
    return map_leaves(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield each tensor, in order; other leaves are left out."""
    return (leaf for leaf in leaves(tree) if isinstance(leaf, Tensor))


def surely_not_negative(labels: Tensor) -> bool:
    """Whether no label is below 0; False where that is not known without a wait for the device.

    On the CPU, to look costs less than the sums that it saves.
    """
    if not labels.is_cpu or torch.compiler.is_compiling():
        return False
    return labels.numel() > 0 and labels.min().item() >= 0


def pick(tree: Any, key: str | int, what: str) -> Any:
    """Return one part of a structure: by its key or field, or by its place.

    Args:
        tree: A dict, a tuple, a list, or an object with fields.
        key: The name or the place.
        what: What the structure is, for the message: `"output"`.

    Raises:
        MismatchError: There is no such part.
    """
    if isinstance(tree, Mapping):
        known: list[str] | None = [str(name) for name in tree]
        if key in tree:
            return tree[key]
    elif isinstance(key, int):
        known = None
        if isinstance(tree, (tuple, list)) and key < len(tree):
            return tree[key]
    else:
        known = list(getattr(tree, "_fields", ())) or None
        is_method = isinstance(tree, Tensor) or (isinstance(tree, (tuple, list)) and hasattr([()], key))
        if hasattr(tree, key) and not is_method:
            return getattr(tree, key)
    names = "" if known is None else f" There are {', '.join(map(repr, known))}."
    hint = did_you_mean(key, known) if known and isinstance(key, str) else ""
    raise MismatchError(f"There is no {what} {key!r}: the {what} is {describe(tree)}.{hint}{names}")


def concatenate(trees: list[Any]) -> Any:
    """Join the outputs of batches along dimension 0, leaf by leaf.

    Args:
        trees: Structures of one nesting whose tensors have the shapes `(N_i, ...)`, all but N_i equal.

    Raises:
        DataError: The tensors cannot be joined.
    """
    first = trees[0]
    for tree in trees:
        if _form(tree) != _form(first):
            raise DataError(
                f"The outputs of the batches cannot be joined: one is {describe(first)}, another {describe(tree)}. "
                "Predict batch by batch with predict_on_batch."
            )
    if isinstance(first, Tensor):
        return _join(trees)
    if not _is_nested(first):
        return None if first is None else trees
    if isinstance(first, Mapping):
        return _alike(first, {key: concatenate([tree[key] for tree in trees]) for key in first})
    columns = [concatenate(list(column)) for column in zip(*trees, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)


def _is_nested(tree: Any) -> bool:
    return isinstance(tree, (Mapping, list, tuple)) and not hasattr(tree, "to")


def _form(tree: Any) -> object:
    if not _is_nested(tree):
        return isinstance(tree, Tensor), tree is None
    return set(tree) if isinstance(tree, Mapping) else (type(tree), len(tree))


def _join(parts: list[Tensor]) -> Tensor:
    if all(part.ndim == 0 for part in parts):
        return torch.stack(parts)
    if any(part.ndim == 0 for part in parts):
        raise DataError(
            "The outputs of the batches cannot be joined: some have no dimension. Does forward end with squeeze()? "
            "For a batch of one sample that takes away the first dimension as well: type squeeze(-1)."
        )
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
        shown = [describe(value) for value in tree[:4]]
        return "(" + ", ".join(shown) + (f", ... {len(tree)} in all" if len(tree) > 4 else "") + ")"
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
