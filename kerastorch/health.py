"""Whether numbers are finite: of nets, of losses that an accelerator has not handed over yet."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kerastorch import shards

NanPolicy = Literal["raise", "skip", "warn"]
_KNOWN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SLOTS = 256  # more steps than the queue of an accelerator takes in


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None where all is finite.

    One pass over the numbers, and one wait for each device. Sparse tensors are looked into; numbers of 8 bits are not.
    Of tensors that lie over several processes all is looked at, so each process must call it, and all find the same.
    """
    return next((name for name, _ in _nonfinite(tensors)), None)


def first_lost(module: nn.Module) -> str | None:
    """Return the name of the first weight or statistic by which a net is lost; None where it is well.

    That is NaN anywhere, and infinity in what is trained. Elsewhere infinity may be meant: the mask of an attention.
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in _nonfinite(held):
        if tensor.requires_grad or shards.anywhere(torch.isnan, tensor.detach()):
            return name
    return None


def is_loss(name: str) -> bool:
    """Whether a value of the logs is a loss, by its name."""
    return name == "loss" or name.endswith("_loss")


def _nonfinite(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    groups: defaultdict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        values = _dense(tensor)
        if values.dtype in _KNOWN and values.numel() and not values.is_meta:
            groups[values.device, values.dtype][name] = values
    suspects: set[str] = set()
    for group in groups.values():
        norms = torch.stack(shards.norms(list(group.values()))).tolist()  # a fifth of the time of isfinite()
        suspects |= {name for name, norm in zip(group, norms, strict=True) if not math.isfinite(norm)}
    for name, tensor in tensors.items():
        if name in suspects and shards.anywhere(_is_not_finite, _dense(tensor)):  # a norm of large numbers overflows
            yield name, tensor


def _is_not_finite(numbers: Tensor) -> Tensor:
    return ~numbers.isfinite()


def _dense(tensor: Tensor) -> Tensor:
    values = tensor.detach()
    if values.layout == torch.sparse_coo:
        values = values.coalesce().values()
    elif values.layout != torch.strided:
        values = values.values()
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


class Statistics:
    """Buffers that a forward pass changes, such as those of BatchNorm, as they were before it.

    Which these are is seen in the first batch, for which all are copied; nets without them pay nothing afterwards.
    """

    def __init__(self) -> None:
        self._places: list[tuple[nn.Module, str]] | None = None
        self._copies: list[Tensor] = []
        self._is_first = False

    def keep(self, module: nn.Module) -> None:
        """Note the numbers of now."""
        if self._places is None:
            if any(is_lazy(buffer) for buffer in module.buffers()):
                return  # they are made in the first batch
            self._places = [(part, name) for part in _parts(module) for name, _ in _own(part)]
            self._copies = [buffer.detach().clone() for buffer in self._live()]
            self._is_first = True
            return
        if self._is_first:
            self._narrow()
        if self._places:
            torch._foreach_copy_(self._copies, self._live())

    def restore(self) -> None:
        """Put back what was noted."""
        if self._is_first:
            self._narrow()
        for buffer, copy in zip(self._live(), self._copies, strict=True):
            buffer.copy_(copy)

    def _live(self) -> list[Tensor]:
        live: list[Any] = [part._buffers[name] for part, name in self._places or ()]
        return [buffer.detach() if buffer.requires_grad else buffer for buffer in live]  # a view costs a copy's time

    def _narrow(self) -> None:
        rows = zip(self._places or (), self._copies, self._live(), strict=True)
        changed = [(place, copy) for place, copy, live in rows if not torch.equal(copy, live)]
        self._places = [place for place, _ in changed]
        self._copies = [copy for _, copy in changed]
        self._is_first = False


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule))


def _own(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in part._buffers.items() if buffer is not None and not buffer.is_meta)


@contextmanager
def copied_buffers(module: nn.Module) -> Iterator[None]:
    """Let a net change copies of its buffers, which are dropped; its own are needed for a backward pass as they are."""
    kept = [(part, name, buffer) for part in _parts(module) for name, buffer in _own(part)]
    for part, name, buffer in kept:
        part._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for part, name, buffer in kept:
            part._buffers[name] = buffer


class Sighting(NamedTuple):
    """A loss, and where it belongs.

    Attributes:
        name: What it is called in the logs.
        epoch: From 0.
        batch: From 0.
        rate: The learning rate then; None for an optimizer that is not known.
    """

    name: str
    epoch: int
    batch: int
    rate: Any


class LateLosses:
    """Losses on their way from an accelerator, in the order of the steps. Looking at them does not wait for it.

    Each is copied behind the work that makes it, into pinned memory that holds a number no loss has. So what is not
    finite there has arrived, and is bad.

    Args:
        slots: How many may be on their way; one more waits for the device.
    """

    def __init__(self, slots: int = _SLOTS) -> None:
        self._slots = slots
        self._cells: tuple[Tensor, ...] = ()
        self._numbers: Any = None  # the same memory as an array, which is read in a tenth of the time
        self._unknown = 0.0
        self._waiting: deque[tuple[int, Sighting]] = deque()
        self._noted = 0
        self._last: Tensor | None = None
        self._bad: tuple[Sighting, float] | None = None

    def note(self, value: Tensor, sighting: Sighting) -> None:
        """Send the loss of a step on its way."""
        value = value.detach()
        if not self._cells:
            self._begin(torch.float64 if value.dtype == torch.float64 else torch.float32, value.device)
        if len(self._waiting) == self._slots:
            self.wait()
        place = self._noted % self._slots
        self._noted += 1
        self._numbers[place] = self._unknown
        self._last = value
        _send(value.to(self._cells[place].dtype), self._cells[place])
        self._waiting.append((place, sighting))

    def look(self) -> tuple[Sighting, float] | None:
        """Return the first that is not finite, of those that have arrived."""
        while self._waiting and self._bad is None:
            place, sighting = self._waiting[0]
            value = float(self._numbers[place])
            if value == self._unknown:
                break
            self._waiting.popleft()
            if not math.isfinite(value):
                self._bad = sighting, value
        return self._bad

    def wait(self) -> None:
        """Wait for all of them."""
        if self._last is not None:
            self._last.item()  # behind it in the queue, so all copies before it are done
        while self.look() is None and self._waiting:
            self._waiting.popleft()  # a loss that happens to be the number for "not there yet"; it is finite

    def _begin(self, dtype: torch.dtype, device: torch.device) -> None:
        memory = torch.empty(self._slots, dtype=dtype, pin_memory=device.type == "cuda")
        self._cells, self._numbers = memory.unbind(), memory.numpy()
        self._unknown = -torch.finfo(dtype).tiny


def _send(value: Tensor, cell: Tensor) -> None:
    cell.copy_(value, non_blocking=True)
