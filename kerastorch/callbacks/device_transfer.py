"""GPU transfer."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from kerastorch import resolve
from kerastorch.data import Batch
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.tree import move


class DeviceTransfer(Callback):
    """Moves the net at the start, and each batch, to where the work is done. Every run has one by default.

    Args:
        device: `"auto"` is where the net is if that is an accelerator, else the accelerator of this machine, else the
            CPU. Or a device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, `"xpu"`.
        non_blocking: Copy from pinned memory (`DataLoader(pin_memory=True)`) while the accelerator works.

    Raises:
        ValueError: The device is not there; at the start of the run.
    """

    stage: Stage = "transfer"

    def __init__(self, device: str | torch.device = "auto", *, non_blocking: bool = True) -> None:
        self.device = device
        self.non_blocking = non_blocking
        self._idle = False

    def __repr__(self) -> str:
        return f"DeviceTransfer({str(self.device)!r}, non_blocking={self.non_blocking})"

    def on_train_begin(self, logs: Logs) -> None:
        """Move net, loss and optimizer."""
        self._move_net()

    def on_test_begin(self, logs: Logs) -> None:
        """Move net and loss, where training has not done so."""
        self._move_net()

    def on_predict_begin(self, logs: Logs) -> None:
        """Move the net."""
        self._move_net()

    def prepare_batch(self, batch: Batch) -> Batch:
        """Move inputs, targets and weights."""
        if self._idle:
            return batch
        device, non_blocking = self.run.device, self.non_blocking
        batch.x = move(batch.x, device, non_blocking)
        batch.y = move(batch.y, device, non_blocking)
        if batch.weight is not None:
            batch.weight = move(batch.weight, device, non_blocking)
        return batch

    def _move_net(self) -> None:
        run = self.run
        if run.device is not None:
            return
        run.device = device = self._choose()
        run.lookahead = device.type != "cpu"
        self._idle = device.type == "cpu" and not torch.accelerator.is_available()  # everything is there already
        run.state.module.to(device)
        for loss in (run.loss, run.train_loss):
            if loss is not None:
                loss.to(device)
        if run.state.optimizer is not None:
            _move_optimizer(run.state.optimizer)

    def _choose(self) -> torch.device:
        if self.device != "auto":
            return resolve.device(self.device)
        here = next((tensor.device for tensor in self.run.state.module.parameters()), torch.device("cpu"))
        return resolve.device("auto") if here.type == "cpu" else here


def _move_optimizer(optimizer: Optimizer) -> None:
    """Bring state that was made on another device, by training there before, to its parameter."""
    strayed = any(
        _strays(key, value, parameter) for parameter, state in optimizer.state.items() for key, value in state.items()
    )
    if strayed:
        optimizer.load_state_dict(optimizer.state_dict())  # puts each tensor where its parameter is


def _strays(key: str, value: Any, parameter: torch.Tensor) -> bool:
    # Adam keeps its count of steps on the CPU on purpose
    return key != "step" and isinstance(value, torch.Tensor) and value.device != parameter.device
