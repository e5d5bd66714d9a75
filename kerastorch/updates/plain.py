"""Tensors that all calls for lists of them can take, and a cheap way to do without gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FOREACH = {"cuda", "xpu"}  # devices for which torch's optimizers take lists of tensors unless told otherwise

dtype_of, is_cpu, is_sparse = attrgetter("dtype"), attrgetter("is_cpu"), attrgetter("is_sparse")


def without_gradients(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Do what `torch.no_grad()` does, at a quarter of its cost."""

    @functools.wraps(function)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            return function(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(before)

    return guarded


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Tell whether all are tensors, none of a class of its own or sparse; not so for none."""
    return set(map(type, tensors)) == {Tensor} and not any(map(is_sparse, tensors))


def device_of(tensors: Sequence[Tensor]) -> str | None:
    """Return the type of the device that all are on; None if they are on several."""
    if all(map(is_cpu, tensors)):
        return "cpu"
    devices = {tensor.device for tensor in tensors}
    return devices.pop().type if len(devices) == 1 else None
