"""Convolutions with the channels last in memory, which is how processors like to read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from kerastorch.tree import map_leaves

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(module: nn.Module) -> None:
    """Lay out the weights of convolutions, `(O, I, H, W)` or `(O, I, D, H, W)`, with the channels last in memory.

    Names, shapes and values stay, and so do the parameters as objects; the layout stays when weights are loaded. The
    outputs of a convolution follow its weights, so inputs need no change. A `forward` that flattens the output of a
    convolution by `view` fails then; `flatten` and `reshape` do not.

    Args:
        module: The net, on its device.

    Raises:
        ValueError: It has no convolution in two or three dimensions, or one whose shape is not known yet.
    """
    parameters = list(module.parameters())
    if any(map(is_lazy, parameters)):
        raise ValueError(
            "channels_last=True needs to know the shapes of all layers, and some are lazy. "
            "Call the net once, model(x), before training."
        )
    chosen = [parameter for parameter in parameters if parameter.ndim in _FORMATS]
    if not chosen:
        raise ValueError(
            "channels_last=True is for nets with Conv2d or Conv3d, whose weights have 4 or 5 dimensions; this one has "
            f"{_kinds(module)}. Leave it out."
        )
    for parameter in chosen:
        parameter.data = parameter.data.to(memory_format=_FORMATS[parameter.ndim])  # as Module.to does
        if parameter.grad is not None:
            parameter.grad = _like(parameter.grad, parameter)


def align(optimizer: Optimizer) -> None:
    """Lay out the state of an optimizer as its parameters are.

    State that was made, or saved, before the parameters were laid out anew is not. A fused optimizer on the CPU goes
    through both as they lie in memory, without a look at their strides, and would mix up the weights.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = _like(value, parameter)


def contiguous(output: Any) -> Any:
    """Return outputs of a net laid out as their shapes say, so that `view` and NumPy see what they expect."""
    return map_leaves(_plain, output)


def _plain(leaf: Any) -> Any:
    return leaf.contiguous() if isinstance(leaf, Tensor) and leaf.layout is torch.strided else leaf


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _kinds(module: nn.Module) -> str:
    """Name the first few kinds of layers that have parameters."""
    owners = (part for part in module.modules() if next(part.parameters(recurse=False), None) is not None)
    kinds = list(dict.fromkeys(type(part).__name__ for part in owners))
    return ", ".join(kinds[:5]) + (", ..." if len(kinds) > 5 else "") or "no parameters"
