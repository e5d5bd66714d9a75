"""One process, one device, full precision: what a loop written by hand does."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch.strategy.base import Strategy


class Single(Strategy):
    """One process on one device."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module itself."""
        return module

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: Optimizer) -> None:
        """Update the parameters."""
        optimizer.step()

    def total(self, sums: list[float]) -> list[float]:
        """Return the sums as they are."""
        return sums
