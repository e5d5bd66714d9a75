"""What the loop and the step ask of the machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Strategy(ABC):
    """The verbs that differ between one device and many. It knows no epochs and no logs.

    Attributes:
        is_main: Whether this is the process that shows and logs.
        gather: Returns the tensors `(N_i, ...)` of all processes, in the order of their ranks; None for one process.
    """

    is_main: bool = True
    gather: Callable[[Tensor], list[Tensor]] | None = None

    @abstractmethod
    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module to call instead; its parameters may be others, so optimizers are built afterwards."""

    @abstractmethod
    def begin(self, module: nn.Module, device: torch.device) -> None:
        """Get net and device ready for the precision and the layout in memory; the net is on the device."""

    @abstractmethod
    def autocast(self, *, fresh: bool = False) -> AbstractContextManager[Any]:
        """Return the context for the net and its loss; a `fresh` one for a compiler that looks into it."""

    @abstractmethod
    def inputs(self, x: Any) -> Any:
        """Return inputs as the net takes them."""

    @abstractmethod
    def outputs(self, output: Any) -> Any:
        """Return outputs of the net as users expect them."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss of this process's share of a batch."""

    @abstractmethod
    def unscale(self, optimizer: Optimizer) -> None:
        """Bring gradients that wait for the optimizer to their own size."""

    @abstractmethod
    def clip(self, gradients: list[Tensor], norm: float | None, value: float | None) -> None:
        """Limit gradients: first the norm of all together, then each number."""

    @abstractmethod
    def step(self, optimizer: Optimizer) -> str | None:
        """Update the parameters; return None, or why this step was skipped."""

    @abstractmethod
    def total(self, sums: list[float]) -> list[float]:
        """Add up sums over all processes."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Return what has a state of its own, by name."""
