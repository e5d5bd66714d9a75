"""Files: whole or not there, and never executed."""

from typing import TYPE_CHECKING

from kerastorch import lazy
from kerastorch.checkpoint.files import sweep
from kerastorch.checkpoint.reading import load
from kerastorch.checkpoint.weights import load_into, weights_in
from kerastorch.checkpoint.writing import save, save_weights

if TYPE_CHECKING:
    from kerastorch.checkpoint.inspection import CheckpointInfo, inspect
    from kerastorch.checkpoint.writer import Writer

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

__getattr__ = lazy.attributes(
    __name__, {"CheckpointInfo": ".inspection", "Writer": ".writer", "inspect": ".inspection"}
)
