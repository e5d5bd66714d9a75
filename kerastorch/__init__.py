"""Train any `nn.Module` with compile, fit, evaluate and predict."""

from kerastorch import callbacks, errors, metrics, optimizers
from kerastorch.data import Batch
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.model import Model
from kerastorch.summary import summary

__version__ = "0.1.0"

__all__ = ["Batch", "Callback", "History", "Model", "callbacks", "errors", "metrics", "optimizers", "summary"]
