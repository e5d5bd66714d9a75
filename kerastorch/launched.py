"""Whether this process is one of several, by what torchrun puts into the environment."""

from __future__ import annotations

import os

import torch.distributed as dist


def is_launched() -> bool:
    """Whether there are other processes: a launcher says so, or this one has joined a group of its own accord."""
    return _number("WORLD_SIZE", 1) > 1 or (dist.is_available() and dist.is_initialized())


def is_main() -> bool:
    """Whether this is the process that prints and writes files; it is, where there is only one.

    Example:
        >>> if kt.is_main():
        ...     print("Training is over.")
    """
    return _number("RANK", 0) == 0 or not is_launched()


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def local_size() -> int:
    """Return how many there are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
