"""What a run is told from outside: who knows the optimizer, who splits batches, where it goes on, why it should end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch.optim import Optimizer

from kerastorch.data import Batch
from kerastorch.losses import Objective
from kerastorch.state import TrainState


@dataclass(frozen=True)
class Wish:
    """Why a run should end.

    Attributes:
        reason: In the words of whoever has it.
        interrupts: In the middle of an epoch, to go on another time; else it is a decision.
        signal: The number of the signal that asks for it.
    """

    reason: str
    interrupts: bool = False
    signal: int | None = None


class Keeper(Protocol):
    """What knows the optimizer of a model."""

    def optimizer(self, state: TrainState) -> Optimizer:
        """Return the optimizer; it is built here if it is not there."""

    def take_in_unfrozen(self, state: TrainState) -> None:
        """Let it train what is no longer frozen."""

    def look_over(self, state: TrainState, loss: Objective | None) -> None:
        """Take note of all that the model has by now beside its net and its optimizer."""


class Averaging(Protocol):
    """What makes the mean of the gradients of several processes, in a train_step of the user's own."""

    def begin(self, batch: Batch) -> None:
        """Note what a batch counts, before the step."""

    def ordinary(self) -> AbstractContextManager[None]:
        """The step that is not the user's own, inside it."""


class Splits(Protocol):
    """What works a batch off in parts where memory does not suffice."""

    def learn(self, run: Any, batch: Batch, work: Callable[[Batch, Any], Callable[[], None] | None]) -> Any:
        """Make the gradients of a batch; return what notes its loss and metrics, None where it is to make no step."""

    def each(self, run: Any, batch: Batch, work: Callable[[Batch], Any]) -> Iterator[Any]:
        """Yield what `work` gives for each part."""


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on that was killed or stopped.

    Attributes:
        epoch: Epochs finished.
        batch: Batches finished in the epoch after these.
        step: Optimizer steps since `compile`.
        source: The file.
        content: What is in it; empty once all is put back.
    """

    epoch: int
    batch: int
    step: int
    source: str
    content: Mapping[str, Any]
