"""Everything that training changes, and so everything that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from kerastorch import checkpoint
from kerastorch.history import History
from kerastorch.metrics import MetricSet
from kerastorch.metrics.base import Group


class Stateful(Protocol):
    """What a checkpoint keeps something of."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers, numbers and tensors."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from there."""


def bare(name: str) -> str:
    """Return the name of a weight as it is without `torch.compile`: it is the same net."""
    return name.removeprefix("_orig_mod.")


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
        pending: Batches whose gradients wait for the optimizer; where there are some, nothing is saved.
        began: The step at which this `fit` began, or the one before it that came to no end.
        is_open: A `fit` goes on, or came to no end.
        optimizers: Those that a step of the user's own holds, by the names of the model's attributes.
        parts: What else has a state, by name: schedulers and the like that the model holds, losses with weights.
        extras: What else belongs to this training, by name: the callbacks of the present `fit`.
        keeps_gradients: Gradients outlive a batch, since a step of the user's own may gather them.
    """

    module: nn.Module
    optimizer: Optimizer | None
    metrics: MetricSet
    history: History = field(default_factory=History)
    epoch: int = 0
    batch: int = 0
    step: int = 0
    pending: int = 0
    began: int = 0
    is_open: bool = False
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    parts: Mapping[str, Stateful] = field(default_factory=dict)
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    keeps_gradients: bool = False
    _started: float = 0.0
    _speed: float = 0.0
    _goes_on: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "extras": {}}  # a copy made in the middle of fit has no callbacks

    def begin_fit(self, epoch: int) -> None:
        """Begin a history, and count epochs from this one."""
        self.history = History()
        self.epoch = epoch
        self.batch = 0
        self.began = self.began if self.is_open else self.step  # the same cell of a notebook, run again after Ctrl-C
        self.is_open = True

    def begin_epoch(self) -> None:
        """Forget the sums of the last epoch, and gradients that came to no step; start the clock."""
        if self._goes_on:
            self._goes_on = False
            return
        self.metrics.reset()
        self.pending = 0
        self._started = perf_counter()

    def note_speed(self, group: Group | None = None) -> None:
        """Note the samples per second of the epoch; right after a wait for the device, and before the validation.

        Args:
            group: The processes that share the samples.
        """
        samples = [float(self.metrics.samples)]
        total = (samples if group is None else group.total(samples))[0]
        self._speed = total / max(perf_counter() - self._started, 1e-9)

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
        in_epoch = self.batch > 0
        return {
            "model": self.module.state_dict(),
            "buffers": self._buffers(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "gradients": self._gradients() if self.keeps_gradients else {},
            "progress": {
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                "began": self.began,
                "seconds": perf_counter() - self._started if in_epoch else 0.0,
            },
            "metrics": self.metrics.state_dict() if in_epoch else {},
            "callbacks": {name: extra.state_dict() for name, extra in self.extras.items()},
            "history": {"epoch": list(self.history.epoch), "rows": [dict(row) for row in self.history.rows]},
        }

    def load_progress(self, content: Mapping[str, Any]) -> None:
        """Take counters and history from a `state_dict`."""
        progress, history = content["progress"], content["history"]
        self.epoch, self.batch, self.step = progress["epoch"], progress["batch"], progress["step"]
        self.history.epoch[:] = history["epoch"]
        self.history.rows[:] = [dict(row) for row in history["rows"]]

    def load_sums(self, content: Mapping[str, Any]) -> None:
        """Take the sums of the running epoch, and its clock, from a `state_dict` of its middle."""
        device = next((parameter.device for parameter in self.module.parameters()), None)
        if content["metrics"]:
            self.metrics.load_state_dict(content["metrics"], device)
        self._started = perf_counter() - content["progress"]["seconds"]
        self._goes_on = not self.batch  # more processes than before have not finished a batch of theirs

    def load_gradients(self, gradients: Mapping[str, Any]) -> None:
        """Take gradients from a `state_dict`, by the names of their parameters."""
        parameters = {bare(name): parameter for name, parameter in self.module.named_parameters()}
        for name, gradient in gradients.items():
            own = parameters[name]
            own.grad = checkpoint.like(gradient, own).to(own.device, copy=True)

    def load_buffers(self, buffers: Mapping[str, Any]) -> None:
        """Take buffers from a `state_dict`."""
        for name, buffer in self._buffers().items():
            if name in buffers and buffers[name].shape == buffer.shape:
                buffer.copy_(buffers[name])

    def _buffers(self) -> dict[str, Any]:
        """Return buffers that are in no state_dict of the net, but may change in training."""
        kept = self.module.state_dict().keys()
        return {bare(name): buffer for name, buffer in self.module.named_buffers() if name not in kept}

    def _gradients(self) -> dict[str, Any]:
        named = self.module.named_parameters()
        return {bare(name): parameter.grad for name, parameter in named if parameter.grad is not None}
