"""What happens to one batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from kerastorch import checks
from kerastorch.data import Batch
from kerastorch.errors import MismatchError, NotCompiledError
from kerastorch.hooks import Hooks
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.tree import map_leaves

OwnStep = Callable[[Batch], Any]


def train_step(run: Run, hooks: Hooks, batch: Batch) -> None:
    """Forward, loss, backward, update: what a loop written by hand does; the sums stay on the device."""
    state, optimizer = run.state, run.state.optimizer
    if optimizer is None:
        raise NotCompiledError("A net cannot be trained without an optimizer.")
    output = forward(run, batch)
    loss, weight = loss_of(run, output, batch, "train")
    optimizer.zero_grad()
    run.strategy.backward(loss)
    hooks.emit("on_optimizer_step_begin", state.step)
    run.strategy.step(optimizer)
    state.step += 1
    state.metrics.update(loss.detach(), weight, detached(output), batch)


def evaluate_step(run: Run, batch: Batch) -> None:
    """Forward and loss; gradients are off."""
    output = forward(run, batch)
    loss, weight = loss_of(run, output, batch, "test")
    run.val_metrics.update(loss, weight, output, batch)


def predict_step(run: Run, batch: Batch) -> Any:
    """Forward; return the output on the CPU."""
    return map_leaves(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, forward(run, batch))


def forward(run: Run, batch: Batch) -> Any:
    """Call the net with the inputs of a batch."""
    if run.call is None:
        run.call = bind(run.state.module, batch.x)
    return run.call(batch.x)


def bind(module: nn.Module, x: Any) -> Callable[[Any], Any]:
    """Decide how inputs like `x` go into `forward`.

    A tuple spreads over the positional parameters, a dict over the parameters of its names. Where `forward` has no such
    parameters, and for anything else, `x` goes in whole.
    """
    if hasattr(x, "to") or not isinstance(x, (tuple, list, Mapping)):
        return module
    parameters = list(inspect.signature(module.forward).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    if isinstance(x, Mapping):
        names = {parameter.name for parameter in parameters}
        spreads = set(x) <= names or inspect.Parameter.VAR_KEYWORD in kinds
        return (lambda inputs: module(**inputs)) if spreads else module
    places = sum(parameter.kind in _POSITIONAL for parameter in parameters)
    spreads = places >= len(x) or inspect.Parameter.VAR_POSITIONAL in kinds
    return (lambda inputs: module(*inputs)) if spreads else module


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def loss_of(run: Run, output: Any, batch: Batch, phase: str) -> tuple[Tensor, float | Tensor | None]:
    """Return the loss and its weight in the mean of the epoch; the first batch is checked."""
    if run.loss is None:
        raise NotCompiledError("A net cannot be evaluated without a loss.")
    if phase not in run.unchecked:
        return run.loss(output, batch)
    checks.first_batch(run.loss, output, batch)
    loss, weight = run.loss(output, batch)
    checks.loss_value(loss, run.loss.name, training=phase == "train")
    run.unchecked.discard(phase)
    return loss, weight


def detached(output: Any) -> Any:
    """Cut an output off its graph, so that metrics do not keep it."""
    if type(output) is Tensor:
        return output.detach()
    return map_leaves(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def own_train_step(run: Run, own: OwnStep, batch: Batch) -> None:
    """Train by a step of the user's own; where it calls the ordinary one, that has noted everything."""
    if _note(own(batch), run.state.metrics, batch):
        run.state.step += 1


def own_evaluate_step(run: Run, own: OwnStep, batch: Batch) -> None:
    """Evaluate by a step of the user's own."""
    _note(own(batch), run.val_metrics, batch)


def by_batch(step: Callable[..., Any]) -> OwnStep:
    """Let a step that takes `(features, labels)`, as in torchkeras, take a batch."""
    places = [p for p in inspect.signature(step).parameters.values() if p.kind in _POSITIONAL]
    return (lambda batch: step(batch.x, batch.y)) if len(places) >= 2 else step


def _note(values: Any, metrics: MetricSet, batch: Batch) -> bool:
    if values is None:
        return False
    if not isinstance(values, Mapping):
        raise MismatchError(f"A step must return a dict of values, or None; got {values!r}.")
    metrics.record(values, batch.size)
    return True
