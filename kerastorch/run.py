"""The parts of one call of fit, evaluate or predict, and its limits."""

from __future__ import annotations

import signal
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import torch
from torch import nn

from kerastorch.data import Batch, DataSource, NoData
from kerastorch.errors import DataError
from kerastorch.facts import Facts
from kerastorch.health import LateLosses, NanPolicy, Statistics
from kerastorch.losses import Objective
from kerastorch.metrics import MetricSet
from kerastorch.resolve import Plan
from kerastorch.roles import Averaging, Keeper, Resumed, Splits, Wish
from kerastorch.state import TrainState
from kerastorch.strategy import Strategy

_PATIENCE = 16  # batches until several processes ask each other, where no gradients go between them


def _unset(*batch: Batch) -> Any:
    raise RuntimeError("this run has no such step")


@dataclass
class Run:
    """What the loop works with. Callbacks reach it as `self.run`.

    Attributes:
        state: What training changes.
        strategy: How a step runs.
        loss: The loss; None for a net that was not compiled.
        plan: How a step is made.
        train_loss: The loss in training, where it is another: with class weights.
        train_data: What is trained on.
        val_sets: What is evaluated or predicted, each with what its values are named after: `""`, or `"easy_"`.
        val_data: The one of them that is read at present.
        val_metrics: Loss and metrics of the running validation.
        epochs: The epoch to end before, counted from 0.
        validation_freq: Validate after every so many epochs.
        log_step_freq: Tell of every so many steps; None for never.
        lookahead: Prepare a batch while the one before it is worked on; a transfer to an accelerator sets it.
        device: Where the net is.
        finish_window: Makes a step of the optimizer with the gradients that wait for more batches.
        window: What the batches count whose gradients wait; None while nothing has to be divided.
        skipped: Steps that were skipped, since their gradients overflowed in half precision.
        warned: It was said that a step of the user's own leaves something out.
        has_own_step: Whether `train_step` is the user's own.
        stop_reason: Why training ends early; None as long as it does not.
        decision: Why it ends early for good; an interruption is none, the run can go on another time.
        interrupted: It ends inside the epoch, which then is not finished.
        current: The batch that is worked on, for the note on an error.
        prepare: Hands a batch through what callbacks do to it before it is used; the loop does so by itself.
        net: What is called in place of the net: the same, compiled.
        call: The net as a function of a batch's `x`; decided at the first batch of data.
        checked: The data whose first batch was looked at, by their names.
        phase: What is being done: `"train"`, `"val"` for every evaluation, also inside fit, or `"predict"`.
        verbose: Whether anything is to be shown.
        writers: What loggers write with, each called with the optimizer's step and the values.
        is_live: Whether the call is going on.
        early: What was logged while training begins; None at any other time.
        signal: The number of the signal that ended it.
        lost: The net holds numbers that are not finite; it must not be saved.
        last_good: The last file from which the run could go on.
        resumed: Where it goes on, if it does; known in `on_train_begin`.
        keeper: What knows the optimizer.
        peers: Callbacks of this run that must know of each other, by what they have in common.
        nan: What to do where a loss is not finite; `"off"` where that is somebody else's affair.
        lost: The net holds NaN, or the step that gives it some was made: nothing may be saved any more.
        last_good: Where the last state was saved that is not lost.
        left_out: Epoch and batch, from 0, of each batch that made no step by `nan="skip"`.
        statistics: Those of the net before the present batch.
        late: Losses that an accelerator has not handed over yet.
        splitter: Works batches off in parts; None where each is trained on as a whole.
        val_splitter: The same for evaluation and prediction.
        facts: What is known of the net's inputs and classes.
        has_seen: A step of the user's own has had its first batch.
        nan_told: Data of which it was said that their loss is no number.
        averaging: What makes the mean of gradients in a step of the user's own, where there are several processes.
    """

    state: TrainState
    strategy: Strategy = field(default_factory=Strategy)
    loss: Objective | None = None
    plan: Plan = field(default_factory=Plan)
    train_loss: Objective | None = None
    train_data: DataSource = field(default_factory=NoData)
    val_sets: dict[str, DataSource] = field(default_factory=dict)
    val_data: DataSource = field(default_factory=NoData)
    val_metrics: MetricSet = field(default_factory=lambda: MetricSet({}))
    epochs: int = 1
    validation_freq: int = 1
    log_step_freq: int | None = None
    lookahead: bool = False
    device: torch.device | None = None
    train_step: Callable[[Batch], None] = _unset
    evaluate_step: Callable[[Batch], None] = _unset
    predict_step: Callable[[Batch], Any] = _unset
    prepare: Callable[[Batch], Batch] = _unset
    finish_window: Callable[[], None] = _unset
    window: Any = None
    skipped: int = 0
    warned: bool = False
    has_own_step: bool = False
    stop_reason: str | None = None
    decision: str | None = None
    interrupted: bool = False
    current: Batch | None = None
    net: nn.Module | None = None
    call: Callable[[Any], Any] | None = None
    checked: set[str] = field(default_factory=set)
    phase: Literal["train", "val", "predict"] = "train"
    verbose: bool = False
    writers: list[Callable[[int, Mapping[str, Any]], None]] = field(default_factory=list)
    is_live: bool = False
    early: list[dict[str, Any]] | None = None
    signal: int | None = None
    lost: bool = False
    last_good: str | None = None
    resumed: Resumed | None = None
    keeper: Keeper | None = None
    peers: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    nan: NanPolicy | Literal["off"] = "off"
    left_out: list[tuple[int, int]] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    late: LateLosses = field(default_factory=LateLosses)
    splitter: Splits | None = None
    val_splitter: Splits | None = None
    averaging: Averaging | None = None
    facts: Facts = field(default_factory=Facts)
    has_seen: bool = False
    nan_told: set[str] = field(default_factory=set)

    def stop(self, reason: str) -> None:
        """End training after this batch; validation and the end of the epoch still come."""
        self._wish(Wish(reason))

    def interrupt(self, reason: str) -> None:
        """End training after this batch, whatever it is a part of."""
        self._wish(Wish(reason, interrupts=True))

    def preempt(self, number: int) -> None:
        """End training after this batch: a signal asks for it."""
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._wish(Wish(name, interrupts=True, signal=number))

    def _wish(self, wish: Wish) -> None:
        group = self.strategy.group
        if group.size == 1:
            self._grant(wish)
        elif group.wish is None or (wish.interrupts and not group.wish.interrupts):
            group.wish = wish  # all processes have to end at the same batch

    def _grant(self, wish: Wish) -> None:
        self.stop_reason = self.stop_reason or wish.reason
        self.interrupted = self.interrupted or wish.interrupts
        self.signal = self.signal or wish.signal
        if not wish.interrupts:
            self.decision = self.decision or wish.reason

    def hear(self, asked: bool | None = None) -> None:
        """Let all processes know what one of them wishes; all call it at the same place.

        Args:
            asked: Whether one of them does; they are asked if it is not known.
        """
        group = self.strategy.group
        if group.size == 1 or not (group.any(group.wish is not None) if asked is None else asked):
            return
        for wish in filter(None, group.everyone(group.wish)):
            self._grant(wish)
        group.wish, group.is_asked = None, False

    def ends(self, batch: Batch) -> bool:
        """Whether no batch comes after this one."""
        group = self.strategy.group
        if group.size > 1:
            knows = self.phase == "train" and not self.has_own_step
            self.hear(group.is_asked if knows else None if batch.index % _PATIENCE == _PATIENCE - 1 else False)
        return self.interrupted if self.phase != "train" else self.stop_reason is not None and not self.state.pending

    def say(self, text: str) -> None:
        """Print a line, unless nothing is to be shown."""
        if self.verbose and self.strategy.is_main:
            print(text, flush=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Say what is being done that may take a while, and in the end how long it took."""
        self.say(f"{text} ...")
        began = perf_counter()
        yield
        self.say(f"{text}: {perf_counter() - began:.1f} s.")

    def log(self, values: Mapping[str, Any]) -> None:
        """Hand values to the loggers of this run, for the present step of the optimizer; without loggers, to nobody.

        Example:
            >>> self.run.log({"temperature": 0.7, "attention": torch.rand(3, 32, 32)})  # in a callback
        """
        if self.early is not None:
            self.early.append(dict(values))
            return
        for write in self.writers:
            write(self.state.step, values)

    def log_early(self) -> None:
        """Hand on what was logged in `on_train_begin`: loggers begin there too, and a backup restores the step."""
        early, self.early = self.early or [], None
        for values in early:
            self.log(values)

    def look_over(self) -> None:
        """Take note of all that this training has beside net, optimizer and callbacks."""
        if self.keeper is not None:
            self.keeper.look_over(self.state, self.loss)
        self.state.parts = {**self.state.parts, **self.strategy.parts()}

    @property
    def trains(self) -> bool:
        """Whether this is a call of `fit`."""
        return not isinstance(self.train_data, NoData)

    @property
    def has_validation(self) -> bool:
        """Whether some epochs are followed by a validation."""
        return bool(self.val_sets)

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of the optimizer in an epoch; None while unknown."""
        batches = self.train_data.steps
        return None if batches is None else -(-batches // self.plan.accumulate)

    def sources(self) -> Iterator[DataSource]:
        """Yield all data."""
        yield self.train_data
        yield from self.val_sets.values()

    def validates(self, epoch: int) -> bool:
        """Whether this epoch, from 0, is followed by a validation."""
        return self.has_validation and (epoch + 1) % self.validation_freq == 0

    def validated(self, names: Iterable[str]) -> list[str]:
        """Return which values of a trained epoch its validation has too: what is measured, not what callbacks add."""
        names, trained, validated = list(names), self.state.metrics, self.val_metrics
        if not trained.metrics.keys() <= set(names):  # one metric has several values, by names of their own
            return [name for name in names if name not in trained.metrics or name in validated.metrics]
        own = {*trained} - trained.metrics.keys()  # the loss, and what a step of the user's own has measured
        return [name for name in names if name in own | validated.noted]

    def epochs_left(self) -> range:
        """Return the epochs to train; none where the run goes on from a stop."""
        is_over = self.stop_reason is not None and not self.state.batch
        return range(self.state.epoch, self.state.epoch if is_over else self.epochs)

    def explanation(self, batch: Batch) -> str:
        """Say in one line where an error came up, for the end of its traceback."""
        place = f"epoch {self.state.epoch + 1}, " if self.trains else ""
        return f"kerastorch: {place}batch {batch.index + 1} of its data: {batch.describe()}"

    def farewell(self) -> str:
        """Say why and where training ended early, and what is left."""
        state = self.state
        where = f"in epoch {state.epoch + 1} after batch {state.batch}" if state.batch else f"after epoch {state.epoch}"
        epochs = f"{len(state.history)} finished epoch{'' if len(state.history) == 1 else 's'}"
        saved = self.interrupted and self.peers["backup"] and self.last_good and not self.lost
        backup = f" It is saved to {self.last_good}; run the same script again to go on." if saved else ""
        return f"Stopped by {self.stop_reason} {where}. The history keeps {epochs}.{backup}"

    def run_dry(self, data: DataSource) -> None:
        """An epoch had no batch. What was learned is kept: training ends, or goes on without validation.

        Raises:
            DataError: There never was a batch.
        """
        if not self.trains or not self.state.history.epoch:
            raise DataError(f"{data.name} gave no batch at all; it is empty, or an iterator that was read before.")
        if data is self.val_data:
            self.val_sets = {name: kept for name, kept in self.val_sets.items() if kept is not data}
            rest = "it" if self.val_sets else "validation"
            warnings.warn(f"{data.name} has no more batches; training goes on without {rest}.", stacklevel=2)
        else:
            self._grant(Wish(f"the end of {data.name}", interrupts=True))  # all processes find the same
