"""The formulas of optimizers as part of a graph, and the numbers they need at each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from kerastorch.jit.capture import Refused

_KINDS = (SGD, Adam, AdamW)
SLOTS = 8  # numbers of a group
_REFUSED = ("amsgrad", "maximize", "differentiable", "capturable")


class Slot(NamedTuple):
    """A parameter and what its optimizer keeps of it.

    Attributes:
        parameter: The parameter.
        state: Tensors of its shape: the running averages, or the momentum; none where there are none yet.
        group: The number of its group.
    """

    parameter: Tensor
    state: tuple[Tensor, ...]
    group: int


def refusal(optimizer: Optimizer) -> str | None:
    """Say why an optimizer cannot be part of a graph; None if it can."""
    kind, step = type(optimizer), vars(optimizer).get("step")
    if kind not in _KINDS:
        return f"the optimizer {kind.__name__} is none of SGD, Adam and AdamW"
    if step is not None and not hasattr(step, "_wrapped_by_lr_sched"):
        return "the optimizer has a step of its own"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks"
    return next(filter(None, map(_group_refusal, optimizer.param_groups)), None)


def _group_refusal(group: dict[str, Any]) -> str | None:
    found = next((name for name in _REFUSED if group.get(name)), None)
    if found is not None:
        return f"the optimizer has {found}=True"
    if any(isinstance(value, Tensor) for name, value in group.items() if name != "params"):
        return "a learning rate is a tensor"
    if any(parameter.is_complex() or parameter.is_sparse for parameter in group["params"]):
        return "a parameter is complex or sparse"
    return None


def slots(optimizer: Optimizer) -> Iterator[Slot]:
    """Yield every parameter that is trained."""
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if parameter.requires_grad:
                yield Slot(parameter, _state(optimizer, parameter), number)


def signature(optimizer: Optimizer) -> tuple[Any, ...]:
    """Return what decides on the formulas: with another one, the graph must be another."""
    found = []
    for group in optimizer.param_groups:
        members = tuple(id(parameter) for parameter in group["params"] if parameter.requires_grad)
        options = tuple(bool(group.get(name)) for name in ("weight_decay", "momentum", "nesterov"))
        found.append((members, options))
    return tuple(found)


def used(optimizer: Optimizer, arguments: Sequence[Tensor]) -> list[Slot]:
    """Return the parameters of an optimizer that are among the arguments of a program.

    Raises:
        Refused: The optimizer and the program do not go together.
    """
    there = {id(argument) for argument in arguments}
    found = [slot for slot in slots(optimizer) if id(slot.parameter) in there]
    held = {id(slot.parameter) for slot in found}
    if any(argument.requires_grad and id(argument) not in held for argument in arguments):
        raise Refused("the net has trainable parameters that the optimizer does not hold")
    if not found:
        raise Refused("the optimizer holds no parameter of the net")
    for slot in found:
        options = optimizer.param_groups[slot.group]
        needed = bool(options["momentum"]) if isinstance(optimizer, SGD) else 2
        if len(slot.state) != needed:
            raise Refused("the optimizer has not yet made a step with every parameter")
    return found


def counts_of(optimizer: Optimizer, held: Sequence[Slot]) -> list[list[Tensor]]:
    """Return by group the tensors that count steps.

    Raises:
        Refused: Parameters of one group have made different numbers of steps.
    """
    groups: list[list[Tensor]] = [[] for _ in optimizer.param_groups]
    for slot in held:
        count = optimizer.state.get(slot.parameter, {}).get("step")
        if count is not None:
            groups[slot.group].append(count)
    if any(len({float(count) for count in group}) > 1 for group in groups):
        raise Refused("parameters of the optimizer have made different numbers of steps")
    return groups


def numbers(optimizer: Optimizer, steps: Sequence[Sequence[Tensor]]) -> list[float]:
    """Return what the formulas need for the next step: some numbers for each group."""
    found: list[float] = []
    for group, counts in zip(optimizer.param_groups, steps, strict=True):
        rate, decay = float(group["lr"]), float(group["weight_decay"])
        if isinstance(optimizer, SGD):
            row = [rate, decay, group["momentum"], 1 - group["dampening"]]
        else:
            first, second = group["betas"]
            step = counts[0].item() + 1 if counts else 1.0
            shrink = 1 - rate * decay
            row = [rate / (1 - first**step), decay, 1 - first, second, 1 - second]
            row += [(1 - second**step) ** 0.5, group["eps"], shrink]
        found += row + [0.0] * (SLOTS - len(row))
    return found


def updated(
    optimizer: Optimizer, group: int, given: Tensor, parameter: Tensor, gradient: Tensor, *, state: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return a parameter and its state after a step; nothing is changed in place.

    The formulas are those of torch: Kingma and Ba (2015), https://arxiv.org/abs/1412.6980, Algorithm 1; Loshchilov and
    Hutter (2019), https://arxiv.org/abs/1711.05101, Algorithm 2; momentum as in `torch.optim.SGD`.

    Args:
        optimizer: Which formula.
        group: The number of the parameter's group.
        given: What `numbers` has returned, as a tensor.
        parameter: Its values.
        gradient: Its gradient.
        state: Its averages or momentum.
    """
    options = optimizer.param_groups[group]
    row = given[group * SLOTS : (group + 1) * SLOTS].to(parameter.dtype).unbind()
    if isinstance(optimizer, SGD):
        return _sgd(options, row, parameter, gradient, state)
    options = {**options, "decoupled": _is_decoupled(optimizer, options)}
    return _adam(options, row, parameter, gradient, state)


def _adam(
    group: dict[str, Any], row: Any, parameter: Tensor, gradient: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    size, decay, rest, second, other, root, epsilon, shrink = row
    if group["weight_decay"]:
        if group["decoupled"]:
            parameter = parameter * shrink
        else:
            gradient = gradient + parameter * decay
    mean = state[0] + rest * (gradient - state[0])
    square = state[1] * second + gradient * gradient * other
    return parameter - size * mean / (square.sqrt() / root + epsilon), [mean, square]


def _sgd(
    group: dict[str, Any], row: Any, parameter: Tensor, gradient: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    rate, decay, momentum, share = row[:4]
    if group["weight_decay"]:
        gradient = gradient + parameter * decay
    if not group["momentum"]:
        return parameter - rate * gradient, []
    velocity = state[0] * momentum + gradient * share
    direction = gradient + velocity * momentum if group["nesterov"] else velocity
    return parameter - rate * direction, [velocity]


def _is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    return type(optimizer) is AdamW or bool(group.get("decoupled_weight_decay"))


def _state(optimizer: Optimizer, parameter: Tensor) -> tuple[Tensor, ...]:
    kept = optimizer.state.get(parameter, {})
    names = ("momentum_buffer",) if isinstance(optimizer, SGD) else ("exp_avg", "exp_avg_sq")
    return tuple(kept[name] for name in names if isinstance(kept.get(name), Tensor))


def count_steps(steps: Sequence[Sequence[Tensor]]) -> None:
    """Count a step, as the optimizer does."""
    for counts in steps:
        if counts:
            torch._foreach_add_(list(counts), 1)
