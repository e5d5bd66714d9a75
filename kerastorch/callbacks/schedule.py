"""Learning rates that follow a plan."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, cast

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from kerastorch.callbacks.monitor import Monitor
from kerastorch.callbacks.rates import optimizer_of, rates_of, set_rates
from kerastorch.history import format_number
from kerastorch.hooks import Callback, Logs

_Kind = Literal["scheduler", "factory", "of epoch", "of epoch and rate"]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class LearningRateScheduler(Callback):
    """Sets the learning rate by a function of the epoch, or by a scheduler of torch.

    The `lr` of the history is what the epoch was trained with; with `interval="step"`, what its last step was.

    A scheduler of torch goes on in a second `fit`, as its optimizer does; one that is built here is built anew where
    `compile` made a new optimizer. A function sees the number of the epoch.

    Example:
        >>> kt.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.9)
        >>> kt.callbacks.LearningRateScheduler(partial(StepLR, step_size=10))
        >>> kt.callbacks.LearningRateScheduler(partial(OneCycleLR, max_lr=0.1, total_steps=9000), interval="step")

    Args:
        schedule: One of these:
            a function `f(epoch, lr)` or `f(epoch)` that returns the learning rate for the epoch, counted from 0; `lr`
            is the present one. It is that of the first parameter group, the others keep their ratio to it (a group
            whose rate is 0 rests, and is not the first);
            a scheduler of `torch.optim.lr_scheduler`, made for the optimizer that trains;
            a class of them, or a function, whose first parameter is named `optimizer`: it is called with that.
        interval: When a scheduler of torch makes a step: after each `"epoch"`, or each `"step"` of the optimizer.
        monitor: The value of an epoch that `torch.optim.lr_scheduler.ReduceLROnPlateau` is told, such as `"val_loss"`;
            epochs without it make no step. Others are told none. `kt.callbacks.ReduceLROnPlateau` needs no scheduler.
        verbose: 1 to print the learning rate as each epoch begins.

    Attributes:
        scheduler: The scheduler of torch; None for a function of the epoch.
        ratios: The learning rate of each parameter group as a multiple of the first.
        followed: With `interval="step"`, the count of the optimizer's steps that `scheduler` has followed. It is one
            behind from the end of a batch to the beginning of the next, or to the end of the epoch, so that the `lr`
            of the history is one that was used. None when nothing is trained.

    Raises:
        TypeError: `schedule` is none of these; or what it returns, in training.
        ValueError: Another interval; in training, a learning rate that is negative or no number.
    """

    def __init__(
        self,
        schedule: LRScheduler | Callable[..., Any],
        *,
        interval: Literal["epoch", "step"] = "epoch",
        monitor: str | None = None,
        verbose: int = 0,
    ) -> None:
        if monitor is not None and interval == "step":
            raise ValueError("monitor is a value of an epoch; leave out interval='step'.")
        if interval not in ("epoch", "step"):
            raise ValueError(f"interval is 'epoch' or 'step'; got {interval!r}.")
        self.schedule = schedule
        self.interval = interval
        self.verbose = verbose
        self.monitor = None if monitor is None else Monitor(monitor, "min")  # the mode is the scheduler's affair
        if monitor is not None:
            self.stage = "monitor"  # after those that add values
        self._kind = _kind(schedule)
        _check_monitor(schedule, monitor)
        if self._kind not in ("scheduler", "factory") and interval == "step":
            raise ValueError("A function gives one learning rate per epoch. For one per step: LambdaLR of torch.")
        self.scheduler = schedule if isinstance(schedule, LRScheduler) else None
        self.ratios: list[float] = []
        self.followed: int | None = None
        self._optimizer: Optimizer | None = None
        self._restored = False  # since the last step of the scheduler

    def __repr__(self) -> str:
        monitor = None if self.monitor is None else self.monitor.name
        return (
            f"LearningRateScheduler({_named(self.schedule)}, interval={self.interval!r}, monitor={monitor!r}, "
            f"verbose={self.verbose})"
        )

    def on_train_begin(self, logs: Logs) -> None:
        """Take hold of the optimizer, if it is another than in the last `fit`."""
        if self._kind == "scheduler" and self.run.state.optimizer is None:
            return  # the optimizer is one of the user's own train_step
        optimizer = optimizer_of(self)
        if optimizer is self._optimizer:
            return
        self._optimizer = optimizer
        if self._kind == "factory":
            self.scheduler = _built(self.schedule, optimizer)
            _check_monitor(self.scheduler, None if self.monitor is None else self.monitor.name)
        elif self._kind == "scheduler":
            _warn_of_another(self.schedule, optimizer)
        else:
            self.ratios = _ratios(rates_of(optimizer))

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Set the learning rate for the epoch."""
        if self.run.state.batch:
            return  # it goes on in its middle, with the rates of the checkpoint
        if self.scheduler is None:
            optimizer = optimizer_of(self)
            rates = rates_of(optimizer)
            self.ratios += _ratios(rates)[len(self.ratios) :]  # of groups that were added since
            present = (next(filter(None, rates), 0.0),) if self._kind == "of epoch and rate" else ()
            rate = _checked(cast(Callable[..., Any], self.schedule)(epoch, *present), epoch)
            set_rates(optimizer, [rate * ratio for ratio in self.ratios])
        if self.verbose and self.run.strategy.is_main:
            optimizer = optimizer_of(self) if self.scheduler is None else self.scheduler.optimizer
            print(f"Epoch {epoch + 1}: the learning rate is {format_number(rates_of(optimizer)[0])}.", flush=True)

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Follow the optimizer's step of the batch before."""
        self._follow()
        self.followed = self.run.state.step

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Make the step of the epoch, or of its last batch; `lr` is in the logs already."""
        if self.monitor is not None:
            value = self.monitor.read(logs, self.run, epoch)
            if value is not None:
                cast(Any, self.scheduler).step(value)
        elif self.interval == "epoch" and self.scheduler is not None:
            self.scheduler.step()
        self._follow()

    def on_train_end(self, logs: Logs) -> None:
        """Follow the last step of an epoch that was not finished."""
        self._follow()
        self.followed = None

    def on_exception(self, error: BaseException) -> None:
        """Follow the last step: the next `fit` goes on with an optimizer that made it."""
        self._follow()
        self.followed = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler of torch, with the step that it has followed."""
        if self.scheduler is None:
            return {"ratios": list(self.ratios)}
        return {"scheduler": self.scheduler.state_dict(), "followed": self.followed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        if self.scheduler is None:
            self.ratios = list(state["ratios"])
        else:
            self.scheduler.load_state_dict(dict(state["scheduler"]))
            self.followed = state["followed"]
            self._restored = True

    def _follow(self) -> None:
        if self.interval == "epoch" or self.followed is None or self.scheduler is None:
            return
        while self.followed < self.run.state.step:
            self.followed += 1  # first: where the scheduler is at its end and raises, it is not asked again
            if not self._restored:
                self.scheduler.step()
                continue
            self._restored = False
            with warnings.catch_warnings():  # torch would say that the optimizer has made no step; it has, before
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()


def _kind(schedule: Any) -> _Kind:
    """Tell what was given.

    Raises:
        TypeError: It is nothing that gives learning rates.
    """
    if isinstance(schedule, LRScheduler):
        return "scheduler"
    if not callable(schedule):
        raise TypeError(
            "schedule is a function f(epoch, lr) or f(epoch), or a scheduler of torch.optim.lr_scheduler; "
            f"got {schedule!r}."
        )
    try:
        parameters = list(inspect.signature(schedule).parameters.values())
    except ValueError:  # something built in, which does not tell
        return "of epoch"
    if parameters and parameters[0].name == "optimizer":
        return "factory"
    return "of epoch and rate" if _takes_rate(parameters) else "of epoch"


def _check_monitor(schedule: Any, monitor: str | None) -> None:
    """See that what must be told a value is, and nothing else."""
    is_told = isinstance(schedule, lr_scheduler.ReduceLROnPlateau) or schedule is lr_scheduler.ReduceLROnPlateau
    if is_told and monitor is None:
        raise TypeError(
            "ReduceLROnPlateau of torch must be told a value. Type LearningRateScheduler(..., monitor='val_loss'), or "
            "use kt.callbacks.ReduceLROnPlateau('val_loss')."
        )
    if monitor is not None and not is_told and _kind(schedule) != "factory":
        raise TypeError(f"monitor={monitor!r} is for ReduceLROnPlateau of torch; {_named(schedule)} is told no value.")


def _ratios(rates: Sequence[float]) -> list[float]:
    first = next(filter(None, rates), 0.0)
    return [rate / first if first else 1.0 for rate in rates]


def _takes_rate(parameters: Sequence[inspect.Parameter]) -> bool:
    # A default counts only under a name that means a learning rate: f(epoch, decay=0.9) is a function of the epoch
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    second = [parameter for parameter in parameters if parameter.kind in _POSITIONAL][1:2]
    return any(
        parameter.default is inspect.Parameter.empty or parameter.name in ("lr", "learning_rate")
        for parameter in second
    )


def _built(factory: Any, optimizer: Optimizer) -> LRScheduler:
    scheduler = factory(optimizer)
    if not isinstance(scheduler, LRScheduler) or _kind(scheduler) != "scheduler":
        raise TypeError(
            f"{_named(factory)} must return a scheduler of torch.optim.lr_scheduler; it returned {scheduler!r}."
        )
    return scheduler


def _named(schedule: Any) -> str:
    if isinstance(schedule, LRScheduler):
        return f"{type(schedule).__name__}(...)"
    return getattr(schedule, "__name__", None) or repr(schedule)


def _warn_of_another(scheduler: Any, optimizer: Optimizer) -> None:
    if scheduler.optimizer is not optimizer:
        name = type(scheduler).__name__
        warnings.warn(
            f"{name} was made for another optimizer than the one that trains. Type {name}(model.optimizer, ...) after "
            f"compile, or LearningRateScheduler(functools.partial({name}, ...)).",
            stacklevel=2,
        )


def _checked(rate: Any, epoch: int) -> float:
    if not isinstance(rate, Real) and getattr(rate, "ndim", None) != 0:
        raise TypeError(
            f"The schedule must return the learning rate, a number; for epoch {epoch} it returned {rate!r}."
        )
    number = float(cast(float, rate))
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"A learning rate is a number from 0; for epoch {epoch} the schedule returned {number}.")
    return number
