"""Threads."""

from __future__ import annotations

import warnings

import torch

from kerastorch.cpus import usable_cpus

_told: set[tuple[int, int]] = set()  # in this process


def threads_fit() -> None:
    """See that torch computes with no more threads than there are CPUs to run them: they wait for one another.

    Steps of a small net took 1.6 times as long with two threads on one CPU, and up to 3.7 times where the process was
    started on one CPU and given more later. Each case is told of once.

    Warns:
        UserWarning: It does.
    """
    threads, cpus = torch.get_num_threads(), usable_cpus()
    if threads <= cpus or (threads, cpus) in _told or torch.accelerator.is_available():
        return
    _told.add((threads, cpus))
    warnings.warn(
        f"torch computes with {threads} threads, but this process may use {cpus} CPU{'' if cpus == 1 else 's'}: the "
        f"threads wait for one another, and steps may take several times as long. Type torch.set_num_threads({cpus}), "
        f"or set OMP_NUM_THREADS={cpus} before Python starts.",
        stacklevel=2,
    )
