"""A learning rate to train with, found by a short trial of many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch.optim import Optimizer

from kerastorch import feed, isolate, loop
from kerastorch.assembly import Session
from kerastorch.callbacks.rates import optimizer_of, rates_of, set_rates
from kerastorch.data.kinds import is_one_shot
from kerastorch.errors import DataError, MismatchError
from kerastorch.hooks import Callback, Hooks, Logs
from kerastorch.keeper import loss_modules
from kerastorch.lr_curve import FEWEST, LRFinderResult, smoothed_at
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.wrapper import Wrapper

_TOO_HIGH = 4  # times the best smoothed loss


def find_lr(
    model: Wrapper,
    dl_train: Any = None,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    *,
    batch_size: int | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> LRFinderResult:
    """Find a learning rate to train with: try many, each on one batch, from low to high.

    It trains with the compiled loss and optimizer, or your own `train_step`. Where the smoothed loss rises to four
    times its best, or is no number, it ends; a batch of which nothing counts, since all its labels are ignored, is left
    out. All that training changes is afterwards exactly as before, also after an error: weights, statistics and
    gradients, optimizers, counters, metrics, history and random numbers, those of a DataLoader and its Dataset
    included. That needs memory for a copy of weights and optimizer state, on the CPU. What a net, a `train_step` or a
    callback keeps beside that, in attributes of Python, is not brought back.

    The idea is that of Smith, "Cyclical Learning Rates for Training Neural Networks" (2015, arXiv 1506.01186), with
    rates that grow by a factor, as fastai's `lr_find`. Of its rules this takes the steepest descent. Losses are
    smoothed to both sides: a mean over past batches lags behind, and gives rates nearer to those that do harm.

    Example:
        >>> result = model.find_lr(dl_train)
        >>> result.plot().savefig("lr.png")
        >>> model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=float(result)))

    Args:
        model: The compiled model.
        dl_train: Data in any form that `fit` takes, but a generator; with fewer batches than `steps`, read again.
        min_lr: The lowest learning rate. It is that of the first parameter group; others keep their ratio to it.
        max_lr: The highest.
        steps: How many rates to try.
        batch_size: For a Dataset and tensors; 32 by default. Take that of the training.
        callbacks: Those of the training. Only those that change batches are called, such as `BatchTransform`, `MixUp`
            and whatever else has a `prepare_batch`.

    Returns:
        Rates, losses, and the suggestion, which is None where the losses do not tell.

    Raises:
        NotCompiledError: `compile` was not called.
        ValueError: The limits or `steps` make no sense.
        DataError: The data are empty, of an unknown form, or can be read only once.
        MismatchError: A `train_step` of your own gives no loss, or does not use the optimizer; or see `fit`.
    """
    from kerastorch.rollback import rolled_back, with_own_workers  # here and not above, as the import takes a while
    from kerastorch.trial import optimizers_of, refuse_unknown_shapes, that_prepare, unbuilt_again

    session: Session = model._session
    session.compiled("find_lr")
    session.refuse_several("find_lr", "Find the rate in one process, without a launcher.")
    _check(min_lr, max_lr, steps)
    if is_one_shot(dl_train):
        raise DataError(
            "dl_train is a generator or iterator: what find_lr reads of it would be missing in fit. "
            "Pass a list, a DataLoader or a Dataset."
        )
    # As one epoch of so many steps: where the data end before, it begins anew
    options = feed.Options(batch_size, None, False, None, steps, None, None, False, None)
    data = feed.for_training(model.module, with_own_workers(dl_train), None, options, epochs=1)
    sweep = _Sweep(np.geomspace(min_lr, max_lr, steps).tolist())
    called = that_prepare(callbacks, sweep)
    with unbuilt_again(session), session.begin(called, 0, data, trains="find_lr") as (run, hooks):
        refuse_unknown_shapes(model)
        optimizer = session.optimizer
        modules = [model, *loss_modules(session.compiled("find_lr").loss)]
        with rolled_back(modules, optimizers_of(optimizer, modules), dl_train):
            # Its own counters, sums and history; the metrics are not measured
            metrics = MetricSet({}, None if run.loss is None else run.loss.factors)
            run.state = TrainState(run.state.module, optimizer, metrics)
            with _used(optimizer, session):
                _train(run, hooks)
    return LRFinderResult(sweep.tried, sweep.losses)


def _train(run: Run, hooks: Hooks) -> None:
    with loop.explained(run, hooks), isolate.training(run.state.module):
        hooks.emit("on_train_begin", {})
        with isolate.random_state_kept():  # after the move: what an accelerator draws is known only when it is in use
            loop.train_epoch(run, hooks, 0)


class _Sweep(Callback):
    """Gives each batch its learning rate, and notes its loss.

    Args:
        rates: Learning rates of the first group, rising.
    """

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates
        self.tried: list[float] = []
        self.losses: list[float] = []
        self._levels: list[float] = []
        self._ratios: list[float] = []

    def on_train_begin(self, logs: Logs) -> None:
        """Note how the rates of the groups relate; one that is 0 stays so, unless all are."""
        rates = rates_of(optimizer_of(self))
        first = next(filter(None, rates), 0.0)
        self._ratios = [rate / first if first else 1.0 for rate in rates]

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Set the rate, and begin a mean of this batch alone."""
        set_rates(optimizer_of(self), [self.rates[batch] * ratio for ratio in self._ratios])
        self.run.state.metrics.reset()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Note the loss, and end where it diverges."""
        if "loss" not in logs:
            raise MismatchError("find_lr needs the loss: your own train_step must return {'loss': ...}.")
        loss = logs["loss"]
        if not math.isfinite(loss):
            if not self.run.state.metrics.is_finite:  # else nothing counts in this batch
                self.run.interrupt("a loss that is no number")
            return
        self.tried.append(self.rates[batch])
        self.losses.append(loss)
        if self._diverges():
            self.run.interrupt("a loss that diverges")

    def _diverges(self) -> bool:
        if len(self.losses) < FEWEST:
            return False
        places = np.log10(self.tried)
        level = float(smoothed_at(self.losses, places, places[-1:])[0])
        self._levels.append(level)
        best = min(self._levels)
        scale = best if best > 0 else max(-best, self._levels[0] - best)  # a loss may be negative
        return level > best + (_TOO_HIGH - 1) * scale


@contextmanager
def _used(optimizer: Optimizer, session: Session) -> Iterator[None]:
    """See that a step of the user's own uses the optimizer.

    Raises:
        MismatchError: It does not.
    """
    if session.own_step("train_step") is None:
        yield
        return
    steps: list[None] = []
    handle = optimizer.register_step_post_hook(lambda *_: steps.append(None))
    try:
        yield
    finally:
        handle.remove()
    if not steps:
        raise MismatchError(
            "find_lr sets the learning rate of model.optimizer, but your own train_step does not use that. Call "
            "self.optimizer.step() there, or give its optimizer to compile."
        )


def _check(min_lr: Any, max_lr: Any, steps: Any) -> None:
    if not all(isinstance(rate, Real) for rate in (min_lr, max_lr)) or not 0 < min_lr < max_lr < math.inf:
        raise ValueError(f"Learning rates go from min_lr, above 0, up to max_lr; got {min_lr!r} and {max_lr!r}.")
    if not isinstance(steps, Integral) or steps < FEWEST:
        raise ValueError(f"steps is a whole number, at least {FEWEST}; got {steps!r}.")
