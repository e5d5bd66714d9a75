"""How a step runs: here in one process, on one device."""

from kerastorch.strategy.base import Strategy

__all__ = ["Strategy"]
