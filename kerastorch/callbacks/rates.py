"""The learning rates of an optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

from torch import Tensor
from torch.optim import Optimizer

from kerastorch.hooks import Callback


def optimizer_of(callback: Callback) -> Optimizer:
    """Return the optimizer that trains."""
    # A train_step of the user's own has the optimizer built when it first asks for it
    state = callback.run.state
    if state.optimizer is None and state.optimizers:
        warnings.warn(
            f"{type(callback).__name__} acts on model.optimizer, but this model has optimizers of its own: "
            f"{', '.join(state.optimizers)}. If its train_step uses only those, type "
            f"LearningRateScheduler(StepLR(model.{next(iter(state.optimizers))}, ...)) for each.",
            stacklevel=2,
        )
    return state.optimizer or cast(Optimizer, callback.model.optimizer)


def rates_of(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each parameter group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def set_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """Give each parameter group its learning rate."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):  # one that a captured or compiled step reads
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
