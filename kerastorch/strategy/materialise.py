"""Nets that were built without memory, `with torch.device("meta")`, get some; and all processes the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from kerastorch.errors import MismatchError
from kerastorch.shards import is_shard
from kerastorch.strategy.group import Group

Made = dict[int, tuple[Tensor, Tensor]]  # by the id of what was there, which is kept so that the id is

_RESETS = ("reset_parameters", "_reset_parameters")  # the second is that of MultiheadAttention


def materialise(module: nn.Module, device: torch.device, dtype: torch.dtype | None, group: Group) -> None:
    """Put what a net has on a device, with the numbers of the main process; what is shared out already stays.

    Args:
        module: The net, or a part of it.
        device: Where to.
        dtype: What to bring floating numbers to; None to leave them.
        group: The processes.

    Raises:
        MismatchError: A module has no memory, and no `reset_parameters` that would fill it.
    """
    made: Made = {}
    with torch.no_grad():
        for part in _inner_first(module):
            was_meta = any(tensor.is_meta for tensor in _own(part))
            _place(part, device, dtype, made)
            if was_meta:
                _reset(part)
        if made and group.size > 1:
            group.align(tensor for _, tensor in made.values())


def _place(part: nn.Module, device: torch.device, dtype: torch.dtype | None, made: Made) -> None:
    """Give own tensors a place, and note them; what several modules share stays shared."""
    registries: tuple[dict[str, Any], ...] = part._parameters, part._buffers
    for registry in registries:
        for name, tensor in registry.items():
            if tensor is None or is_shard(tensor):
                continue
            if id(tensor) not in made:
                made[id(tensor)] = tensor, _placed(tensor, device, dtype)
            registry[name] = made[id(tensor)][1]


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    if tensor.is_meta:
        empty = torch.empty_like(tensor, device=device, dtype=wanted)
        return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    tensor.data = tensor.data.to(device, wanted)  # the same object, as Module.to leaves it
    return tensor


def _reset(part: nn.Module) -> None:
    reset = next((getattr(part, name) for name in _RESETS if hasattr(part, name)), None)
    if reset is None:
        name = next(name for name, _ in chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False)))
        kind = type(part).__name__
        raise MismatchError(
            f"{kind}.{name} is on the device 'meta', and {kind} has no method reset_parameters() that would give it "
            "numbers. Write one, or build the net outside of torch.device('meta')."
        )
    reset()


def _inner_first(module: nn.Module) -> Iterator[nn.Module]:
    """Yield parts before what they are parts of: a reset of the whole may set numbers of its parts."""
    return reversed(list(module.modules()))


def _own(part: nn.Module) -> Iterator[Tensor]:
    return chain(part.parameters(recurse=False), part.buffers(recurse=False))
