"""What happens to a batch, taken down as a program of tensors: the net, its loss, its metrics."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from kerastorch import isolate
from kerastorch.data import Batch
from kerastorch.losses import Objective
from kerastorch.metrics import Metric
from kerastorch.metrics.sums import loss_parts
from kerastorch.strategy import Strategy
from kerastorch.tree import detached

_SIMPLE = (bool, int, float, str, bytes, type(None), tuple)


class Refused(Exception):
    """A step cannot be one graph; the text says why."""


@dataclass
class Program:
    """What happens to batches of one form.

    Attributes:
        graph: The program; its first output is the loss.
        arguments: What it is to be called with: parameters, buffers, and the tensors of the batch.
        results: What it gave when it was tried, in the order of its outputs.
        built: What was made of it, for whoever uses it.
    """

    graph: fx.GraphModule
    arguments: tuple[Tensor, ...] = ()
    results: Sequence[Any] = ()
    built: Any = None


@dataclass
class Taken:
    """A program, and how its outputs belong together.

    Attributes:
        program: The program.
        parts: By name what each loss and metric adds to its sums: numbers, tensors and rows.
        seen: The output of the net.
    """

    program: Program
    parts: Mapping[str, tuple[Any, ...]]
    seen: Any


class Capture:
    """Takes down what happens to a batch.

    TorchDynamo does it, and sees at each call that all it has found in Python is as it was: flags, attributes, what a
    function closes over. If not, it takes it down anew.

    Args:
        module: The net.
        call: The net as a function of a batch's `x`.
        objective: What is minimised.
        metrics: What is measured besides, by name.
        strategy: In what is computed.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[[Any], Any],
        objective: Objective,
        metrics: Mapping[str, Metric],
        strategy: Strategy,
    ) -> None:
        self._module = module
        self._last: Program | None = None
        autocast, inputs = strategy.autocast, strategy.inputs

        def happens(x: Any, y: Any, weight: Any, truth: Any, size: int) -> tuple[Tensor, dict[str, Any], Any]:
            batch = Batch(0, x, y, weight, size, truth)
            with autocast(fresh=True):
                output = call(inputs(x))
                loss, terms = objective.terms(output, batch)
            seen = detached(output)
            shown = objective.prediction(seen, y)
            parts: dict[str, Any] = {name: loss_parts(value, share) for name, value, share in terms}
            for name, metric in metrics.items():
                given = seen if metric.whole else shown
                parts[name] = metric.measure(given, y if truth is None else truth, weight, size)
            return loss, parts, seen

        # With code of its own: what other models have taken down does not count towards dynamo's limit
        own = types.FunctionType(
            happens.__code__.replace(), happens.__globals__, "happens", happens.__defaults__, happens.__closure__
        )
        self._call = torch.compile(own, backend=self._backend, fullgraph=True, dynamic=False)

    def __call__(self, batch: Batch) -> Taken:
        """Return the program for a batch, with its present arguments; it is tried once, which leaves no trace.

        Raises:
            Refused: The net changes attributes of Python each time that it is called.
        """
        before = _attributes(self._module)
        _, parts, seen = self._call(batch.x, batch.y, batch.weight, batch.truth, batch.size)
        program, self._last = self._last, None
        changed = next((name for name, value in _attributes(self._module).items() if before.get(name) != value), None)
        if changed is not None:
            raise Refused(f"the net changes its attribute {changed!r} whenever it is called")
        if program is None:
            raise Refused("it computes nothing with tensors")
        return Taken(program, parts, seen)

    def _backend(self, graph: fx.GraphModule, example_inputs: list[Tensor]) -> Callable[..., Sequence[Any]]:
        program = Program(graph)

        def note(*arguments: Tensor) -> Sequence[Any]:
            self._last, program.arguments = program, arguments
            if not program.results:
                program.results = _tried(graph, arguments)
            return program.results

        return note


def _tried(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> Sequence[Any]:
    with isolate.random_state_kept(), torch.no_grad():
        return graph(*(argument.detach().clone() for argument in arguments))  # type: ignore[no-any-return]


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return by name what in a net a call should not change: numbers, flags, and which tensors there are."""
    found: dict[str, Any] = {}
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, _SIMPLE):
                found[f"{prefix}.{name}".lstrip(".")] = repr(value)
            elif isinstance(value, (Tensor, list, dict, set)) and name not in _REGISTRIES:
                size = value._version if isinstance(value, Tensor) else len(value)
                found[f"{prefix}.{name}".lstrip(".")] = (id(value), size)
    return found


_REGISTRIES = frozenset(vars(nn.Module()))
