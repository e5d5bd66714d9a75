"""What the loop and the step ask of the machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

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
    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss of this process's share of a batch."""

    @abstractmethod
    def step(self, optimizer: Optimizer) -> None:
        """Update the parameters."""

    @abstractmethod
    def total(self, sums: list[float]) -> list[float]:
        """Add up sums over all processes."""
