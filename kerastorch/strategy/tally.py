"""What each process counts in a step, and whether it wishes to end the training: told to all in one message."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kerastorch.strategy.group import Group

_LAG = 8  # steps after which a wish is read on an accelerator: it is there by then, and nobody waits


class Tally:
    """The mean over processes of two numbers: what counts, and wishes.

    Args:
        group: The processes. What they wish is noted there.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._late: deque[tuple[Any, Tensor]] = deque()

    def own(self, share: float | Tensor | None, like: Tensor) -> Tensor:
        """Return what this process has to tell, `(2,)`, in the dtype and on the device of a tensor."""
        if like.is_cpu and not isinstance(share, Tensor):
            return torch.tensor([share or 0.0, self._group.wish is not None], dtype=like.dtype)
        counts = torch.zeros(2, dtype=like.dtype, device=like.device)  # filled there, where nothing waits
        if share is not None:
            counts[0] = share
        if self._group.wish is not None:
            counts[1] = 1
        return counts

    def asked(self, total: float | Tensor | None, device: torch.device) -> Tensor:
        """Ask all processes, where no gradient could tell; return the means."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        counts = self.own(total, torch.empty(0, dtype=dtype, device=device))
        dist.all_reduce(counts)
        return counts / self._group.size

    def read(self, means: Tensor, total: float | Tensor | None) -> float | Tensor | None:
        """Hear what the processes wish; return what gradients are to be divided by.

        Args:
            means: Over all processes.
            total: What this process counts; None where nothing is to be divided.
        """
        group = self._group
        if means.is_cpu:
            mean, wish = means.tolist()
            group.is_asked = group.is_asked or wish > 0
            return None if total is None else mean
        self._hear_later(means[1])
        return None if total is None else torch.where(means[0] == 0, 1.0, means[0])

    def _hear_later(self, wish: Tensor) -> None:  # pragma: no cover - tests/gpu
        """Read wishes some steps later: to read them now would wait for the accelerator."""
        read = wish.to("cpu", non_blocking=True)
        event = torch.Event(wish.device)
        event.record()
        self._late.append((event, read))
        if len(self._late) > _LAG:
            event, read = self._late.popleft()
            event.synchronize()
            self._group.is_asked = self._group.is_asked or bool(read > 0)
