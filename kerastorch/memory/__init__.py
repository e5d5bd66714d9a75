"""Batches that do not fit into memory: worked off in parts, with the numbers of the whole."""

from kerastorch.memory.cutting import cut
from kerastorch.memory.shortage import is_out_of_memory
from kerastorch.memory.splitter import Microbatch, Splitter, check
from kerastorch.memory.whole import Whole

__all__ = ["Microbatch", "Splitter", "Whole", "check", "cut", "is_out_of_memory"]
