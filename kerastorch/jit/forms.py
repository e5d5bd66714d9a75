"""The form of a batch: batches of one form can be worked on by one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kerastorch.data import Batch

Form = tuple[Any, ...]


def form(batch: Batch) -> Form | None:
    """Return size, shapes, dtypes, layouts and nesting; None for a batch that holds something else than tensors."""
    x, y = batch.x, batch.y
    if type(x) is Tensor and type(y) is Tensor and batch.weight is None and batch.truth is None:
        return batch.size, x is y, x.shape, x.dtype, x.stride(), y.shape, y.dtype, y.stride(), x.device
    found: list[Any] = [batch.size]
    order: dict[int, int] = {}
    parts = (x, y, batch.weight, batch.truth)
    return tuple(found) if all(_note(part, found, order) for part in parts) else None


def _note(part: Any, found: list[Any], order: dict[int, int]) -> bool:
    if part is None:
        found.append(None)
        return True
    if type(part) is Tensor:
        number = order.setdefault(id(part), len(order))  # one tensor in two places is another form
        found.append((number, part.shape, part.dtype, part.stride(), part.device))
        return True
    if not isinstance(part, (Mapping, tuple, list)):
        return False
    keys = tuple(part) if isinstance(part, Mapping) else len(part)
    found.append((type(part), keys))
    return all(_note(child, found, order) for child in (part.values() if isinstance(part, Mapping) else part))
