"""Learning rates for a training of known length, step by step."""

from __future__ import annotations

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from kerastorch.callbacks.rates import optimizer_of, rates_of, set_rates
from kerastorch.errors import DataError
from kerastorch.hooks import Callback, Logs

# What a plan changes in a parameter group
_PLANNED = ("initial_lr", "max_lr", "min_lr", "momentum", "betas", "max_momentum", "base_momentum")


class StepPlan(Callback, ABC):
    """Sets the learning rate of every step of a `fit` by a scheduler of torch that is told how many there will be.

    When `fit` ends, also by an error, parameter groups are put back as they were when it began. A training that goes on
    from a checkpoint goes on with the plan it was begun with.

    Attributes:
        scheduler: The scheduler of the running `fit`, or of the last one.

    Raises:
        DataError: When training begins: the data have no length.
    """

    scheduler: LRScheduler | None = None
    _steps = 0
    _followed: int | None = None  # as in LearningRateScheduler
    _before: Sequence[Mapping[str, Any]] = ()
    _running = False
    _warned = False

    @abstractmethod
    def _build(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return the plan for so many steps; each of its rates follows from the count of the step alone."""

    def on_train_begin(self, logs: Logs) -> None:
        """Begin anew, with the steps of this `fit`."""
        self.scheduler, self._followed, self._running, self._warned = None, None, False, False
        run = self.run
        if run.steps_per_epoch is None:
            raise DataError(
                f"{type(self).__name__} must know how many steps there will be, but {run.train_data.name} has no "
                "length. Type fit(..., steps_per_epoch=...)."
            )
        optimizer = optimizer_of(self)
        # A run that goes on has the steps of the whole fit, of which too few may be left for a warm-up
        first = next(iter(run.state.history.epoch), run.state.epoch)
        self._steps = run.steps_per_epoch * (run.epochs - first)
        self._before, self._running = _noted(optimizer), True
        self.scheduler = self._planned(optimizer)

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Set what the next step is made with."""
        if not self._follow() and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} has planned {self._steps} steps, and there are more: "
                f"{self.run.train_data.name} gives more batches than its length says, or the training goes on for more "
                "epochs than the checkpoint was made in. The learning rate stays as it is.",
                stacklevel=2,
            )
        self._followed = self.run.state.step

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Follow the last step; `lr` is in the logs already, and a checkpoint holds the next one."""
        self._follow()

    def on_train_end(self, logs: Logs) -> None:
        """Put the rates back."""
        self._end()

    def on_exception(self, error: BaseException) -> None:
        """Put the rates back, if it was training that failed."""
        if self.run.trains:
            self._end()

    def state_dict(self) -> dict[str, Any]:
        """Return the plan and where in it training is, and what to put back when it ends; in plain containers."""
        if self.scheduler is None:
            return {}
        return {
            "scheduler": self.scheduler.state_dict(),
            "steps": self._steps,
            "followed": self._followed,
            "before": [dict(group) for group in self._before],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, inside `fit` and before its first batch; after the optimizer has loaded its own."""
        if self.scheduler is None or not state:
            return
        self._steps, self._followed, self._before = state["steps"], state["followed"], state["before"]
        optimizer = self.scheduler.optimizer
        _put_back(optimizer, self._before)
        self.scheduler = self._planned(optimizer)
        # Of a count of 1, torch would say that the optimizer has made no step; it has, before the checkpoint
        self.scheduler.load_state_dict({**state["scheduler"], "_step_count": 2})
        if self.scheduler.last_epoch:  # its state does not hold what it sets: make the last step again
            self.scheduler.last_epoch -= 1
            self.scheduler.step()

    def _planned(self, optimizer: Optimizer) -> LRScheduler:
        for group, rate in zip(optimizer.param_groups, rates_of(optimizer), strict=True):
            group["initial_lr"] = rate  # not that of a scheduler before
        return self._build(optimizer, self._steps)

    def _follow(self) -> bool:
        """Follow the optimizer's steps; return whether the plan has a rate for the next one."""
        scheduler = self.scheduler
        if self._followed is None or scheduler is None:
            return True
        for _ in range(self._followed, self.run.state.step):
            if scheduler.last_epoch >= self._steps - 1:
                return False
            scheduler.step()
            self._followed += 1
        return True

    def _end(self) -> None:
        if self._running:
            self._running = False
            _put_back(optimizer_of(self), self._before)


