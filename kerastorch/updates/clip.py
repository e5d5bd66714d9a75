"""Gradients that are not to be too large."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor

from kerastorch import shards
from kerastorch.updates.plain import FOREACH, are_plain, device_of, dtype_of, without_gradients


@without_gradients
def clip_norm(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Scale gradients in place so that their common 2-norm is at most `max_norm`, as `clip_grad_norm_` does.

    Args:
        gradients: The gradients.
        max_norm: The largest norm to leave as it is.

    Returns:
        The norm before, `()`, on the device of the first gradient. Nothing waits for the device. Where gradients lie
        over several processes, each must call it.
    """
    if any(map(shards.is_shard, gradients)):
        return _clip_parts(gradients, max_norm)
    if not _alike(gradients):
        return torch.nn.utils.clip_grad_norm_(_holders(gradients), max_norm)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    # A number divided by a tensor is the number times its reciprocal in torch; in the last digit that is not the same.
    factor = norm.add(1e-6).reciprocal_().mul_(float(max_norm)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


@without_gradients
def clip_value(gradients: list[Tensor], value: float) -> None:
    """Bring every element of the gradients into `-value ... value`, in place, as `clip_grad_value_` does.

    Args:
        gradients: The gradients.
        value: The largest magnitude to leave as it is.
    """
    gradients = list(map(shards.local, gradients))
    if _alike(gradients):
        torch._foreach_clamp_min_(gradients, -float(value))
        torch._foreach_clamp_max_(gradients, float(value))
    elif gradients:  # that of torch raises for none
        torch.nn.utils.clip_grad_value_(_holders(gradients), value)


def _clip_parts(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Clip tensors that may lie over processes, also over different ones, or be whole; torch takes no such mixture."""
    norms = shards.norms(gradients)
    norm: Tensor = torch.linalg.vector_norm(torch.stack([each.to(norms[0].device) for each in norms]), 2.0)
    factor = norm.add(1e-6).reciprocal_().mul_(float(max_norm)).clamp_(max=1.0)
    parts = list(map(shards.local, gradients))
    if _alike(parts):
        torch._foreach_mul_(parts, factor)
        return norm
    for part in parts:
        part.mul_(factor.to(part.device))
    return norm


def _alike(gradients: Sequence[Tensor]) -> bool:
    """Tell whether torch would take them all in one call for a list."""
    if not are_plain(gradients) or len(set(map(dtype_of, gradients))) > 1:
        return False
    device = device_of(gradients)
    return device == "cpu" or device in FOREACH


def _holders(gradients: Sequence[Tensor]) -> list[Tensor]:
    return cast(list[Tensor], [SimpleNamespace(grad=gradient) for gradient in gradients])  # torch reads their `.grad`
