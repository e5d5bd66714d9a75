"""How a step runs: in one process, or in several that train together."""

from kerastorch.strategy.base import Strategy
from kerastorch.strategy.group import Group

__all__ = ["Group", "Strategy"]
