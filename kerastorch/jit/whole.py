"""The whole step as one graph: forward, loss, backward, clipping, update, and the sums of loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kerastorch import isolate
from kerastorch.jit import update
from kerastorch.jit.capture import Program
from kerastorch.resolve import Plan

Call = Callable[[list[Tensor]], Sequence[Any]]


@dataclass(frozen=True)
class Trained:
    """What an optimizer trains, and the tensors that it needs for it.

    Attributes:
        optimizer: Whose formulas.
        slots: The parameters.
        behind: Its state, the numbers of its formulas, and then the sums that outputs of the program are added to.
    """

    optimizer: Optimizer
    slots: Sequence[update.Slot]
    behind: Sequence[Tensor]


def build(
    program: Program, inputs: Sequence[int], outputs: Sequence[int], trained: Trained, plan: Plan, *, gated: bool
) -> Call:
    """Compile the step of a program.

    Args:
        program: Forward, loss and metrics, with its present arguments.
        inputs: Which of the arguments belong to the batch.
        outputs: Which outputs of the program the sums are for.
        trained: What is updated.
        plan: How gradients are clipped.
        gated: Whether a step whose loss is not finite changes nothing.

    Returns:
        What takes all arguments and what is behind them in one list, and returns what the program gives.
    """
    arguments = list(program.arguments)
    count, states = len(arguments), sum(len(slot.state) for slot in trained.slots)
    where = {id(argument): place for place, argument in enumerate(arguments)}
    places = [where[id(slot.parameter)] for slot in trained.slots]
    changed = _changed(program.graph, arguments) if gated else []
    kept = [place for place in changed if place not in inputs and place not in places]

    def step(*given: Tensor) -> list[Any]:
        before, state = list(given[:count]), list(given[count : count + states])
        numbers, sums = given[count + states], given[count + states + 1 :]
        leaves = list(before)
        for place in places:
            leaves[place] = before[place].detach().requires_grad_()
        for place in kept:
            leaves[place] = before[place].clone()  # a step that changes nothing must leave it alone
        with torch.enable_grad():
            results = list(program.graph(*leaves))
            wanted = [leaves[place] for place in places]
            gradients = list(torch.autograd.grad(results[0], wanted, allow_unused=True))
        results = [value.detach() if isinstance(value, Tensor) else value for value in results]
        _clip(gradients, plan)
        moves = [(before[place], leaves[place]) for place in kept]
        moves += _updates(trained, [before[place] for place in places], gradients, state, numbers)
        moves += [(total, total + results[place]) for total, place in zip(sums, outputs, strict=True)]
        good = results[0].isfinite() if gated else None
        for old, new in moves:
            old.copy_(new if good is None else torch.where(good, new.to(old.dtype), old))
        return results

    return _compiled(step, [*arguments, *trained.behind])


def _changed(graph: Any, arguments: Sequence[Tensor]) -> list[int]:
    """Return which arguments the program changes in place, such as the statistics of a BatchNorm."""
    with isolate.random_state_kept(), torch.no_grad():
        given = [argument.detach().clone() for argument in arguments]
        before = [(argument._version, argument.clone()) for argument in given]
        graph(*given)
    return [
        place
        for place, (argument, (version, copy)) in enumerate(zip(given, before, strict=True))
        if argument._version != version or not torch.equal(argument, copy)  # batch_norm counts no version
    ]


def _clip(gradients: list[Any], plan: Plan) -> None:
    used = [place for place, gradient in enumerate(gradients) if gradient is not None]
    if plan.clip_norm is not None:
        norm = torch.stack([gradients[place].norm() for place in used]).norm()
        factor = (plan.clip_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ has it
        for place in used:
            gradients[place] = gradients[place] * factor
    if plan.clip_value is not None:
        for place in used:
            gradients[place] = gradients[place].clamp(-plan.clip_value, plan.clip_value)


def _updates(
    trained: Trained, parameters: Sequence[Tensor], gradients: Sequence[Any], state: Sequence[Tensor], numbers: Tensor
) -> list[tuple[Tensor, Tensor]]:
    moves: list[tuple[Tensor, Tensor]] = []
    waiting = iter(state)
    for slot, parameter, gradient in zip(trained.slots, parameters, gradients, strict=True):
        own = [next(waiting) for _ in slot.state]
        if gradient is not None:
            after, moved = update.updated(trained.optimizer, slot, numbers, parameter, gradient, state=own)
            moves += [(parameter, after), *zip(own, moved, strict=True)]
    return moves


def _compiled(step: Callable[..., Any], tensors: list[Tensor]) -> Call:
    from torch import _inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = [tensor.detach() for tensor in tensors]
    with torch.no_grad(), isolate.random_state_kept():
        graph = make_fx(step, tracing_mode="fake")(*examples)
        function: Any = _inductor.compile(graph, list(examples))
    return lambda everything: function(*everything)
