"""What happens to one batch."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kerastorch import checks, guard, window
from kerastorch.binding import EMPTY, POSITIONAL, bind
from kerastorch.data import Batch
from kerastorch.errors import MismatchError, NotCompiledError
from kerastorch.hooks import Hooks
from kerastorch.losses import OutputLoss, Term
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.tree import concatenate, detached, move

if TYPE_CHECKING:
    from kerastorch.memory import Whole
    from kerastorch.memory.whole import WholeOfAll

OwnStep = Callable[[Batch], Any]


def train_step(run: Run, hooks: Hooks, batch: Batch) -> None:
    """Forward, loss, backward, update: what a loop written by hand does; the sums stay on the device."""
    state, optimizer = run.state, run.state.optimizer
    if optimizer is None:
        raise NotCompiledError("A net cannot be trained without an optimizer.")
    guard.prepare(run)
    if not state.pending:
        clear_gradients(optimizer)
    run.strategy.synchronise(last=window.is_last(run, batch))
    splitter = run.splitter
    if splitter is None:
        note = learn(run, batch, window.whole(run, batch))
    else:
        note = splitter.learn(run, batch, functools.partial(learn, run))
    if note is None:
        window.leave_out(run, batch)
        return
    note()  # before the weights change that it came from
    state.pending += 1
    if window.is_full(run, batch):
        window.step(run, hooks)


def ordinary_train_step(run: Run, hooks: Hooks, batch: Batch) -> None:
    """Do `train_step` inside a step of the user's own."""
    if run.averaging is None:
        train_step(run, hooks, batch)
        return
    with run.averaging.ordinary():
        train_step(run, hooks, batch)


def learn(run: Run, batch: Batch, whole: Whole | WholeOfAll | None = None) -> Callable[[], None] | None:
    """Forward, loss, backward; return what notes loss and metrics, None where the batch is to make no step.

    Args:
        run: The run.
        batch: The batch, or a part of it.
        whole: What the part is a part of.
    """
    with run.strategy.autocast():
        output = forward(run, batch)
        loss, terms = loss_of(run, output, batch, "train", whole)
    if not guard.admits(run, batch, output, loss, terms):
        return None
    seen = detached(output)
    if whole is not None:
        window.add_gradients(run, loss, whole.weight, whole.batch)
    elif batch.is_filler:
        window.add_nothing(run, loss, terms[0][2], batch)
    else:
        window.add_gradients(run, loss, terms[0][2], batch)
    if batch.is_filler:
        return lambda: None
    return lambda: run.state.metrics.update(terms, seen, batch, prediction(run, seen, batch))


def clear_gradients(optimizer: Optimizer) -> None:
    """Do what `optimizer.zero_grad()` does, at a twentieth of its cost for a small net."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def evaluate_step(run: Run, batch: Batch) -> None:
    """Forward and loss; gradients are off. In parts where memory does not suffice."""
    if batch.is_filler:
        if run.strategy.evaluates_together:
            judge(run, batch)
        return
    splitter, work = run.val_splitter, functools.partial(judge, run)
    for part, output, terms in (work(batch),) if splitter is None else splitter.each(run, batch, work):
        run.val_metrics.update(terms, output, part, prediction(run, output, part))


def judge(run: Run, batch: Batch) -> tuple[Batch, Any, Sequence[Term]]:
    """Forward and loss."""
    with run.strategy.held(), run.strategy.autocast():
        output = forward(run, batch)
        return batch, output, loss_of(run, output, batch, "test")[1]


def predict_step(run: Run, batch: Batch) -> Any:
    """Forward; return the output on the CPU. In parts where memory does not suffice."""
    if batch.is_filler and not run.strategy.evaluates_together:
        return None
    splitter, work = run.val_splitter, functools.partial(answer, run)
    return work(batch) if splitter is None else concatenate(list(splitter.each(run, batch, work)))


def answer(run: Run, batch: Batch) -> Any:
    """Forward; return the output on the CPU."""
    with run.strategy.autocast():
        output = forward(run, batch, labels=False)
    return move(run.strategy.outputs(output), torch.device("cpu"), non_blocking=False)


def forward(run: Run, batch: Batch, *, labels: bool | None = None) -> Any:
    """Call the net with the inputs of a batch.

    Args:
        run: Decides at its first batch how inputs go into the net.
        batch: The batch.
        labels: Whether the net is given the labels; by default if the loss is its own.
    """
    if run.call is None:
        labels = isinstance(run.loss, OutputLoss) if labels is None else labels
        module, net = run.state.module, run.net  # which may have a len(), and be false
        if net is None:
            is_parallel = run.phase == "train" and run.averaging is None
            net = run.strategy.net(module) if is_parallel else module
        run.call = bind(net, batch.x, labels=labels, like=module)
        run.facts.see(batch.x)
    return run.call(run.strategy.inputs(batch.x))


def loss_of(
    run: Run, output: Any, batch: Batch, phase: str, whole: Whole | WholeOfAll | None = None
) -> tuple[Tensor, Sequence[Term]]:
    """Return what to differentiate, and its terms in the mean of the epoch; the first batch is checked."""
    objective = run.loss if phase == "test" or run.train_loss is None else run.train_loss
    if objective is None:
        raise NotCompiledError("A net cannot be evaluated without a loss.")
    data = run.train_data if phase == "train" else run.val_data
    if data.name in run.checked:
        return objective.terms(output, batch) if whole is None else whole.share(objective, output, batch)
    checks.first_batch(objective, output, batch)
    loss, terms = objective.terms(output, batch) if whole is None else whole.share(objective, output, batch)
    checks.loss_value(loss, objective.name, training=phase == "train")
    if phase == "train" and run.nan not in ("skip", "warn"):
        checks.nothing_missing(loss, batch)
    run.checked.add(data.name)
    return loss, terms


def prediction(run: Run, output: Any, batch: Batch) -> Any:
    """Return what metrics compare with the targets."""
    return output if run.loss is None else run.loss.prediction(output, batch.y)


def own_train_step(run: Run, own: OwnStep, batch: Batch) -> None:
    """Train by a step of the user's own; where it calls the ordinary one, that has counted itself."""
    before, left_out = run.state.step, len(run.left_out)
    metrics = run.state.metrics
    samples = metrics.samples
    if run.averaging is not None:
        run.averaging.begin(batch)
    batch.x = run.strategy.inputs(batch.x)
    values = own(batch)
    if len(run.left_out) > left_out:
        return  # by the ordinary step that it calls
    if not batch.is_filler:
        if isinstance(values, Mapping) and not guard.admits_own(run, batch, values):
            return
        _note(values, metrics, batch, samples)
    if run.state.step == before and not run.state.pending:
        run.state.step += 1
        _warn_of_plan(run)


