"""The formulas of optimizers as part of a graph, and the numbers they need at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from kerastorch.jit.capture import Refused

_KINDS = (SGD, Adam, AdamW)
SLOTS = 8  # numbers of a group
_REFUSED = ("amsgrad", "maximize", "differentiable", "capturable")


class Slot(NamedTuple):
    """A parameter, and what its optimizer keeps of it.

    Attributes:
        parameter: The parameter.
        state: Tensors of its shape: the running averages, or the momentum; none where there are none yet.
        steps: What counts its steps; None for an optimizer that needs no count.
        group: The number of its group.
        row: Which numbers its formula works with.
    """

    parameter: Tensor
    state: tuple[Tensor, ...]
    steps: Tensor | None
    group: int
    row: int


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
    if any(_hooks(parameter) for parameter in group["params"]):
        return "a parameter has hooks"
    return None


def _hooks(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


def signature(optimizer: Optimizer, held: Sequence[Slot]) -> tuple[Any, ...]:
    """Return what decides on the formulas: with another one, the graph must be another."""
    names = ("weight_decay", "momentum", "nesterov")
    options = tuple(tuple(bool(group.get(name)) for name in names) for group in optimizer.param_groups)
    return tuple((id(slot.parameter), slot.group, slot.row, len(slot.state)) for slot in held), options


def used(optimizer: Optimizer, arguments: Sequence[Tensor]) -> list[Slot]:
    """Return the parameters of an optimizer that are among the arguments of a program.

    Raises:
        Refused: The optimizer and the program do not go together.
    """
    there = {id(argument) for argument in arguments}
    found, rows = [], dict[tuple[int, float], int]()
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if parameter.requires_grad and id(parameter) in there:
                kept = optimizer.state.get(parameter, {})
                count = kept.get("step")
                row = rows.setdefault((number, -1.0 if count is None else float(count)), len(rows))
                found.append(Slot(parameter, _state(optimizer, group, kept), count, number, row))
    held = {id(slot.parameter) for slot in found}
    if any(argument.requires_grad and id(argument) not in held for argument in arguments):
        raise Refused("the net has trainable parameters that the optimizer does not hold")
    if not found:
        raise Refused("the optimizer holds no parameter of the net")
    return found


def _state(optimizer: Optimizer, group: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[Tensor, ...]:
    names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    if isinstance(optimizer, SGD):
        names = ("momentum_buffer",) if group["momentum"] else ()
    state = tuple(kept[name] for name in names if isinstance(kept.get(name), Tensor))
    if len(state) != len(names):
        raise Refused("the optimizer has not yet made a step with every parameter")
    return state


class Numbers:
    """What the formulas need at each step: some numbers for every row of slots.

    Args:
        optimizer: Its options are read at each step.
        held: What it trains.

    Attributes:
        given: The numbers, float64 `(rows * 8,)` on the CPU.
    """

    def __init__(self, optimizer: Optimizer, held: Sequence[Slot]) -> None:
        self._optimizer = optimizer
        self._rows = list({slot.row: slot for slot in held}.values())
        self._counts = [slot.steps for slot in held if slot.steps is not None]
        self.given = torch.zeros(SLOTS * len(self._rows), dtype=torch.float64)
        self._memory = self.given.numpy()  # written without an operation of torch

    def write(self) -> None:
        """Write those of the next step."""
        for slot in self._rows:
            numbers = _numbers(self._optimizer, self._optimizer.param_groups[slot.group], slot.steps)
            self._memory[slot.row * SLOTS : slot.row * SLOTS + len(numbers)] = numbers

    def count(self) -> None:
        """Count a step, as the optimizer does."""
        if self._counts:
            torch._foreach_add_(self._counts, 1)


def _numbers(optimizer: Optimizer, group: Mapping[str, Any], count: Tensor | None) -> list[float]:
    rate, decay = group["lr"], group["weight_decay"]
    if isinstance(optimizer, SGD):
        return [rate, decay, group["momentum"], 1 - group["dampening"]]
    first, second = group["betas"]
    step = 1.0 if count is None else count.item() + 1
    roots = (1 - second**step) ** 0.5, group["eps"], 1 - rate * decay
    return [rate / (1 - first**step), decay, 1 - first, second, 1 - second, *roots]


def updated(
    optimizer: Optimizer, slot: Slot, given: Tensor, parameter: Tensor, gradient: Tensor, *, state: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return a parameter and its state after a step; nothing is changed in place.

    The formulas are those of torch: Kingma and Ba (2015), https://arxiv.org/abs/1412.6980, Algorithm 1; Loshchilov and
    Hutter (2019), https://arxiv.org/abs/1711.05101, Algorithm 2; momentum as in `torch.optim.SGD`.

    Args:
        optimizer: Which formula.
        slot: Which parameter.
        given: The numbers of `Numbers`.
        parameter: Its values.
        gradient: Its gradient.
        state: Its averages or momentum.
    """
    options = optimizer.param_groups[slot.group]
    row = given[slot.row * SLOTS : (slot.row + 1) * SLOTS].to(parameter.dtype).unbind()
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
