"""How a step runs: here in one process, on one device."""

from kerastorch.strategy.base import Strategy
from kerastorch.strategy.single import Single

__all__ = ["Single", "Strategy"]
