"""Train any `nn.Module` with compile, fit, evaluate and predict."""

from typing import TYPE_CHECKING

from kerastorch import callbacks, checkpoint, errors, lazy, metrics, optimizers
from kerastorch.data import Batch, Sharded
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.launch import launch
from kerastorch.launched import is_main
from kerastorch.model import Model
from kerastorch.summary import summary

if TYPE_CHECKING:
    from kerastorch import plot, sklearn
    from kerastorch.loading import load_model
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
    "is_main",
    "launch",
    "load_model",
    "metrics",
    "optimizers",
    "plot",
    "sklearn",
    "summary",
]

_OPTIONS = ".strategy.options"
_HOMES = {"DDP": _OPTIONS, "FSDP": _OPTIONS, "load_model": ".loading", "plot": ".plot", "sklearn": ".sklearn"}
__getattr__ = lazy.attributes(__name__, _HOMES)
