"""The step of an optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from kerastorch.shards import local
from kerastorch.updates.plain import without_gradients
from kerastorch.updates.prepare import PREPARE, Job, members, pieces

_STEPS: dict[type[Optimizer], Any] = {kind: kind.step for kind in PREPARE}  # torch wraps them at the first constructor


class Updates:
    """Takes the steps of one optimizer.

    Weights, state and what schedulers look at are to the last bit what `optimizer.step()` makes of them. `Adam`,
    `AdamW` and `SGD` go the quick way from their second step on, if they have no hooks, options that are numbers, none
    of `amsgrad`, `maximize`, `capturable` and `differentiable`, and within a group real parameters of one dtype on one
    device with dense gradients. Other steps are ordinary calls, and so are all while torch's profiler records.

    Of parameters that lie over several processes, each process updates its parts. On an accelerator torch takes those
    one by one, which is slow; there the last digits may be others.

    Attributes:
        optimizer: The optimizer. Its groups, options and state may change at any time.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._prepare = PREPARE.get(type(optimizer))
        self._began = False

    def step(self) -> None:
        """Do what `optimizer.step()` does."""
        jobs = self._jobs() if self._began and _is_plain(self.optimizer) else None
        if jobs is None:
            self.optimizer.step()
            # The first step makes the state, and has checks of its own
            self._began = self._prepare is not None and not _overlap(self.optimizer)
        else:
            _run(jobs)

    def _jobs(self) -> list[Job] | None:
        """Return what to do for each group; None, with nothing changed, if that is not known for one of them."""
        jobs = []
        for group in self.optimizer.param_groups:
            found = members(group)
            if found is not None and not found.gradients:
                continue
            job = None if found is None or self._prepare is None else self._prepare(self.optimizer, group, found)
            if job is None:
                return None
            jobs.append(job)
        return jobs


@without_gradients
def _run(jobs: list[Job]) -> None:
    for function, columns, options, tensor_by_tensor in jobs:
        for piece in pieces(columns) if tensor_by_tensor else (columns,):
            function(piece, options)


def _overlap(optimizer: Optimizer) -> bool:
    """Tell whether two parameters lie in one place; one after the other they are stepped to other numbers."""
    parts = [local(each) for group in optimizer.param_groups for each in group["params"]]
    places = [part.data_ptr() for part in parts if part.numel()]
    return len(set(places)) < len(places)


def _is_plain(optimizer: Optimizer) -> bool:
    """Tell whether a step does nothing but update."""
    own = vars(optimizer)
    return not (
        own["_optimizer_step_pre_hooks"]
        or own["_optimizer_step_post_hooks"]
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or own.get("found_inf") is not None  # of a GradScaler, for a fused step to look at
        or own.get("grad_scale") is not None
        or optimizer.defaults["differentiable"]
        or torch._C._autograd._profiler_enabled()
        or not _is_torchs(optimizer, own)
    )


def _is_torchs(optimizer: Optimizer, own: dict[str, Any]) -> bool:
    """Tell whether the method `step` is torch's, and no scheduler waits for its first call."""
    kind = type(optimizer)
    step: Any = kind.step
    if step is not _STEPS[kind] and getattr(step, "__wrapped__", None) is not _STEPS[kind]:
        return False
    instead = own.get("step")
    if instead is None:
        return True
    by_scheduler = hasattr(instead, "_wrapped_by_lr_sched") and instead.__wrapped__ is step
    return by_scheduler and "_opt_called" in own
