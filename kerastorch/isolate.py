"""Contexts that leave a net and the random numbers as they found them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kerastorch.randomness import kept as random_state_kept

__all__ = [
    "Held",
    "evaluation",
    "hold",
    "is_held",
    "modes_kept",
    "random_state_kept",
    "release",
    "training",
]


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, random numbers of their own; afterwards all is as before.

    The flag of every submodule comes back, so that a BatchNorm frozen by hand stays frozen. A module that is held (see
    `hold`) stays in evaluation mode; one that was released meanwhile takes the mode of the net.
    """
    with modes_kept(module), random_state_kept(), torch.no_grad():
        module.eval()
        yield


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode. A net that is in training mode keeps the flags of its submodules (a frozen BatchNorm).

    Where a module has a `train()` of its own, such as one that freezes a part of it, that is called all the same.
    Modules that are held stay in evaluation mode, whatever was done to their flags.
    """
    _lower(module)
    if module.training:
        for part in _with_own_train(module):
            part.train()
        yield
        return
    with modes_kept(module):
        module.train()
        yield


class Held:
    """The `train()` of one module that stays in evaluation mode; its children follow the net.

    It takes the place of the method, in the module itself. So it holds wherever a net is put into training mode, in the
    middle of `fit` and in a loop written by hand; it goes along when the module is copied or pickled, is not in the
    state_dict, and costs nothing in the forward pass. A mark that only `fit` knows would not outlive a `net.train()` in
    a step of the user's own; a forward hook would, but stands in the way of `torch.jit.script`.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        """Hand the mode on to the children; return the module, as `train` does."""
        type(self.module).train(self.module, mode)  # the class may have a train() of its own, and children
        self.module.training = False
        return self.module


def hold(part: nn.Module) -> None:
    """Put a module into evaluation mode, for as long as it is not released."""
    vars(part)["train"] = Held(part)
    part.training = False


def release(part: nn.Module, mode: bool) -> None:
    """Give a module that is held the mode that it is to have; others are left alone."""
    if is_held(part):
        del vars(part)["train"]
        part.training = mode


def is_held(part: nn.Module) -> bool:
    """Return whether a module stays in evaluation mode."""
    return isinstance(vars(part).get("train"), Held)


def _lower(module: nn.Module) -> None:
    for part in module.modules():
        if is_held(part):
            part.training = False


def _with_own_train(module: nn.Module) -> Iterator[nn.Module]:
    if type(module).train is not nn.Module.train:
        if module.training:
            yield module
        return
    for child in module.children():
        yield from _with_own_train(child)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """The training flag of every submodule comes back; one that is held stays in evaluation mode."""
    flags = [(part, part.training) for part in module.modules() if not is_held(part)]
    was_training = module.training
    try:
        yield
    finally:
        module.train(was_training)  # first the net's own train(), which may do more than set flags
        for part, flag in flags:
            part.training = flag
        _lower(module)  # what came to be held meanwhile
