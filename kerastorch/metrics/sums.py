"""Sums of an epoch: how a batch adds to them, and how they are read in one transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Gather, Rows, Sum
from kerastorch.metrics.forms import exact

Number = float | Tensor
Weight = Number | None


def loss_parts(loss: Tensor, weight: Weight) -> tuple[Sum, ...]:
    """Return what a loss adds to its sums, without a look at any number: for a compiled step."""
    if weight is None:
        return (loss,)
    exactly = loss.to(exact(loss.device))
    if not isinstance(weight, Tensor):
        return exactly * weight, weight
    return torch.where(weight == 0, 0.0, exactly) * weight, weight  # NaN of a batch without labels that count


def kept(part: Sum) -> Any:
    """Return a part as a checkpoint holds it."""
    return {"rows": part.joined()} if isinstance(part, Rows) else part


def taken_up(part: Any, device: torch.device | None) -> Sum:
    """Return a part from what `kept` made of it; a tensor is copied."""
    if isinstance(part, Mapping):
        return Rows(part["rows"].to(device))
    return cast(Sum, part.to(device, copy=True) if isinstance(part, Tensor) else part)


def blank(part: Sum) -> Sum:
    """Return a sum of the same form over nothing, on the CPU."""
    if isinstance(part, Rows):
        return Rows(part.joined()[:0].cpu())
    return torch.zeros_like(part, device="cpu") if isinstance(part, Tensor) else 0.0


def read_numbers(parts: list[Sum]) -> list[float]:
    """Return the numbers of all parts in one list; rows are left out."""
    held = [part for part in parts if isinstance(part, Tensor)]
    read = {}
    for device in {part.device for part in held}:  # one, unless a metric sums up on the CPU
        flat = torch.cat([part.reshape(-1) for part in held if part.device == device])
        read[device] = iter(flat.tolist())
    numbers: list[float] = []
    for part in parts:
        if isinstance(part, Tensor):
            numbers += islice(read[part.device], part.numel())
        elif not isinstance(part, Rows):
            numbers.append(float(part))
    return numbers


def given_back(part: Sum, read: Iterator[float], gather: Gather | None) -> float | Tensor:
    """Return a part in its shape, with the numbers that were read."""
    if isinstance(part, Rows):
        rows = part.joined()
        return (rows if gather is None else torch.cat(gather(rows))).cpu()
    if isinstance(part, Tensor) and part.ndim:
        return torch.tensor(list(islice(read, part.numel())), dtype=torch.float64).reshape(part.shape)
    return next(read)


def read_if_free(part: Number) -> Number:
    """Return the number in a tensor, where that is no wait."""
    # On the CPU there is no device to wait for, and a number is added ten times faster than a tensor
    return part.item() if isinstance(part, Tensor) and part.is_cpu and not part.ndim else part


def grown(held: Sum, part: Sum, name: str) -> Sum:
    """Return a sum with what a batch adds to it; tensors grow in place, as a compiled step may hold them too.

    Raises:
        MismatchError: The shapes of two batches differ.
    """
    if isinstance(part, Tensor):
        part = read_if_free(part)
    if isinstance(part, Tensor):
        return _grown_tensor(held, part, name)
    if isinstance(part, Rows):
        if isinstance(held, Rows):
            held.parts += part.parts
        return held if isinstance(held, Rows) else part
    if isinstance(held, Tensor):
        return held.add_(part)
    return cast(Number, held) + part


def _grown_tensor(held: Sum, part: Tensor, name: str) -> Tensor:
    if not isinstance(held, Tensor):
        return zeros_like(part).add_(part.detach()).add_(cast(float, held))
    if part.shape != held.shape:
        raise MismatchError(
            f"A sum of the metric {name!r} is {tuple(held.shape)} for one batch and {tuple(part.shape)} for another. "
            "Does the number of classes or columns differ between batches?"
        )
    return held.add_(part.detach())


def zeros_like(part: Tensor) -> Tensor:
    """Return a sum of nothing yet, in float64 where the device has it."""
    return torch.zeros(part.shape, dtype=exact(part.device), device=part.device)
