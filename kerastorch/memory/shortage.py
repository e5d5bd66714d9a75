"""What is there before a step, put back where memory does not suffice for it."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch import randomness
from kerastorch.health import Statistics
from kerastorch.memory.cutting import versions

_SIGNS = ("out of memory", "DefaultCPUAllocator", "_STATUS_ALLOC_FAILED")  # the last is of cuBLAS and cuDNN


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def let_go(error: BaseException | None) -> None:
    """Drop what the frames of an error hold: the activations of the step that failed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def free(device: torch.device | None) -> None:
    """Give unused memory back, so that it can be had in other sizes."""
    gc.collect()  # an error and a frame that holds it hold each other
    if device is not None and device.type not in ("cpu", "meta"):
        torch.get_device_module(device).empty_cache()


class Past:
    """Random numbers, statistics of the net and inputs, as they were before a step.

    Random numbers of Python and NumPy are looked at in the first step only, which takes 0.1 ms, and kept before each
    one if that has drawn some; those of torch always are.
    """

    def __init__(self) -> None:
        self._statistics = Statistics()
        self._draws_elsewhere = True
        self._is_first = True
        self._all: dict[str, Any] | None = None

    def keep(self, x: Any, module: nn.Module | None, device: torch.device | None) -> None:
        """Note what is there.

        Args:
            x: The inputs.
            module: The net, where a step changes its statistics.
            device: Where it draws random numbers.
        """
        self._x, self._versions = x, versions(x)
        self._module, self._device = module, None if device is None or device.type in ("cpu", "meta") else device
        self._all = randomness.capture() if self._draws_elsewhere else None
        self._here = torch.default_generator.get_state()
        self._there = None if self._device is None else _state_on(self._device)
        if module is not None:
            self._statistics.keep(module)

    def settle(self) -> None:
        """Take note, after the first step, of what it has drawn; let go of its inputs."""
        self._x = None
        if self._is_first and self._all is not None:
            now, before = randomness.capture(), self._all
            self._draws_elsewhere = not all(randomness.same(before[name], now[name]) for name in ("python", "numpy"))
            self._is_first = False

    def inputs_changed(self) -> bool:
        """Whether the net has written into its inputs, which are no longer what they were."""
        return versions(self._x) != self._versions

    def put_back(self) -> None:
        """Make it as it was."""
        if self._all is not None:
            randomness.restore(self._all)
        torch.default_generator.set_state(self._here)
        if self._device is not None:
            _set_state_on(self._device, self._there)
        if self._module is not None:
            self._statistics.restore()
            self._statistics = Statistics()  # a step that breaks off does not show which of them change
        self._x = None


def _place(device: torch.device) -> tuple[Any, ...]:
    return () if device.type == "mps" else (device,)  # of which there is but one


def _state_on(device: torch.device) -> Tensor:
    state: Tensor = torch.get_device_module(device).get_rng_state(*_place(device))
    return state


def _set_state_on(device: torch.device, state: Tensor | None) -> None:
    torch.get_device_module(device).set_rng_state(state, *_place(device))


class Aside:
    """The gradients of an optimizer's parameters, put aside: others begin anew.

    A backward pass that breaks off has added to some of them only, and copies to go back to would take memory at the
    worst time. The sums are those that autograd itself would make.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._before: list[tuple[Tensor, Tensor]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._before.append((parameter, parameter.grad))
                    parameter.grad = None

    def put_back(self) -> None:
        """Drop those that were made meanwhile."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        for parameter, gradient in self._before:
            parameter.grad = gradient

    def add(self) -> None:
        """Add those that were made meanwhile."""
        held: list[Tensor] = []
        made: list[Tensor] = []
        for parameter, gradient in self._before:
            new, parameter.grad = parameter.grad, gradient
            if new is None:
                continue
            if gradient.layout == new.layout == torch.strided:
                held.append(gradient)
                made.append(new)
            else:
                parameter.grad = new + gradient if gradient.layout != torch.strided else gradient + new
        if held:
            torch._foreach_add_(held, made)


@contextmanager
def gradients_aside(optimizer: Optimizer) -> Iterator[None]:
    """Put gradients aside; what is made inside is added to them, or dropped on an error."""
    aside = Aside(optimizer)
    try:
        yield
    except BaseException:
        aside.put_back()
        raise
    aside.add()
