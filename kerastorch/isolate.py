"""Contexts that leave a net and the random numbers as they found them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, random numbers of their own; afterwards all is as before.

    The flag of every submodule comes back, so that a BatchNorm frozen by hand stays frozen.
    """
    with _modes_kept(module), random_state_kept(), torch.no_grad():
        module.eval()
        yield


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode. A net that is in training mode keeps the flags of its submodules (a frozen BatchNorm).

    Where a module has a `train()` of its own, such as one that freezes a part of it, that is called all the same.
    """
    if module.training:
        for part in _with_own_train(module):
            part.train()
        yield
        return
    with _modes_kept(module):
        module.train()
        yield


def _with_own_train(module: nn.Module) -> Iterator[nn.Module]:
    if type(module).train is not nn.Module.train:
        if module.training:
            yield module
        return
    for child in module.children():
        yield from _with_own_train(child)


@contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    flags = [(part, part.training) for part in module.modules()]
    was_training = module.training
    try:
        yield
    finally:
        module.train(was_training)  # first the net's own train(), which may do more than set flags
        for part, flag in flags:
            part.training = flag


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The generators of Python, NumPy and torch (all devices in use) come back as they were. About 60 us."""
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(numpy_state)
