"""A compiled step with all that it works with, until something of that changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch import guard
from kerastorch.data import Batch
from kerastorch.jit import update, whole
from kerastorch.jit.capture import Refused, Taken
from kerastorch.jit.replay import Call, Replay
from kerastorch.run import Run
from kerastorch.tree import map_leaves, tensors


class Ready:
    """Steps of one form of batches.

    Args:
        taken: What happens to such a batch.
        batch: The one that it was taken from.
        run: Whose optimizer has formulas and state, and whose sums the graph adds to.

    Raises:
        Refused: This cannot be one graph.
    """

    def __init__(self, taken: Taken, batch: Batch, run: Run) -> None:
        optimizer: Any = run.state.optimizer
        metrics, plan, gated = run.state.metrics, run.plan, guard.looks_first(run)
        reason = update.refusal(optimizer)
        if reason is not None:
            raise Refused(reason)
        program = taken.program
        self.taken = taken
        self._optimizer = optimizer
        self._metrics = metrics
        slots = update.used(optimizer, program.arguments)
        self._numbers = update.Numbers(optimizer, slots)
        given = self._numbers.given.to(program.arguments[0].device)
        self._sent = None if given is self._numbers.given else given
        state = [tensor for slot in slots for tensor in slot.state]
        places = {id(argument): place for place, argument in enumerate(program.arguments)}
        self._leaves = [places.get(id(leaf)) for leaf in leaves_of(batch)]
        behind = [*state, given, *metrics.open(taken.parts)]
        key = update.signature(optimizer, slots), plan, gated
        if program.built is None or program.built[0] != key:
            inputs = [place for place in self._leaves if place is not None]
            outputs = [_place(part, program.results) for part in _tensors_in(taken.parts)]
            trained = whole.Trained(optimizer, slots, behind)
            with run.busy(f"compiling the step: {', '.join(_names(taken, optimizer))}"):
                step = whole.build(program, inputs, outputs, trained, plan, gated=gated)
            program.built = key, step
        self._step: Call = program.built[1]
        if given.is_cuda:
            self._step = Replay(self._step, [place for place in self._leaves if place is not None])
        self._tensors = [*program.arguments, *behind]
        for slot in slots:
            slot.parameter.grad = None  # that of an ordinary step before would be taken for the present one
        self._epoch, self._state, self._groups = metrics.epoch, optimizer.state, optimizer.param_groups

    @property
    def holds(self) -> bool:
        """Whether sums and state of the optimizer are still those that the graph was given."""
        optimizer = self._optimizer
        return (
            self._metrics.epoch is self._epoch
            and optimizer.state is self._state
            and optimizer.param_groups is self._groups
        )

    def __call__(self, batch: Batch) -> Sequence[Any]:
        """Do the step; return what the program gives, the loss first. `count` is to follow where the step counts."""
        held = self._tensors
        for place, leaf in zip(self._leaves, leaves_of(batch), strict=True):
            if place is not None:
                held[place] = leaf
        self._numbers.write()
        if self._sent is not None:
            self._sent.copy_(self._numbers.given.pin_memory(), non_blocking=True)
        with torch.no_grad():
            return self._step(held)

    def count(self, samples: int) -> None:
        """Count the step, and what of the batch are no tensors."""
        self._numbers.count()
        self._metrics.count(self.taken.parts, samples)

    def seen(self, results: Sequence[Any]) -> Any:
        """Return the output of the net, as the net nests it."""
        tried = self.taken.program.results
        return map_leaves(
            lambda leaf: results[_place(leaf, tried)] if isinstance(leaf, Tensor) else leaf, self.taken.seen
        )


def leaves_of(batch: Batch) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order."""
    for part in (batch.x, batch.y, batch.weight, batch.truth):
        if type(part) is Tensor:
            yield part
        elif part is not None:
            yield from tensors(part)


def _names(taken: Taken, optimizer: Any) -> list[str]:
    return ["forward", "backward", type(optimizer).__name__, *taken.parts]


def _tensors_in(parts: Mapping[str, Sequence[Any]]) -> Iterator[Tensor]:
    return (part for adds in parts.values() for part in adds if isinstance(part, Tensor))


def _place(part: Tensor, results: Sequence[Any]) -> int:
    for place, result in enumerate(results):
        if result is part:
            return place
    raise Refused("an output is no result of a computation")
