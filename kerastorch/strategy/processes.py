"""Several processes: how they find each other, and what they say to each other."""

from __future__ import annotations

import atexit
import gc
import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kerastorch.errors import DistributedError
from kerastorch.launched import is_launched
from kerastorch.strategy import failure
from kerastorch.strategy.group import Group

TIMEOUT = 600.0  # seconds
LAST_WORK = 0.1  # seconds, see `leave`


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
        failure.alarm(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _present, ()  # a copy of a model has the same processes; read elsewhere, those that are there

    def total(self, sums: list[float]) -> list[float]:
        """Add up numbers over all processes; each has as many."""
        together = torch.tensor(sums, dtype=torch.float64, device="cpu")
        with self._explained():
            dist.all_reduce(together, group=self._words)
        return together.tolist()

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the tensors of all processes."""
        return self.everyone(rows.cpu())

    def everyone(self, value: Any) -> list[Any]:
        """Return a value of every process."""
        found: list[Any] = [None] * self.size
        with self._explained():
            dist.all_gather_object(found, _packed(value), group=self._words)
        return [_unpacked(each) for each in found]

    def of_main(self, value: Any) -> Any:
        """Return the value that the main process has."""
        box = [_packed(value) if self.is_main else b""]
        with self._explained():
            dist.broadcast_object_list(box, 0, group=self._words)
        return _unpacked(box[0])

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes."""
        return self.total([float(flag)])[0] > 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Make of tensors their sums over all processes."""
        kinds: dict[Any, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for alike in kinds.values():
            flat = _flatten_dense_tensors(alike)  # type: ignore[no-untyped-call]
            with self._explained():
                dist.all_reduce(flat)
            torch._foreach_copy_(alike, _unflatten_dense_tensors(flat, alike))  # type: ignore[no-untyped-call]

    def told(self, error: BaseException) -> BaseException:
        """Return what to raise for an error: with this process named, or what lies behind a broken collective."""
        return failure.report(self, error)

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors in all processes the numbers of the main one."""
        with torch.no_grad(), self._explained():
            for tensor in tensors:
                sent = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor  # gloo sends no truth values
                dist.broadcast(sent, 0)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not failure.is_broken(error):
                raise
            raise failure.explain(self, error) from error


def _present() -> Group:
    there = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return Processes() if there else Group()


def _packed(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)  # pickle alone cannot do every dtype
    return file.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)  # it is one of us that wrote it


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
    if device.type != "cpu" and device.index is not None:
        torch.accelerator.set_device_index(device.index)  # what asks for no device by number is to be there too
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
        atexit.register(leave, os.getpid())
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"This is one of {os.environ.get('WORLD_SIZE')} processes, by the environment variable WORLD_SIZE, but "
            f"they did not come together within {timeout.total_seconds():g} seconds: {error}. Start them by torchrun "
            "--nproc-per-node=2 train.py, or unset WORLD_SIZE to train in one process."
        ) from error


def leave(process: int | None = None) -> None:
    """Leave the others, as this process comes to its end.

    A thread of gloo that drops its last tensor while the interpreter ends would abort the process after all is done,
    see https://github.com/pytorch/pytorch/issues/179291: it gets a moment to do so before. The group is held as long:
    torch 2.6 frees it with the lock of Python in its hand, waits for that thread, and the thread for the lock.

    Args:
        process: The only process that may do it, since forks take over what is to be done at exit.
    """
    if process not in {None, os.getpid()} or not dist.is_initialized():
        return
    failed = failure.stop()
    if failed and "nccl" in str(dist.get_backend_config()):
        return  # it would wait for the others; the driver cleans up
    gc.collect()
    group = dist.group.WORLD
    dist.destroy_process_group()
    time.sleep(LAST_WORK)
    del group
