"""GPU transfer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from kerastorch import resolve
from kerastorch.data import Batch
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.tree import leaves, move, tensors

_SHARE = 4  # a quarter of the free memory is for data; net, gradients and activations come on top


class DeviceTransfer(Callback):
    """Moves the net at the start, and each batch, to where the work is done. Every run has one by default.

    Args:
        device: `"auto"` is where the net is if that is an accelerator, else the accelerator of this machine, else the
            CPU. Or a device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, `"xpu"`.
        non_blocking: Copy from pinned memory (`DataLoader(pin_memory=True)`) while the accelerator works; on CUDA in a
            stream of its own.
        resident: Whether data in memory, tensors and arrays, are moved to the accelerator whole, for the time of the
            call, and cut into batches there; in the order that they have on the CPU. `"auto"` does so where they take
            at most a quarter of its free memory, the training data first.

    Raises:
        ValueError: `resident` is none of these. The device is not there; at the start of the run.
    """

    stage: Stage = "transfer"

    def __init__(
        self,
        device: str | torch.device = "auto",
        *,
        non_blocking: bool = True,
        resident: bool | Literal["auto"] = "auto",
    ) -> None:
        if resident not in (True, False, "auto"):
            raise ValueError(f"resident is 'auto', True or False; got {resident!r}.")
        self.device = device
        self.non_blocking = non_blocking
        self.resident = resident
        self._idle = False
        self._stream: torch.cuda.Stream | None = None

    def __repr__(self) -> str:
        device = str(self.device)
        return f"DeviceTransfer({device!r}, non_blocking={self.non_blocking}, resident={self.resident!r})"

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
        if self._stream is not None and _is_all_here(batch):
            return _copied_aside(batch, self._stream)
        return _moved(batch, self.run.device, self.non_blocking)

    def _move_net(self) -> None:
        run = self.run
        if run.device is not None:
            return
        run.device = device = self._choose()
        run.lookahead = device.type != "cpu"
        aside = device.type == "cuda" and self.non_blocking
        self._stream = torch.cuda.Stream(device) if aside else None  # type: ignore[no-untyped-call]
        self._idle = device.type == "cpu" and not torch.accelerator.is_available()  # everything is there already
        if not run.strategy.places:
            run.state.module.to(device)
        run.strategy.begin(run.state.module, device)
        for loss in (run.loss, run.train_loss):
            if loss is not None:
                loss.to(device)
        if run.state.optimizer is not None:
            _move_optimizer(run.state.optimizer)
        if run.lookahead and self.resident:
            self._move_data(device)

    def _move_data(self, device: torch.device) -> None:
        room = float("inf") if self.resident is True else _free_memory(device) / _SHARE
        for source in self.run.sources():
            if 0 < source.nbytes <= room:
                source.reside(device)
                room -= source.nbytes

    def _choose(self) -> torch.device:
        if self.device != "auto":
            return resolve.device(self.device)
        here = next((tensor.device for tensor in self.run.state.module.parameters()), torch.device("cpu"))
        return resolve.device("auto") if here.type == "cpu" else here


def _free_memory(device: torch.device) -> int:
    """Return how many bytes are free; 0 where a kind of accelerator does not say."""
    with suppress(RuntimeError, NotImplementedError, AttributeError, ValueError):
        return int(torch.accelerator.get_memory_info(device)[0])
    return 0


def _moved(batch: Batch, device: torch.device | None, non_blocking: bool) -> Batch:
    batch.x = move(batch.x, device, non_blocking)
    batch.y = move(batch.y, device, non_blocking)
    if batch.weight is not None:
        batch.weight = move(batch.weight, device, non_blocking)
    return batch


def _is_all_here(batch: Batch) -> bool:
    """Whether all that can be moved are plain tensors on the CPU: others may hold tensors that nobody else sees."""
    movable = (leaf for leaf in leaves((batch.x, batch.y, batch.weight)) if hasattr(leaf, "to"))
    return all(type(leaf) is Tensor and leaf.device.type == "cpu" for leaf in movable)


def _copied_aside(batch: Batch, stream: torch.cuda.Stream) -> Batch:
    """Copy a batch in a stream of its own, while the one before it is worked on. This process waits for neither.

    What is computed from here on waits for the copy, on the device, by an event.
    """
    device = stream.device
    with torch.cuda.stream(stream):
        batch = _moved(batch, device, non_blocking=True)
    working = torch.cuda.current_stream(device)
    working.wait_stream(stream)
    for tensor in tensors((batch.x, batch.y, batch.weight)):
        tensor.record_stream(working)  # else its memory could be used for the next copy while it is still read
    return batch


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
