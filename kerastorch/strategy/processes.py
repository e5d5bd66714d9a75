"""Several processes: how they find each other, and what they say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kerastorch.errors import DistributedError
from kerastorch.strategy.group import Group

TIMEOUT = 600.0  # seconds


class Processes(Group):
    """Several processes, each with a part of every batch.

    Args:
        timeout: Seconds to wait for the others before it is an error.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._words: Any = None  # for what is said, on the CPU; None: the default group can
        if "gloo" not in str(dist.get_backend_config()):
            self._words = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def total(self, sums: list[float]) -> list[float]:
        """Add up numbers over all processes; each has as many."""
        together = torch.tensor(sums, dtype=torch.float64, device="cpu")
        dist.all_reduce(together, group=self._words)
        return together.tolist()

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the tensors of all processes."""
        return self.everyone(rows.cpu())

    def everyone(self, value: Any) -> list[Any]:
        """Return a value of every process."""
        found = [None] * self.size
        dist.all_gather_object(found, value, group=self._words)
        return found

    def of_main(self, value: Any) -> Any:
        """Return the value that the main process has."""
        box = [value if self.is_main else None]
        dist.broadcast_object_list(box, 0, group=self._words)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return self.total([float(flag)])[0] > 0

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors in all processes the numbers of the main one."""
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def is_launched() -> bool:
    """Whether this process is one of several, by the environment that torchrun sets, or since it joined a group."""
    return dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join(device: torch.device, timeout: float = TIMEOUT) -> Group:
    """Return the processes that were launched together, or this one alone; the first call waits for all of them.

    Args:
        device: Where this process computes; gloo talks for the CPU, and what torch has for accelerators.
        timeout: Seconds to wait for the others, now and later.

    Raises:
        DistributedError: The others did not come.
    """
    if not is_launched():
        return Group()
    if not dist.is_initialized():
        _join(device, timedelta(seconds=timeout))
    return Processes(timeout) if dist.get_world_size() > 1 else Group()


def _join(device: torch.device, timeout: timedelta) -> None:
    backend = (
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
    )
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
            # torchrun keeps one store over its restarts: a new attempt must not read what the last one wrote
            store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"This is one of {os.environ.get('WORLD_SIZE')} processes, by the environment variable WORLD_SIZE, but "
            f"they did not come together within {timeout.total_seconds():g} seconds: {error}. Start them by torchrun "
            "--nproc-per-node=2 train.py, or unset WORLD_SIZE to train in one process."
        ) from error
