"""Names and spellings -> objects, once, into a frozen Recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from kerastorch.losses import Objective
from kerastorch.metrics import Metric
from kerastorch.resolve.devices import device
from kerastorch.resolve.losses import loss
from kerastorch.resolve.metric import metrics
from kerastorch.resolve.optimizers import OptimizerFactory, optimizer
from kerastorch.resolve.plan import JitCompile, Plan

__all__ = ["JitCompile", "Plan", "Recipe", "device", "either", "loss", "metrics", "optimizer", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """What `compile` was given, resolved.

    Attributes:
        loss: The loss, or several, with the weight of each batch.
        optimizer: The optimizer, or what builds it from the parameters.
        metrics: Names and metrics, in order.
        device: `"auto"`, or the device to train on.
        plan: How a step is made.
        strategy: How several processes train together.
    """

    loss: Objective
    optimizer: Optimizer | OptimizerFactory
    metrics: Mapping[str, Metric]
    device: str | torch.device
    plan: Plan = field(default_factory=Plan)
    strategy: Any = None


def recipe(
    loss_spec: Any,
    optimizer_spec: Any,
    metrics_spec: Any,
    device_spec: str | torch.device | None,
    *,
    loss_weights: Any = None,
    plan: Plan | None = None,
    strategy_spec: Any = None,
) -> Recipe:
    """Return the arguments of `compile`, resolved.

    Raises:
        ValueError: A name is unknown, or a device is not there.
        TypeError: An argument is of the wrong kind.
    """
    objective, place = loss(loss_spec, loss_weights), device_spec or "auto"
    device(place)
    built, measured = optimizer(optimizer_spec), metrics(metrics_spec, objective)
    return Recipe(objective, built, measured, place, plan or Plan(), strategy_spec)


def either(name: str, value: Any, other: str, other_value: Any) -> Any:
    """Return what was given in one of two spellings.

    Raises:
        TypeError: It was given in both.
    """
    if value is not None and other_value is not None:
        raise TypeError(f"{name} and {other} are two spellings of one argument; give one of them.")
    return other_value if value is None else value
