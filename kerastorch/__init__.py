"""Train any `nn.Module` with compile, fit, evaluate and predict."""

from typing import TYPE_CHECKING

from kerastorch import callbacks, checkpoint, errors, lazy, metrics, optimizers
from kerastorch.data import Batch, Sharded
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.launch import launch
from kerastorch.model import Model
from kerastorch.summary import summary

if TYPE_CHECKING:
    from kerastorch import plot
    from kerastorch.strategy.options import DDP, FSDP

__version__ = "0.1.0"

__all__ = [
    "DDP",
    "FSDP",
    "Batch",
    "Callback",
    "History",
    "Model",
    "Sharded",
    "callbacks",
    "checkpoint",
    "errors",
    "launch",
    "metrics",
    "optimizers",
    "plot",
    "summary",
]

__getattr__ = lazy.attributes(__name__, {"DDP": ".strategy.options", "FSDP": ".strategy.options", "plot": ".plot"})
