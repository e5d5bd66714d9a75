"""Everything that training changes, and so everything that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from kerastorch.history import History
from kerastorch.metrics import MetricSet


class Stateful(Protocol):
    """What a checkpoint keeps something of."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers, numbers and tensors."""


@dataclass
class TrainState:
    """Net, optimizer, sums and counters. Counters count what is finished, so they are right at any moment.

    Attributes:
        module: The net.
        optimizer: Its optimizer; None for a net that is only used.
        metrics: Loss and metrics of the running epoch.
        history: Finished epochs of this `fit`.
        epoch: Epochs finished; also the number of the running one, from 0.
        batch: Batches finished in the running epoch.
        step: Optimizer steps since `compile`.
        optimizers: Those that a step of the user's own holds, by the names of the model's attributes.
        extras: What else belongs to this training, by name: the callbacks of the present `fit`.
    """

    module: nn.Module
    optimizer: Optimizer | None
    metrics: MetricSet
    history: History = field(default_factory=History)
    epoch: int = 0
    batch: int = 0
    step: int = 0
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    _started: float = 0.0
    _speed: float = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "extras": {}}  # a copy made in the middle of fit has no callbacks

    def begin_fit(self, epoch: int) -> None:
        """Begin a history, and count epochs from this one."""
        self.history = History()
        self.epoch = epoch
        self.batch = 0

    def begin_epoch(self) -> None:
        """Forget the sums of the last epoch, start the clock."""
        self.metrics.reset()
        self._started = perf_counter()

    def note_speed(self) -> None:
        """Note the samples per second of the epoch; right after a wait for the device, and before the validation."""
        self._speed = self.metrics.samples / max(perf_counter() - self._started, 1e-9)

    def figures(self) -> dict[str, float]:
        """Return learning rate of the first group, seconds since the epoch began, samples trained on per second."""
        rate = {} if self.optimizer is None else {"lr": float(self.optimizer.param_groups[0]["lr"])}
        return rate | {"seconds": perf_counter() - self._started, "samples_per_second": self._speed}

    def finish_epoch(self, logs: dict[str, Any]) -> None:
        """Count the epoch, and keep its values."""
        self.history.append(self.epoch, logs)
        self.epoch += 1
        self.batch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers and tensors: the net under `"model"`, with its own names."""
        return {
            "model": self.module.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "progress": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "callbacks": {name: extra.state_dict() for name, extra in self.extras.items()},
            "history": {"epoch": list(self.history.epoch), "rows": [dict(row) for row in self.history.rows]},
        }
