"""Tensors of which each process holds a part: DTensors of torch, as FSDP and tensor parallelism make them.

What works number by number is done on the parts, as they lie in this process. Where whole tensors count, processes
tell each other. A tensor that is whole is its own part, so all of this takes any tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Numbers = list[Tensor]


def is_shard(tensor: Tensor) -> bool:
    """Tell whether other processes hold the rest of a tensor."""
    return hasattr(tensor, "_local_tensor")  # the class is not asked for: importing it takes a second


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is here, in the same memory; cut off the graph if it is not all."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def placements(tensor: Tensor) -> Any:
    """Return how a tensor lies over processes; None for one that is whole."""
    return getattr(tensor, "placements", None)


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Numbers:
    """Return the 2-norm of each tensor, of all its parts, `()`.

    Where there are parts every process must call it, as it takes a message to the others; nothing waits for the device.
    Parts of different lengths are right, also those of length 0.
    """
    if not any(map(is_shard, tensors)):
        return list(torch._foreach_norm(list(tensors), 2.0))
    tensors = [_settled(tensor) for tensor in tensors]
    found = list(torch._foreach_norm([local(tensor) for tensor in tensors], 2.0))
    for group, places in _groups(tensors).items():
        # In double: a norm that has a place in float32 may have a square that has none
        squares = torch.stack([found[place].detach().double() for place in places]).square_()
        _add_up(squares, group)
        for place, square in zip(places, squares.sqrt_(), strict=True):
            found[place] = square.to(found[place].dtype)
    return found


@torch.no_grad()
def anywhere(test: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    """Tell whether a test is true of a number of a tensor, of all its parts; this waits for the device.

    Args:
        test: Number by number, such as `torch.isnan`.
        tensor: The tensor.
    """
    tensor = _settled(tensor)
    found = test(local(tensor)).any().float()
    for (group,) in [list(_groups([tensor]))] if is_shard(tensor) else ():
        _add_up(found, group)
    return bool(found > 0)


def _settled(tensor: Tensor) -> Tensor:
    """Return a tensor whose parts are numbers of it, not summands that wait to be added up."""
    partial = any(placement.is_partial() for placement in placements(tensor) or ())
    return tensor.full_tensor() if partial else tensor  # type: ignore[attr-defined]


def _groups(tensors: Iterable[Tensor]) -> dict[Any, list[int]]:
    """Return the places of tensors that are parts, by mesh and the dimensions of it that they are cut over."""
    groups: defaultdict[Any, list[int]] = defaultdict(list)
    for place, tensor in enumerate(tensors):
        if is_shard(tensor):
            mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
            cut = tuple(dim for dim, placement in enumerate(placements(tensor)) if not placement.is_replicate())
            groups[mesh, cut, local(tensor).device].append(place)
    return groups


def _add_up(numbers: Tensor, group: Any) -> None:
    mesh, cut, _ = group
    for dim in cut:
        torch.distributed.all_reduce(numbers, group=mesh.get_group(dim))
