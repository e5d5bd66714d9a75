"""Learning rates for a training of known length, step by step."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from kerastorch.callbacks.rates import optimizer_of, rates_of
from kerastorch.callbacks.schedule import LearningRateScheduler
from kerastorch.errors import DataError
from kerastorch.hooks import Callback, Logs


def OneCycle(
    max_lr: float | Sequence[float],
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> StepPlan:
    """Return a callback that raises the learning rate to `max_lr` and lowers it again, in one cycle over a whole `fit`.

    Rates and momentum of every step are those of `torch.optim.lr_scheduler.OneCycleLR` for as many steps as `fit` will
    make. Every `fit` is a new cycle. The other options of `OneCycleLR` are there by
    `LearningRateScheduler(partial(OneCycleLR, ...), interval="step")`.

    Example:
        >>> model.fit(10, dl_train, callbacks=[kt.callbacks.OneCycle(0.1)])

    Args:
        max_lr: The highest learning rate; a list has one for each parameter group.
        pct_start: The share of the steps in which it rises.
        div_factor: The first learning rate is `max_lr / div_factor`.
        final_div_factor: The last one is the first divided by this.
        cycle_momentum: Lower the momentum, or the first beta of Adam, while the learning rate rises.
        base_momentum: The lowest momentum.
        max_momentum: The highest; that of the first and the last step.

    Raises:
        ValueError: A number is out of its range; when training begins, the optimizer has no momentum to cycle.
        DataError: When training begins: the data have no length, so nobody knows how many steps there are.
    """
    rates = list(max_lr) if isinstance(max_lr, Sequence) else [max_lr]
    if not rates or not all(rate > 0 for rate in rates):
        raise ValueError(f"max_lr is a number above 0, or one for each parameter group; got {max_lr!r}.")
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start is a share of the steps, from 0 to 1; got {pct_start!r}.")
    options: dict[str, Any] = {
        "pct_start": pct_start,
        "div_factor": div_factor,
        "final_div_factor": final_div_factor,
        "cycle_momentum": cycle_momentum,
        "base_momentum": base_momentum,
        "max_momentum": max_momentum,
    }

    def build(optimizer: Optimizer, steps: int) -> LRScheduler:
        return OneCycleLR(optimizer, rates if len(rates) > 1 else rates[0], total_steps=steps, **options)

    shown = ", ".join(f"{name}={value}" for name, value in options.items())
    return StepPlan("OneCycle", f"{max_lr}, {shown}", build)


def WarmupCosine(warmup: float = 0.05, *, min_lr: float = 0.0) -> StepPlan:
    """Return a callback that raises the learning rate to the optimizer's, then lowers it along a cosine.

    Of the `T` steps of a `fit`, `W` are the warm-up: step `t`, from 0, is made with `lr * (t + 1) / (W + 1)`. After it
    the rate is `min_lr + (lr - min_lr) * (1 + cos(pi * (t - W) / (T - W))) / 2`, the cosine of "SGDR" (Loshchilov and
    Hutter, 2017) as in `CosineAnnealingLR`. Every `fit` begins anew, with the rate that the optimizer was made with.

    Example:
        >>> model.fit(10, dl_train, callbacks=[kt.callbacks.WarmupCosine()])

    Args:
        warmup: Steps of the warm-up; or their share of all steps, as a float between 0 and 1.
        min_lr: What the learning rate of every parameter group ends near; one below it stays as it is.

    Raises:
        ValueError: A number is out of its range; when training begins, the warm-up is not shorter than training.
        DataError: When training begins: the data have no length, so nobody knows how many steps there are.
    """
    if not (warmup >= 0 if isinstance(warmup, int) else 0 <= warmup < 1):
        raise ValueError(f"warmup is a number of steps, or a share from 0.0 to below 1; got {warmup!r}.")
    if not min_lr >= 0:
        raise ValueError(f"min_lr is a number from 0; got {min_lr!r}.")

    def build(optimizer: Optimizer, steps: int) -> LRScheduler:
        rising = warmup if isinstance(warmup, int) else int(warmup * steps)
        if rising >= steps:
            raise ValueError(f"warmup={warmup} steps are not fewer than the {steps} steps of this fit.")
        floors = [min(1.0, min_lr / peak) if peak else 1.0 for peak in _initial_rates(optimizer)]
        return LambdaLR(optimizer, [functools.partial(_warmup_cosine, rising, steps, floor) for floor in floors])

    return StepPlan("WarmupCosine", f"{warmup}, min_lr={min_lr}", build)


def _warmup_cosine(warmup: int, steps: int, floor: float, step: int) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


class StepPlan(Callback):
    """Sets the learning rate of every step of a `fit` by a scheduler of torch that is told how many there will be.

    Args:
        name: What the user has called to get it.
        arguments: And with what, as text.
        build: Makes the scheduler for an optimizer and a number of steps.

    Attributes:
        scheduler: The scheduler of the running `fit`, or of the last one.

    Raises:
        DataError: When training begins: the data have no length.
    """

    def __init__(self, name: str, arguments: str, build: Callable[[Optimizer, int], LRScheduler]) -> None:
        self.scheduler: LRScheduler | None = None
        self._name = name
        self._arguments = arguments
        self._build = build
        self._follower: LearningRateScheduler | None = None
        self._steps = 0
        self._initial: list[float] = []

    def __repr__(self) -> str:
        return f"{self._name}({self._arguments})"

    def on_train_begin(self, logs: Logs) -> None:
        """Begin anew, with the steps of this `fit`."""
        run = self.run
        self._follower = None
        if run.train_data.steps is None:
            raise DataError(
                f"{self._name} must know how many steps there will be, but {run.train_data.name} has no length. "
                "Type fit(..., steps_per_epoch=...)."
            )
        self._steps = run.train_data.steps * (run.epochs - run.state.epoch)
        self._initial = _initial_rates(optimizer_of(self))
        follower = LearningRateScheduler(self._planned, interval="step")
        follower.run, follower.model = run, self.model
        follower.on_train_begin({})
        self._follower, self.scheduler = follower, follower.scheduler

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Set what the next step is made with."""
        follower = self._present()
        if follower is not None:
            follower.on_train_batch_begin(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Follow the last step; `lr` is in the logs already."""
        follower = self._present()
        if follower is not None:
            follower.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Logs) -> None:
        """Follow the last step of an epoch that was not finished."""
        self._end()

    def on_exception(self, error: BaseException) -> None:
        """Follow the last step: the optimizer has made it."""
        if self.run.trains:
            self._end()

    def state_dict(self) -> dict[str, Any]:
        """Return where in the plan training is, in plain containers."""
        return {} if self.scheduler is None else dict(self.scheduler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, inside `fit` and before its first batch; the optimizer loads its own."""
        if self.scheduler is not None and state:
            self.scheduler.load_state_dict(dict(state))

    def _planned(self, optimizer: Optimizer) -> LRScheduler:
        return self._build(optimizer, self._steps)

    def _present(self) -> LearningRateScheduler | None:
        """Return what follows the steps; beyond the last one that was planned, the rate stays as it is."""
        follower, scheduler = self._follower, self.scheduler
        if follower is None or scheduler is None or scheduler.last_epoch < self._steps:
            return follower
        if follower.followed is not None and self.run.state.step > follower.followed:
            self._follower = None
            warnings.warn(
                f"{self._name} has planned {self._steps} steps, but {self.run.train_data.name} gives more batches than "
                "its length says. The learning rate stays as it is.",
                stacklevel=2,
            )
        return None

    def _end(self) -> None:
        follower, self._follower = self._present(), None
        if follower is not None:
            follower.on_train_end({})
        for group, rate in zip(optimizer_of(self).param_groups, self._initial, strict=False):
            group["initial_lr"] = rate  # OneCycleLR has put that of its first step there


def _initial_rates(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each parameter group before any scheduler of torch had it."""
    present = zip(optimizer.param_groups, rates_of(optimizer), strict=True)
    return [float(group.get("initial_lr", rate)) for group, rate in present]
