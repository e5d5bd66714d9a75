"""Files: whole or not there, and never executed."""

from typing import TYPE_CHECKING

from kerastorch import lazy
from kerastorch.checkpoint.files import is_directory, remove, sweep
from kerastorch.checkpoint.plain import is_sharded
from kerastorch.checkpoint.reading import load, load_described, load_weights
from kerastorch.checkpoint.sharded import like, mesh_of, save_together, whole
from kerastorch.checkpoint.together import by_all, by_main
from kerastorch.checkpoint.weights import load_into, placed, weights_in
from kerastorch.checkpoint.writing import save, save_described, save_weights

if TYPE_CHECKING:
    from kerastorch.checkpoint.inspection import CheckpointInfo, inspect
    from kerastorch.checkpoint.writer import Writer

__all__ = [
    "CheckpointInfo",
    "Writer",
    "by_all",
    "by_main",
    "inspect",
    "is_directory",
    "is_sharded",
    "like",
    "load",
    "load_described",
    "load_into",
    "load_weights",
    "mesh_of",
    "placed",
    "remove",
    "save",
    "save_described",
    "save_together",
    "save_weights",
    "sweep",
    "weights_in",
    "whole",
]

__getattr__ = lazy.attributes(
    __name__, {"CheckpointInfo": ".inspection", "Writer": ".writer", "inspect": ".inspection"}
)
