"""Whether a program gives what the net gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kerastorch.errors import ExportError
from kerastorch.export.graph import arguments_of, samples_in

TOLERANCE = 1e-4  # of the largest output, at least of 1: float32 in another order of sums


def difference(net: nn.Module, program: nn.Module, names: list[str], batches: Iterable[Any]) -> float:
    """Return the largest absolute difference of outputs on some batches.

    Args:
        net: The net, on the CPU, in evaluation mode.
        program: The same as a program.
        names: What its outputs are called.
        batches: Inputs.

    Raises:
        ExportError: The program cannot compute a batch, or gives something else.
    """
    largest = 0.0
    for x in batches:
        wanted, got = _both(net, program, x)
        for name, own, other in zip(names, wanted, got, strict=True):
            found = _compared(name, own, other, net, x)
            largest = max(largest, found)
    return largest


def _both(net: nn.Module, program: nn.Module, x: Any) -> tuple[list[Tensor], list[Tensor]]:
    arguments, keywords = arguments_of(net, pytree.tree_map(torch.clone, x))  # a net may change its input in place
    wanted = pytree.tree_leaves(net(*arguments, **keywords))
    arguments, keywords = arguments_of(net, x)
    try:
        got = pytree.tree_leaves(program(*arguments, **keywords))
    except Exception as error:
        raise ExportError(
            f"{type(net).__name__} was exported, but the program fails with a batch of {samples_in(x)}: "
            f"{str(error).strip().partition(chr(10))[0]} No file was written."
        ) from error
    if len(got) != len(wanted):
        raise ExportError(
            f"{type(net).__name__} was exported, but the program gives {len(got)} outputs and the net {len(wanted)}. "
            "No file was written."
        )
    return wanted, got


def _compared(name: str, own: Tensor, other: Tensor, net: nn.Module, x: Any) -> float:
    begin = f"{type(net).__name__} was exported, but {name!r} of the program differs from the net's"
    end = f"with a batch of {samples_in(x)}."
    if own.shape != other.shape:
        raise ExportError(
            f"{begin}: its shape is {tuple(other.shape)}, and {tuple(own.shape)} in the net, {end} {_why(net, x)}"
        )
    if own.dtype != other.dtype:
        raise ExportError(f"{begin}: its dtype is {other.dtype}, and {own.dtype} in the net, {end} {_why(net, x)}")
    exact = not (own.is_floating_point() or own.is_complex())
    same = (own == other) | (own.isnan() & other.isnan())  # infinities have no difference
    distance = torch.where(same, 0.0, (own.to(_wide(own)) - other.to(_wide(own))).abs()).nan_to_num(nan=float("inf"))
    largest = distance.max().item() if distance.numel() else 0.0
    finite = own[own.isfinite()].to(_wide(own)).abs()
    scale = finite.max().item() if finite.numel() else 0.0
    if largest > (0 if exact else TOLERANCE * max(1.0, scale)):
        raise ExportError(f"{begin} by {largest:.2g}, where outputs are up to {scale:.2g}, {end} {_why(net, x)}")
    return float(largest)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def _why(net: nn.Module, x: Any) -> str:
    """Say so if the net itself gives something else each time."""
    runs = []
    for _ in range(2):
        arguments, keywords = arguments_of(net, pytree.tree_map(torch.clone, x))
        runs.append(pytree.tree_leaves(net(*arguments, **keywords)))
    if all(torch.equal(first.nan_to_num(), second.nan_to_num()) for first, second in zip(*runs, strict=True)):
        return "No file was written."
    return (
        "The net draws random numbers in evaluation mode: called twice, it differs from itself. Let dropout and noise "
        "depend on self.training. No file was written."
    )
