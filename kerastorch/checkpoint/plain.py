"""What can be read again without running code."""

from __future__ import annotations

import copy
import reprlib
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kerastorch.errors import CheckpointError

_IMMUTABLE = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    torch.Size,
    torch.dtype,
    torch.device,
    torch.layout,
)
_BASES: tuple[Callable[[Any], Any], ...] = (str.__str__, int.__int__, float.__float__)
# What loads again as another kind would fail later, where its methods are missed
_ADVICE = (
    (deque, "list"),
    (defaultdict, "dict"),
    (dict, "dict"),
    (frozenset, "set"),
    (tuple, "tuple"),
    (list, "list"),
    (range, "list"),
    (np.ndarray, "list"),
)


def plain(
    tree: Any,
    place: str,
    *,
    copied: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    shards: dict[str, Tensor] | None = None,
) -> Any:
    """Return a tree with containers of its own that `load` can read.

    Numbers and arrays of NumPy become those of Python and torch, paths and torch's version texts.

    Args:
        tree: Any containers, numbers, texts and tensors.
        place: The keys that lead to it, for messages: `"callbacks/EarlyStopping"`.
        copied: What to do with each tensor.
        shards: Where to put tensors that lie in parts on several processes, by the keys that lead to them; an empty one
            takes the place of each. None to refuse them.

    Raises:
        CheckpointError: Something in it could not be loaded again.
    """
    kind = type(tree)
    if kind in _IMMUTABLE:
        return tree
    if isinstance(tree, Tensor):
        if shards is not None and is_sharded(tree):
            return _aside(tree, place, shards)
        return copied(_plain_tensor(tree, place))
    if kind in (dict, OrderedDict, Counter):
        items = {
            plain(key, f"a key of {place}"): plain(value, f"{place}/{key}", copied=copied, shards=shards)
            for key, value in tree.items()
        }
        return items if kind is dict else _alike(tree, items, place, copied)
    if kind in (list, tuple, set):
        parts = (plain(value, f"{place}/{index}", copied=copied, shards=shards) for index, value in enumerate(tree))
        return kind(parts)
    return copied(_plain_array(tree, place)) if isinstance(tree, np.ndarray) else _plain_value(tree, place)


def is_sharded(value: Any) -> bool:
    """Whether something is a tensor that lies in parts on several processes."""
    tensors = sys.modules.get("torch.distributed.tensor")  # nobody has one before it is imported, which takes a second
    return tensors is not None and isinstance(value, tensors.DTensor)


def _aside(tensor: Tensor, place: str, shards: dict[str, Tensor]) -> Tensor:
    if place in shards:
        raise CheckpointError(f"Two tensors have the keys {place}. Give one of them a name without a slash.")
    shards[place] = tensor.detach()
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _alike(tree: Any, items: dict[Any, Any], place: str, copied: Callable[[Tensor], Tensor]) -> Any:
    """Return the items as an OrderedDict or a Counter; torch notes the versions of modules in its attributes."""
    result = type(tree)()
    for key, value in items.items():
        result[key] = value
    for name, value in vars(tree).items():
        vars(result)[name] = plain(value, f"{place}.{name}", copied=copied)
    return result


def _plain_tensor(tensor: Tensor, place: str) -> Tensor:
    kind = type(tensor)
    if kind in (Tensor, nn.Parameter):
        return tensor.detach() if vars(tensor) else tensor  # attributes of it may be anything
    if is_lazy(tensor):
        raise CheckpointError(
            f"{place} is a parameter of a lazy layer, which has no shape before the first batch. Call the net on one."
        )
    # one that computes in its own way, such as DTensor, has no numbers of its own that could be taken out
    if kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl:
        raise _refusal(tensor, place)
    return tensor.detach().as_subclass(Tensor)


def _plain_array(array: Any, place: str) -> Tensor:
    if array.dtype.kind in "biufc" and not isinstance(array, np.ma.MaskedArray):
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        try:
            return torch.from_numpy(native)
        except TypeError:  # more digits than torch has
            pass
    raise _refusal(array, place)


def _plain_value(value: Any, place: str) -> Any:
    if type(value) is bytearray or (type(value) is bytes and value):  # empty bytes are written as a call of `bytes`
        return copy.copy(value)
    if isinstance(value, np.generic):
        number = value.item()
        if type(number) in _IMMUTABLE or (type(number) is bytes and number):
            return number
        raise _refusal(value, place)  # a date, or more digits than Python has
    if isinstance(value, PurePath):
        return str(value)
    for base in _BASES:  # an IntEnum, or the version of torch
        try:
            return base(value)
        except TypeError:
            continue
    raise _refusal(value, place)


def _refusal(value: Any, place: str) -> CheckpointError:
    kind = type(value)
    advice = next((f" Make it a {name}: {name}(...)." for base, name in _ADVICE if isinstance(value, base)), "")
    return CheckpointError(
        f"{place} is a {kind.__name__}, {reprlib.repr(value)}, which could not be loaded again without running code. "
        f"A checkpoint holds numbers, texts and tensors, and lists and dicts of them.{advice}"
    )
