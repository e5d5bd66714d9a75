"""Where reading is, counted so that another number of processes, or another batch size, can go on there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerastorch.errors import DataError


def position(finished: int, batch_size: int | None, samples: int | None) -> dict[str, Any]:
    """Return the place behind so many batches of all processes, as plain numbers.

    Args:
        finished: The batches.
        batch_size: Samples in each; None while unknown.
        samples: Those of an epoch; None while unknown.
    """
    behind = None if batch_size is None else finished * batch_size
    if behind is not None and samples is not None:
        behind = min(behind, samples)
    return {"batches": finished, "samples": behind, "batch size": batch_size}


def place(found: Mapping[str, Any], batch_size: int | None, name: str, *, by_sample: bool) -> tuple[int, int]:
    """Return the batch to go on at, and how many of its samples are behind the place.

    Args:
        found: What `position` returned.
        batch_size: Samples in a batch now.
        name: What the user calls the data, for messages.
        by_sample: Whether batches are cut from one order of samples, which does not depend on their size.

    Raises:
        DataError: Batches have another size, and are not cut from one order.
    """
    if not found["batches"] or found["batch size"] in (None, batch_size) or batch_size is None:
        return int(found["batches"]), 0
    if not by_sample:
        raise DataError(
            f"{name} cannot go on in the middle of an epoch with batches of another size ({found['batch size']} "
            f"before, {batch_size} now): they come from a sampler or an iterable of the user's own. Take the batch "
            "size of before, or go on from the end of an epoch."
        )
    number, skipped = divmod(int(found["samples"]), batch_size)
    return number, skipped
