"""Which strategy a model trains with."""

from __future__ import annotations

from typing import Any

import torch

from kerastorch.launched import is_launched
from kerastorch.resolve.plan import Plan
from kerastorch.strategy.base import Strategy
from kerastorch.strategy.group import Group


def chosen(spec: Any, plan: Plan, device: torch.device) -> Strategy:
    """Return the strategy for one process or several; those come together here.

    Args:
        spec: What `compile(strategy=...)` was given.
        plan: How a step is made.
        device: Where this process computes.
    """
    if spec is None and not is_launched():
        return Strategy(plan.precision, channels_last=plan.channels_last)
    from kerastorch.strategy import options  # what several processes need is imported where there are some

    wanted = options.of(spec) or options.DDP()
    group = Group()
    if is_launched():
        from kerastorch.strategy.processes import join

        group = join(device, wanted.timeout)
    if isinstance(wanted, options.FSDP):
        from kerastorch.strategy.fsdp import Fsdp

        return Fsdp(wanted, group, device, plan.precision, channels_last=plan.channels_last)
    if group.size == 1:
        return Strategy(plan.precision, channels_last=plan.channels_last)
    from kerastorch.strategy.ddp import Ddp

    return Ddp(wanted, group, plan.precision, channels_last=plan.channels_last)