class OneCycle(StepPlan):
    """Raises the learning rate to `max_lr` and lowers it again, in one cycle over a whole `fit`.

    Rates and momentum of every step are those of `torch.optim.lr_scheduler.OneCycleLR` for as many steps as `fit` will
    make. Every `fit` is a new cycle. When it ends, learning rate and momentum of the optimizer are put back as they
    were when it began; the `lr` of the history is what was trained with. The other options of `OneCycleLR` are there by
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

    Attributes:
        scheduler: The scheduler of torch of the running `fit`, or of the last one.

    Raises:
        ValueError: A number is out of its range; when training begins, the optimizer has no momentum to cycle.
        DataError: When training begins: the data have no length, so nobody knows how many steps there are.
    """

    def __init__(
        self,
        max_lr: float | Sequence[float],
        *,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ) -> None:
        rates = [float(rate) for rate in max_lr] if isinstance(max_lr, Sequence) else [float(max_lr)]
        if not rates or not all(rate > 0 for rate in rates):
            raise ValueError(f"max_lr is a number above 0, or one for each parameter group; got {max_lr!r}.")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start is a share of the steps, from 0 to 1; got {pct_start!r}.")
        self.max_lr = rates if isinstance(max_lr, Sequence) else rates[0]
        self._rates = rates
        self._options: dict[str, Any] = {
            "pct_start": float(pct_start),
            "div_factor": float(div_factor),
            "final_div_factor": float(final_div_factor),
            "cycle_momentum": cycle_momentum,
            "base_momentum": float(base_momentum),
            "max_momentum": float(max_momentum),
        }

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self._options.items())
        return f"OneCycle({self.max_lr}, {options})"

    def _build(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        highest = self._rates if len(self._rates) > 1 else self._rates[0]
        return OneCycleLR(optimizer, highest, total_steps=steps, **self._options)


class WarmupCosine(StepPlan):
    """Raises the learning rate to the one that the optimizer has when `fit` begins, then lowers it along a cosine.

    Of the `T` steps of a `fit`, `W` are the warm-up: step `t`, from 0, is made with `lr * (t + 1) / (W + 1)`. After it
    the rate is `min_lr + (lr - min_lr) * (1 + cos(pi * (t - W) / (T - W))) / 2`, the cosine of "SGDR" (Loshchilov and
    Hutter, 2017) as in `CosineAnnealingLR`. When `fit` ends, the learning rate is put back as it was when it began, so
    that the next `fit` has the same peak; the `lr` of the history is what was trained with.

    Example:
        >>> model.fit(10, dl_train, callbacks=[kt.callbacks.WarmupCosine()])

    Args:
        warmup: Steps of the warm-up; or their share of all steps, as a float between 0 and 1.
        min_lr: What the learning rate of every parameter group ends near; one below it stays as it is.

    Attributes:
        scheduler: The scheduler of torch of the running `fit`, or of the last one.

    Raises:
        ValueError: A number is out of its range; when training begins, the warm-up is not shorter than training.
        DataError: When training begins: the data have no length, so nobody knows how many steps there are.
    """

    def __init__(self, warmup: float = 0.05, *, min_lr: float = 0.0) -> None:
        if not (warmup >= 0 if isinstance(warmup, int) else 0 <= warmup < 1):
            raise ValueError(f"warmup is a number of steps, or a share from 0.0 to below 1; got {warmup!r}.")
        if not min_lr >= 0:
            raise ValueError(f"min_lr is a number from 0; got {min_lr!r}.")
        self.warmup = warmup
        self.min_lr = float(min_lr)

    def __repr__(self) -> str:
        return f"WarmupCosine({self.warmup}, min_lr={self.min_lr})"

    def _build(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        rising = self.warmup if isinstance(self.warmup, int) else int(self.warmup * steps)
        if rising >= steps:
            raise ValueError(
                f"warmup={self.warmup} steps are not fewer than the {steps} steps of this fit. Type fewer, or a share "
                "of them, such as warmup=0.1."
            )
        floors = [min(1.0, self.min_lr / peak) if peak else 1.0 for peak in rates_of(optimizer)]
        return LambdaLR(optimizer, [functools.partial(_warmup_cosine, rising, steps, floor) for floor in floors])


def _warmup_cosine(warmup: int, steps: int, floor: float, step: int) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def _noted(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what a plan changes in each parameter group, as it is now."""
    groups = [{name: group[name] for name in _PLANNED if name in group} for group in optimizer.param_groups]
    return [{**group, "lr": rate} for group, rate in zip(groups, rates_of(optimizer), strict=True)]


def _put_back(optimizer: Optimizer, before: Sequence[Mapping[str, Any]]) -> None:
    """Put back what was noted; groups that were added since keep what they have."""
    rates = [group["lr"] for group in before]
    set_rates(optimizer, [*rates, *rates_of(optimizer)[len(rates) :]])
    for group, noted in zip(optimizer.param_groups, before, strict=False):
        for name in _PLANNED:
            if name in noted:
                group[name] = noted[name]
            else:
                group.pop(name, None)
