"""The updates of Adam, AdamW and SGD: the operations of torch in its order, each for all tensors of a group.

Lists of numbers are as torch has them for lists of tensors on an accelerator; on the CPU it has the same numbers one by
one. Where `dtype` is given, numbers are handed over as tensors: for each tensor of a list torch would wrap them anew.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]
Columns = tuple[Tensors, ...]


class AdamOptions(NamedTuple):
    """Options of a group of Adam, as its names are; `decoupled` weight decay makes it AdamW."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool
    dtype: torch.dtype | None


class SGDOptions(NamedTuple):
    """Options of a group of SGD, as its names are; whether Nesterov's momentum changes gradients `in_place`."""

    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    in_place: bool
    dtype: torch.dtype | None


def adam(columns: Columns, options: AdamOptions) -> None:
    """Update parameters by gradients, their averages, those of their squares, and the numbers of their steps."""
    parameters, gradients, averages, squares, steps = columns
    lr, beta1, beta2, eps, weight_decay, decoupled, dtype = options
    _count(steps)
    if weight_decay != 0 and decoupled:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    elif weight_decay != 0:
        gradients = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    torch._foreach_mul_(squares, _constant(beta2, dtype))
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    roots = torch._foreach_sqrt(squares)
    counts = [step.item() for step in steps]
    if dtype is not None and counts.count(counts[0]) == len(counts):
        torch._foreach_div_(roots, _number((1 - beta2 ** counts[0]) ** 0.5, dtype))
        torch._foreach_add_(roots, _constant(eps, dtype), alpha=1.0)  # without alpha it would be made a number again
        torch._foreach_addcdiv_(parameters, averages, roots, -(lr / (1 - beta1 ** counts[0])))
        return
    torch._foreach_div_(roots, [(1 - beta2**count) ** 0.5 for count in counts])
    torch._foreach_add_(roots, eps)
    torch._foreach_addcdiv_(parameters, averages, roots, [-(lr / (1 - beta1**count)) for count in counts])


def adam_fused(columns: Columns, options: AdamOptions) -> None:
    """Do the same in one kernel."""
    parameters, gradients, averages, squares, steps = columns
    _count(steps)
    (torch._fused_adamw_ if options.decoupled else torch._fused_adam_)(
        parameters,
        gradients,
        averages,
        squares,
        [],
        steps,
        lr=options.lr,
        beta1=options.beta1,
        beta2=options.beta2,
        weight_decay=options.weight_decay,
        eps=options.eps,
        amsgrad=False,
        maximize=False,
    )


def sgd(columns: Columns, options: SGDOptions) -> None:
    """Update parameters by gradients, and momentum if there is any."""
    parameters, gradients, buffers = columns
    lr, momentum, dampening, weight_decay, nesterov, in_place, dtype = options
    if weight_decay != 0:
        gradients = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    if momentum != 0:
        torch._foreach_mul_(buffers, _constant(momentum, dtype))
        torch._foreach_add_(buffers, gradients, alpha=1 - dampening)
        if not nesterov:
            gradients = buffers
        elif in_place:  # what torch does to the gradients themselves with foreach=True, and only then
            torch._foreach_add_(gradients, buffers, alpha=momentum)
        else:
            gradients = torch._foreach_add(gradients, buffers, alpha=momentum)
    torch._foreach_add_(parameters, gradients, alpha=-lr)


def sgd_fused(columns: Columns, options: SGDOptions) -> None:
    """Do the same in one kernel."""
    parameters, gradients, buffers = columns
    torch._fused_sgd_(
        parameters,
        gradients,
        buffers,
        lr=options.lr,
        momentum=options.momentum,
        dampening=options.dampening,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
        maximize=False,
        is_first_step=False,
    )


def _count(steps: Tensors) -> None:
    if steps[0].is_cpu:
        torch._foreach_add_(steps, _constant(1.0, torch.float32), alpha=1.0)
    else:
        torch._foreach_add_(steps, 1)


def _number(value: float, dtype: torch.dtype | None) -> Any:
    return value if dtype is None else torch.scalar_tensor(value, dtype=dtype, device="cpu")


_constant = functools.lru_cache(maxsize=64)(_number)  # for those that stay the same from step to step
