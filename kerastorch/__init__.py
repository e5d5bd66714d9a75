"""Train any `nn.Module` with compile, fit, evaluate and predict."""

from typing import TYPE_CHECKING

from kerastorch import callbacks, checkpoint, errors, lazy, metrics, optimizers
from kerastorch.data import Batch
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.model import Model
from kerastorch.summary import summary

if TYPE_CHECKING:
    from kerastorch import plot

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Callback",
    "History",
    "Model",
    "callbacks",
    "checkpoint",
    "errors",
    "metrics",
    "optimizers",
    "plot",
    "summary",
]

__getattr__ = lazy.attributes(__name__, {"plot": ".plot"})