def own_evaluate_step(run: Run, own: OwnStep, batch: Batch) -> None:
    """Evaluate by a step of the user's own."""
    if batch.is_filler and not run.strategy.evaluates_together:
        return
    samples = run.val_metrics.samples
    batch.x = run.strategy.inputs(batch.x)
    with run.strategy.held():
        values = own(batch)
    if not batch.is_filler:
        _note(values, run.val_metrics, batch, samples)


def by_batch(step: Callable[..., Any]) -> OwnStep:
    """Let a step that takes `(features, labels)`, as in torchkeras, take a batch."""
    parameters = inspect.signature(step).parameters.values()
    needed = [parameter for parameter in parameters if parameter.kind in POSITIONAL and parameter.default is EMPTY]
    return (lambda batch: step(batch.x, batch.y)) if len(needed) >= 2 else step


def seeing(run: Run, own: OwnStep) -> OwnStep:
    """Let the first batch of a step of the user's own be remembered, which may call the net as it likes."""

    def step(batch: Batch) -> Any:
        if not run.has_seen:
            run.has_seen = True
            run.facts.see(batch.x)
        return own(batch)

    return step


def _note(values: Any, metrics: MetricSet, batch: Batch, before: int) -> None:
    noted = metrics.samples > before
    if values is None and noted:
        return
    if not isinstance(values, Mapping) or not (values or noted):
        raise MismatchError(
            f"A step of your own must return a dict of values, such as {{'loss': loss}}; got {values!r}. "
            "It may return None where it has called the ordinary one by super()."
        )
    if not noted and not before:
        _warn_of_unmeasured(metrics, values)
    twice = [name for name in values if noted and name in metrics.noted]
    if twice:
        raise MismatchError(f"The ordinary step has noted {twice[0]!r} already; return it under another name.")
    metrics.record(values, batch.size, counts=not noted)


def _warn_of_plan(run: Run) -> None:
    plan = run.plan
    given = {"microbatch": run.splitter, "accumulate": plan.accumulate > 1 or None, "clip_norm": plan.clip_norm}
    given |= {"clip_value": plan.clip_value, "precision": plan.precision.endswith("-mixed") or None}
    ignored = [name for name, value in given.items() if value is not None]
    if not ignored or run.warned:
        return
    run.warned = True
    named = " and ".join(filter(None, [", ".join(ignored[:-1]), ignored[-1]]))
    warnings.warn(
        f"{named} {'is' if len(ignored) == 1 else 'are'} not used: train_step is your own. Call "
        "super().train_step(batch), or do it there"
        f"{': precision by torch.autocast' if 'precision' in ignored else ''}.",
        stacklevel=2,
    )


def _warn_of_unmeasured(metrics: MetricSet, values: Mapping[str, Any]) -> None:
    missing = [name for name in metrics.metrics if name not in values]
    if missing:
        warnings.warn(
            f"The compiled metric {missing[0]!r} is not measured: the step of your own does not return it. Return "
            f"{{..., {missing[0]!r}: ...}}, or call super().train_step(batch).",
            stacklevel=2,
        )
