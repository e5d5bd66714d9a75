"""Files: whole or not there, and never executed."""

from kerastorch.checkpoint.files import sweep
from kerastorch.checkpoint.inspection import CheckpointInfo, inspect
from kerastorch.checkpoint.reading import load
from kerastorch.checkpoint.weights import load_into, weights_in
from kerastorch.checkpoint.writer import Writer
from kerastorch.checkpoint.writing import save, save_weights

__all__ = [
    "CheckpointInfo",
    "Writer",
    "inspect",
    "load",
    "load_into",
    "save",
    "save_weights",
    "sweep",
    "weights_in",
]
