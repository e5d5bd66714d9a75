"""How many workers read a Dataset that comes without a loader."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kerastorch import randomness
from kerastorch.cpus import usable_cpus
from kerastorch.tree import leaves

MOST = 8  # each holds memory, and begins anew every epoch
PER_BATCH = 0.003  # seconds to read a batch; to take one from a worker costs 1 ms, and the CPUs have other work too
PER_EPOCH = 1.0  # seconds to read an epoch; to begin a worker costs 0.05 s
_PROBES = 5
_PATIENCE = 0.1  # seconds after which no more samples are tried
_SHARED = Path("/dev/shm")  # where batches lie that workers hand over; a container may have 64 MB of it


def begins_quickly() -> bool:
    """Whether workers are forks, which begin in hundredths of a second and see the Dataset as it is just then."""
    method = multiprocessing.get_start_method(allow_none=True)  # otherwise it would be settled by asking
    return (method or multiprocessing.get_all_start_methods()[0]) == "fork"


def worth_while(dataset: Any, batch_size: int) -> int:
    """Return how many workers it pays to read a Dataset with; 0 where it does not, or might not work.

    A few samples are read and timed, and the random numbers put back. So the answer may be another one the next time.
    It is 0 for what is cheap, what draws from a generator of its own, what uses an accelerator, and what cannot be
    pickled, also not once a sample was read: it may hold an open file, which forks would read from at once. What a
    Dataset keeps from one sample to the next, such as a cache, is lost with the worker.
    """
    cpus = usable_cpus() - 1  # one trains
    if cpus < 1 or not begins_quickly() or multiprocessing.current_process().daemon or not _may_travel(dataset):
        return 0
    with suppress(Exception):  # it is raised again, and explained, where the data are read
        seconds, size = _probe(dataset)
        if not _may_travel(dataset) or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return 0
        if seconds * batch_size >= PER_BATCH and seconds * len(dataset) >= PER_EPOCH:
            return min(cpus, MOST, _room() // max(size * batch_size, 1))
    return 0


def _may_travel(dataset: Any) -> bool:
    own = (not randomness.is_global(one) for one in randomness.generators(dataset).values())
    if hasattr(dataset, "state_dict") or any(own):
        return False
    try:
        pickle.Pickler(_Nowhere()).dump(dataset)
    except Exception:  # whatever __reduce__ and __getstate__ of the user's raise
        return False
    return True


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def _probe(dataset: Any) -> tuple[float, int]:
    """Return the seconds and bytes of a sample.

    Raises:
        RuntimeError: It lies on an accelerator, which a fork cannot use, or is another sample each time.
    """
    seconds, sample, begin = [], None, time.perf_counter()
    with randomness.kept():
        for index in range(min(_PROBES, len(dataset))):
            start = time.perf_counter()
            sample = _read(dataset, index)
            end = time.perf_counter()
            seconds.append(end - start)
            if end - begin > _PATIENCE:
                break
    if not _is_repeatable(dataset):
        raise RuntimeError("it draws from a generator of its own")
    tensors = list(_tensors(sample))
    if any(tensor.device.type != "cpu" for tensor in tensors):
        raise RuntimeError("on an accelerator")
    return min(seconds), sum(tensor.nbytes for tensor in tensors)  # the first one may open files, and import


def _is_repeatable(dataset: Any) -> bool:
    """Whether random numbers of Python, NumPy and torch are all that a sample depends on."""
    found = []
    for _ in range(2):
        with randomness.derived(0):
            found.append(list(_tensors(_read(dataset, 0))))
    pairs = zip(*found, strict=True)
    return all(torch.equal(first.nan_to_num(), again.nan_to_num()) for first, again in pairs)


def _read(dataset: Any, index: int) -> Any:
    together = getattr(dataset, "__getitems__", None)
    return together([index]) if together else dataset[index]


def _tensors(sample: Any) -> Iterator[Tensor]:
    for leaf in leaves(sample):
        with suppress(TypeError, ValueError, RuntimeError):  # text and images take no part
            yield leaf if isinstance(leaf, Tensor) else torch.as_tensor(leaf)


def _room() -> int:
    """Return how many bytes of batches the workers may hold, if each has three: two ahead, and one that is used."""
    free = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else 2**40
    return free // 2 // 3
