"""Weights averaged over the last epochs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import SWALR

from kerastorch import isolate
from kerastorch.callbacks.averages import Averages, claim
from kerastorch.callbacks.monitor import check_counts
from kerastorch.callbacks.rates import optimizer_of
from kerastorch.data import Batch
from kerastorch.errors import DataError
from kerastorch.health import copied_buffers
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.run import Run


class StochasticWeightAveraging(Callback):
    """Averages the weights after each of the last epochs; the net has the average when training has ended.

    Epochs are trained, validated and saved with the net's own weights. At the end the statistics of BatchNorm layers
    that are trained are taken anew, by one more pass over the training data. After an error the net has its own
    weights.

    From "Averaging Weights Leads to Wider Optima and Better Generalization" (Izmailov et al., 2018), with the means of
    `torch.optim.swa_utils`. Leave out `EarlyStopping(restore_best_weights=True)`: it would put the weights of one
    epoch in the place of the average. Of `ExponentialMovingAverage` and this, a `fit` can have one.

    Frozen parts take no memory. Those that are unfrozen when an epoch begins, as by `Freeze`, count with their frozen
    weights for the epochs before.

    Example:
        >>> kt.callbacks.StochasticWeightAveraging(0.75, lr=0.05)

    Args:
        start_epoch: The first epoch whose weights count, from 0; or the share of the epochs of this `fit` before it, as
            a float between 0 and 1.
        lr: The learning rate of the epochs that count, for all parameter groups; it is approached from the present one.
            None leaves it to others; do not set it by two callbacks.
        anneal_epochs: Epochs that the approach takes; 0 for at once.

    Attributes:
        first_epoch: The first epoch of this `fit` whose weights count.
        averaged: How many epochs the average is of.

    Raises:
        ValueError: A number out of its range; when training begins, no epoch is left to count, or there is another
            callback that averages.
        DataError: When training begins: there is BatchNorm, and the data can be read only once.
    """

    stage: Stage = "weights"

    def __init__(self, start_epoch: float = 0.75, lr: float | None = None, *, anneal_epochs: int = 10) -> None:
        if isinstance(start_epoch, float):
            if not 0 <= start_epoch < 1:
                raise ValueError(f"start_epoch is a whole number, or a share from 0.0 to below 1; got {start_epoch!r}.")
        else:
            check_counts(start_epoch=start_epoch)
        check_counts(anneal_epochs=anneal_epochs)
        if lr is not None and not lr >= 0:
            raise ValueError(f"lr is a number from 0; got {lr!r}.")
        self.start_epoch = start_epoch
        self.lr = lr
        self.anneal_epochs = anneal_epochs
        self.first_epoch = self.averaged = 0
        self._averages: Averages | None = None
        self._scheduler: SWALR | None = None

    def __repr__(self) -> str:
        return f"StochasticWeightAveraging({self.start_epoch}, lr={self.lr}, anneal_epochs={self.anneal_epochs})"

    def on_train_begin(self, logs: Logs) -> None:
        """Forget the last `fit`, and see where the epochs that count begin."""
        run = self.run
        first, end = next(iter(run.state.history.epoch), run.state.epoch), run.epochs  # of the whole fit, if it goes on
        share = isinstance(self.start_epoch, float)
        self.first_epoch = first + int(self.start_epoch * (end - first)) if share else int(self.start_epoch)
        if self.first_epoch >= end:
            raise ValueError(
                f"start_epoch={self.start_epoch} leaves nothing to average: fit ends after epoch {end - 1}, counted "
                "from 0. A share, such as start_epoch=0.75, fits any number."
            )
        if run.train_data.one_shot and _batch_norms(run.state.module):
            raise DataError(
                f"The averaged weights need BatchNorm statistics of their own, and {run.train_data.name} can be read "
                "only once. Give a DataLoader; or type fit(..., steps_per_epoch=...) if there is more to read."
            )
        self._averages = self._scheduler = None
        self.averaged = 0
        claim(run, self)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Approach the learning rate, from the first epoch that counts."""
        if self._averages is not None:
            self._averages.follow_net()  # what is unfrozen now has had its present weights in all epochs so far
        begins = self.run.state.batch == 0  # in its middle, the checkpoint has the scheduler
        if begins and epoch >= self.first_epoch and self.lr is not None and self._scheduler is None:
            self._scheduler = self._new_scheduler(self.lr)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Average."""
        if epoch < self.first_epoch:
            return
        if self._averages is None:
            self._averages = Averages(self.run.state.module, statistics=False)
        self._averages.follow_net()
        self._averages.update(1 / (self.averaged + 1))
        self.averaged += 1
        if self._scheduler is not None:
            self._scheduler.step()

    def on_train_end(self, logs: Logs) -> None:
        """Put the average into the net."""
        averages, self._averages = self._averages, None
        if averages is None:
            warnings.warn(
                f"Training ended before epoch {self.first_epoch}, counted from 0, was over: there is no average. The "
                "net has its own weights.",
                stacklevel=2,
            )
            return
        averages.put_in()
        try:
            renewed = renew_statistics(self.run)
        except BaseException as error:
            averages.take_out()  # without statistics that fit, the average is worth little
            if not isinstance(error, DataError):
                raise
            warnings.warn(f"{error} So the net has its own weights, not their average.", stacklevel=2)
            return
        epochs = f"{self.averaged} epoch{'' if self.averaged == 1 else 's'}"
        also = " BatchNorm statistics were taken anew." if renewed else ""
        self.run.say(f"The weights are the average of {epochs}.{also}")

    def on_exception(self, error: BaseException) -> None:
        """Let go of the average; the net has its own weights."""
        if self.run.trains:
            self._averages = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside net and optimizer, in plain containers."""
        scheduler = self._scheduler
        return {
            "first_epoch": self.first_epoch,
            "averages": None if self._averages is None else self._averages.state_dict(),
            "scheduler": scheduler and {name: vars(scheduler)[name] for name in ("last_epoch", "_step_count")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, inside `fit` and before its first batch; after the optimizer has loaded its own.

        Raises:
            CheckpointError: It belongs to another net.
        """
        self.first_epoch = state["first_epoch"]
        if state["averages"] is not None:
            self._averages = Averages(self.run.state.module, statistics=False)
            self._averages.load_state_dict(state["averages"])
            self.averaged = self._averages.count
        if state["scheduler"] is not None and self.lr is not None:
            self._scheduler = self._new_scheduler(self.lr)
            self._scheduler.load_state_dict(dict(state["scheduler"]))

    def _new_scheduler(self, rate: float) -> SWALR:
        return SWALR(optimizer_of(self), rate, anneal_epochs=self.anneal_epochs)


@torch.no_grad()
def renew_statistics(run: Run) -> bool:
    """Take the statistics of BatchNorm layers in training mode anew, as the mean over the batches of the training data.

    It is what `torch.optim.swa_utils.update_bn` does, but for any form of inputs; layers that are frozen keep theirs,
    and random numbers come back.

    Returns:
        Whether there are such layers.

    Raises:
        DataError: There are no more data, or Ctrl-C has ended the processes that read them. Statistics are as
            they were, as with any other error.
    """
    layers = _batch_norms(run.state.module)
    if not layers:
        return False
    before = [({name: value.clone() for name, value in layer.named_buffers()}, layer.momentum) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # which means the plain mean
    done = False
    try:
        done = _seen_once(run)
        _mean_of_all(run, layers)
    finally:
        for layer, (buffers, momentum) in zip(layers, before, strict=True):
            layer.momentum = momentum
            if not done:
                for name, value in layer.named_buffers():
                    value.copy_(buffers[name])
    if not done:
        raise DataError(f"{run.train_data.name} has no more batches to take BatchNorm statistics from.")
    return True


def _seen_once(run: Run) -> bool:
    phase, net, seen = run.phase, run.net, False
    run.phase, run.call = "train", None  # as in an epoch; validation data may have had another form
    if run.strategy.group.size > 1:
        run.net = run.state.module  # and not what gives all processes the statistics of one
    try:
        with isolate.random_state_kept():
            for batch in _batches(run):
                run.current = run.prepare(batch)
                _see(run, run.current)
                seen = True
    finally:
        run.phase, run.net, run.call, run.current = phase, net, None, None
    return seen


def _see(run: Run, batch: Batch) -> None:
    """Show a batch to the net. What fills a step among several processes must leave no trace."""
    if not batch.is_filler or run.strategy.synchronises:
        run.predict_step(dataclasses.replace(batch, is_filler=False))  # which layers look up in the run
    elif run.strategy.evaluates_together:
        with copied_buffers(run.state.module):
            run.predict_step(batch)


def _mean_of_all(run: Run, layers: list[_BatchNorm]) -> None:
    """Make of the statistics that each process has taken of its batches their mean."""
    group = run.strategy.group
    if group.size == 1 or run.strategy.synchronises:
        return
    for layer in layers:
        mean, variance, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
        if mean is not None and variance is not None and count is not None:
            sums = [mean * count, variance * count, count.to(mean.dtype)]
            group.add(sums)
            mean.copy_(sums[0] / sums[2])
            variance.copy_(sums[1] / sums[2])
            count.copy_(sums[2])


def _batches(run: Run) -> Iterator[Batch]:
    try:
        yield from run.train_data.batches(run.state.epoch)
    except (RuntimeError, OSError) as error:
        if not run.interrupted:
            raise
        raise DataError(f"{run.train_data.name} cannot be read again after an interrupt ({error!r}).") from error


def _batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [
        part
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.training
    ]
