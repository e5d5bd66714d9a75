"""What happens to a batch, taken down as a program of tensors: the net, its loss, its metrics."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo import config

from kerastorch import isolate
from kerastorch.data import Batch
from kerastorch.losses import Objective
from kerastorch.metrics import Metric
from kerastorch.metrics.sums import loss_parts
from kerastorch.strategy import Strategy
from kerastorch.tree import detached

_POLICY = "side_effect_replay_policy"  # of dynamo; torch 2.6 has none
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
        is_checked: All else that happens, such as the count of samples, does not depend on the results.
        built: What was made of it, for whoever uses it.
    """

    graph: fx.GraphModule
    arguments: tuple[Tensor, ...] = ()
    results: Sequence[Any] = ()
    is_checked: bool = False
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
        parts, seen = self._happened(batch)
        program, self._last = self._last, None
        if program is None:
            raise Refused("it computes nothing with tensors")
        if not program.is_checked:
            self._see_that_all_else_is_constant(program, batch, parts)
        return Taken(program, parts, seen)

    def _happened(self, batch: Batch) -> tuple[dict[str, Any], Any]:
        if not hasattr(config, _POLICY):
            raise Refused(f"torch {torch.__version__} does not tell whether the net changes anything in Python")
        # Whatever a step changes in Python would be changed when it is looked at, and not in the steps between
        try:
            strict = config.patch({_POLICY: "error", "skip_nnmodule_hook_guards": False})
            with strict, _attributes_kept(self._module) as changed:
                _, parts, seen = self._call(batch.x, batch.y, batch.weight, batch.truth, batch.size)
        except Exception as error:
            if "side effect" in str(error):
                raise Refused("the net, its loss or a metric changes something in Python") from error
            raise
        if changed:
            raise Refused(f"the net changes its attribute {changed[0]!r} whenever it is called")
        return parts, seen

    def _see_that_all_else_is_constant(self, program: Program, batch: Batch, parts: Mapping[str, Any]) -> None:
        """Do it again with other results: a number that is another now was read from a tensor, or drawn in Python."""
        results, arguments = program.results, program.arguments
        program.results = [torch.full_like(value, 2) if isinstance(value, Tensor) else value for value in results]
        try:
            others, _ = self._happened(batch)
        finally:
            program.results, self._last = results, None
        if _numbers_in(parts) != _numbers_in(others) or not all(isinstance(value, Tensor) for value in results):
            raise Refused("something in it reads a number, as item() does")
        if any(before is not now for before, now in zip(arguments, program.arguments, strict=True)):
            raise Refused("something in it is made anew in Python each time, such as a random number")
        program.is_checked = True

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


def _numbers_in(parts: Mapping[str, Any]) -> list[Any]:
    return [part for adds in parts.values() for part in adds if not isinstance(part, Tensor)]


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[list[str]]:
    """Put back what in a net a call should not change: numbers, flags, containers, tensors that are no buffers.

    Yields:
        A list of the names that were changed, filled at the end.
    """
    before = [
        (f"{prefix}.{name}".lstrip("."), vars(part), name, value, _copied(value))
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in _REGISTRIES and isinstance(value, (*_SIMPLE, *_CONTAINERS, Tensor))
    ]
    changed: list[str] = []
    yield changed
    for full_name, attributes, name, value, copy in before:
        if _is_changed(attributes.get(name), value, copy):
            changed.append(full_name)
            attributes[name] = copy


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return type(value)(value) if isinstance(value, _CONTAINERS) else value


def _is_changed(now: Any, value: Any, copy: Any) -> bool:
    if isinstance(value, _SIMPLE):
        return type(now) is not type(value) or bool(now != value)
    if now is not value:
        return True
    if isinstance(value, Tensor):
        return not torch.equal(value, copy)
    return len(value) != len(copy) or any(a is not b for a, b in zip(_items(value), _items(copy), strict=True))


def _items(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


_CONTAINERS = (list, dict, set)
_REGISTRIES = frozenset(vars(nn.Module()))
