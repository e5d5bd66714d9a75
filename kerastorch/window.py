"""The batches whose gradients make one step of the optimizer: `compile(accumulate=...)`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kerastorch import shards
from kerastorch.data import Batch
from kerastorch.hooks import Hooks
from kerastorch.losses import Weight
from kerastorch.run import Run

if TYPE_CHECKING:
    from kerastorch.memory.whole import WholeOfAll


def add_gradients(run: Run, loss: Tensor, weight: Weight, batch: Batch) -> None:
    """Add the gradients of a batch to those that wait.

    A batch counts as its loss counts in the mean of an epoch: by its samples, or by its labels that are not ignored. So
    the sum, divided in `step` by all that came in, is the gradient of one large batch, also over several processes.
    Where several losses count different things, that is so for the first of them.

    Args:
        run: The run.
        loss: That of the batch, or the share in it that a part of the batch has.
        weight: What the batch counts; None for a loss that is a sum, which is not divided.
        batch: The whole batch.
    """
    is_alone = run.strategy.group.size == 1
    if weight is None or (is_alone and run.plan.accumulate == 1):
        run.strategy.backward(loss)
        return
    if run.window is None:  # the shares of several processes are multiples of one number
        run.window = Window(weight if is_alone else float(run.train_data.batch_size or 1))
    share = run.window.share(weight, batch)
    if share is not None:
        run.strategy.backward(loss * share, share)
    elif not is_alone:
        run.strategy.backward(loss * 0.0, 0.0)  # the others wait for its gradients


def add_nothing(run: Run, loss: Tensor, weight: Weight, batch: Batch) -> None:
    """Keep step with processes that have a batch where this one has none."""
    add_gradients(run, loss * 0.0, None if weight is None else 0.0, batch)


def whole(run: Run, batch: Batch) -> WholeOfAll | None:
    """Return what several losses divide by, where several processes each have a part of the batch."""
    objective = run.loss if run.train_loss is None else run.train_loss
    if run.strategy.group.size == 1 or objective is None or objective.factors is None:
        return None
    from kerastorch.memory.whole import WholeOfAll

    return WholeOfAll(batch, run.strategy.group)


def leave_out(run: Run, batch: Batch) -> None:
    """Do not count a batch whose gradients were dropped."""
    if run.window is not None:
        run.window.leave_out(batch)


def is_full(run: Run, batch: Batch) -> bool:
    """Whether the optimizer makes its step after this batch; the last one of an epoch does not wait for more."""
    steps = run.train_data.steps
    return run.state.pending >= run.plan.accumulate or (steps is not None and batch.index + 1 >= steps)


def is_last(run: Run, batch: Batch) -> bool:
    """Whether the gradients must be complete after the batch that is about to be worked on, as far as one can know."""
    steps = run.train_data.steps
    return steps is None or run.state.pending + 1 >= run.plan.accumulate or batch.index + 1 >= steps


def step(run: Run, hooks: Hooks) -> None:
    """Make a step of the optimizer with the gradients that wait."""
    state, optimizer, plan = run.state, run.state.optimizer, run.plan
    assert optimizer is not None
    run.strategy.unscale(optimizer)
    divisor = run.strategy.whole(None if run.window is None else run.window.total)
    if isinstance(divisor, Tensor) or divisor not in (None, 0, 1):
        torch._foreach_div_(list(map(shards.local, _gradients(optimizer))), divisor)
    elif divisor == 0 and plan.accumulate > 1:
        for parameter in _parameters(optimizer):
            parameter.grad = None  # where nothing counts one process makes none, and several have made zeros
    hooks.emit("on_optimizer_step_begin", state.step)
    if plan.clip_norm is not None or plan.clip_value is not None:
        run.strategy.clip(_gradients(optimizer), plan.clip_norm, plan.clip_value)
    state.pending, run.window = 0, None
    skipped = run.strategy.step(optimizer)
    if skipped is None:
        state.step += 1
    elif not run.skipped:
        run.say(skipped)
    run.skipped += skipped is not None


class Window:
    """How much each batch counts.

    Args:
        first: What the first one counts; the others count as multiples of it, which keeps half precision in its range,
            and a window of a single batch exact.

    Attributes:
        total: What came in.
    """

    def __init__(self, first: float | Tensor) -> None:
        self._first = first
        self.total: Any = 0.0
        self._last: tuple[Batch, Any] | None = None

    def share(self, weight: float | Tensor, batch: Batch) -> float | Tensor | None:
        """Count a batch in, once; return what to multiply its loss with. None for one without labels: its loss is NaN.

        Args:
            weight: What it counts.
            batch: The batch, also where it comes part by part.
        """
        if self._last is not None and self._last[0] is batch:
            return self._last[1]  # type: ignore[no-any-return]
        if isinstance(weight, Tensor) and weight.is_cpu:
            weight = weight.item()
        if isinstance(weight, float | int) and weight == 0:
            return None
        if not isinstance(self._first, Tensor) or self._first.is_cpu:
            self._first = float(self._first) or float(weight)  # there is nothing to wait for
        share = weight / self._first
        self.total = self.total + share
        self._last = batch, share
        return share

    def leave_out(self, batch: Batch) -> None:
        """Do not count a batch."""
        if self._last is not None and self._last[0] is batch:
            self.total, self._last = self.total - self._last[1], None


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]
