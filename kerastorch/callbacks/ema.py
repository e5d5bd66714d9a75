"""Weights averaged over the last steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from kerastorch.callbacks.averages import Averages, claim
from kerastorch.callbacks.monitor import check_counts
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.run import Run


class ExponentialMovingAverage(Callback):
    """Averages the weights over the last steps; the net is validated, saved and kept with the averages.

    After each step of the optimizer, `average = decay * average + (1 - decay) * weight`, the first time simply
    `weight`. Running statistics of BatchNorm are averaged alike, so that they fit; other buffers are the net's own.

    Training is the same as without: it goes on from the net's own weights, which are in the net while batches are
    trained on. The averages are in it for validation, for `evaluate` and `predict` that callbacks call inside `fit`,
    and from the end of an epoch to the beginning of the next: `EarlyStopping` and `ModelCheckpoint` get the weights
    that gave `val_loss`, ordinary callbacks still the net's own. They stay in the net when training ends: after the
    last epoch, early, or by an error. Every `fit` begins anew, with the weights that are there.

    It takes the memory of one copy of what is trained. A call has one callback that puts averages into the net: this,
    or `StochasticWeightAveraging`.

    Example:
        >>> kt.callbacks.ExponentialMovingAverage(0.999)

    Args:
        decay: How much of the average stays at an update, from 0 to below 1. An average looks back over some
            `1 / (1 - decay)` updates, and is poor before as many were made.
        update_every: Steps of the optimizer between two updates.
        start: Steps of this `fit` before the first that is averaged; until then the net is used as it is.
        warmup: Begin with a lower decay, `min(decay, (1 + n) / (10 + n))` after `n` updates, so that the weights of the
            beginning are soon forgotten; as `tf.train.ExponentialMovingAverage` does with `num_updates`.
        swap_at_end: Keep the averages in the net when training ends. With False it ends with its own weights, and
            `evaluate` and `predict` use the averages where they are given this callback.

    Attributes:
        updates: How many were made in this `fit`.

    Raises:
        ValueError: A number is out of its range; when the call begins, there is another callback that averages.
    """

    stage: Stage = "weights"

    def __init__(
        self,
        decay: float = 0.999,
        *,
        update_every: int = 1,
        start: int = 0,
        warmup: bool = False,
        swap_at_end: bool = True,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is a number from 0 to below 1, such as 0.999; got {decay!r}.")
        check_counts(start=start)
        if not isinstance(update_every, int) or update_every < 1:
            raise ValueError(f"update_every is a number of steps, 1 or more; got {update_every!r}.")
        self.decay = decay
        self.update_every = update_every
        self.start = start
        self.warmup = warmup
        self.swap_at_end = swap_at_end
        self._averages: Averages | None = None
        self._between_epochs = False
        self._users: list[Run] = []  # evaluations that are going on
        self._steps = 0
        self._step_before = 0
        self.updates = 0

    def __repr__(self) -> str:
        return (
            f"ExponentialMovingAverage({self.decay}, update_every={self.update_every}, start={self.start}, "
            f"warmup={self.warmup}, swap_at_end={self.swap_at_end})"
        )

    def on_train_begin(self, logs: Logs) -> None:
        """Forget the last `fit`."""
        self._averages = Averages(self.run.state.module, statistics=True)
        self._users = []
        self._between_epochs = False
        self._steps = self.updates = 0
        claim(self.run, self)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Train on from the net's own weights."""
        self._between_epochs = False
        self._settle()

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Note the step, to see whether the batch makes one."""
        self._step_before = self.run.state.step

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Average, if the optimizer has made a step."""
        if self.run.state.step == self._step_before or self._averages is None:
            return
        self._steps += 1
        beyond = self._steps - self.start
        if beyond > 0 and beyond % self.update_every == 0:
            self._averages.update(1 - self._present_decay())
            self.updates += 1

    def on_test_begin(self, logs: Logs) -> None:
        """Use the averages."""
        self._begin_use()

    def on_test_end(self, logs: Logs) -> None:
        """Bring back what was in the net."""
        self._end_use()

    def on_predict_begin(self, logs: Logs) -> None:
        """Use the averages."""
        self._begin_use()

    def on_predict_end(self, logs: Logs) -> None:
        """Bring back what was in the net."""
        self._end_use()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Show the averages to monitors and checkpoints."""
        self._between_epochs = True
        self._settle()

    def on_train_end(self, logs: Logs) -> None:
        """Leave the averages in the net."""
        if not self.updates:
            warnings.warn(
                f"Training ended after {self._steps} steps, before the first average: start={self.start}, "
                f"update_every={self.update_every}. The net has its own weights.",
                stacklevel=2,
            )
        self._finish()

    def on_exception(self, error: BaseException) -> None:
        """Leave the averages in the net, if it was training that failed: in a notebook, the net lives on."""
        if self.run.trains:
            self._finish()
        else:
            self._users = [user for user in self._users if user is not self.run]
            self._settle()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the net, in plain containers.

        The state_dict of the net holds the averages from the end of an epoch to the beginning of the next; this then
        holds the net's own weights, and the averages otherwise. Both together are all, at any moment.
        """
        averages = {} if self._averages is None else self._averages.state_dict()
        return {"steps": self._steps, "updates": self.updates, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, inside `fit` and before its first batch; the net loads its own of the same moment.

        Raises:
            CheckpointError: It belongs to another net.
        """
        if state["averages"]:
            self._averages = Averages(self.run.state.module, statistics=True)
            self._averages.load_state_dict(state["averages"])
        self._steps, self.updates = state["steps"], state["updates"]

    def _present_decay(self) -> float:
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    def _begin_use(self) -> None:
        if self._averages is not None and self._averages.module is self.run.state.module:
            claim(self.run, self)
            self._users.append(self.run)
            self._settle()

    def _end_use(self) -> None:
        if self._users:
            self._users.pop()
            self._settle()

    def _settle(self) -> None:
        if self._averages is None:
            return
        if self._users or self._between_epochs:
            self._averages.follow_net()  # it may have been moved since
            self._averages.put_in()
        else:
            self._averages.take_out()
            self._averages.follow_net()  # parts may have been unfrozen

    def _finish(self) -> None:
        self._users = []
        self._between_epochs = self.swap_at_end
        self._settle()
        self._between_epochs = False
        if self.swap_at_end and self._averages is not None:
            self._averages = None  # the net has them now; no second copy is kept
            if self.updates:
                self.run.say(f"The weights are the exponential moving average of {self.updates} updates.")


def SwapEMAWeights(swap_on_epoch: bool = True, *, decay: float = 0.99) -> ExponentialMovingAverage:
    """Return an `ExponentialMovingAverage`, by the name it has in Keras.

    There it swaps what an optimizer with `use_ema=True` averages. Optimizers of torch average nothing, so this does;
    0.99 is the `ema_momentum` of Keras.

    Args:
        swap_on_epoch: Taken for the sake of Keras's calls, where False means that `ModelCheckpoint` gets other weights
            than those that gave `val_loss`. Here it always gets the averages.
        decay: As for `ExponentialMovingAverage`.
    """
    return ExponentialMovingAverage(decay)
