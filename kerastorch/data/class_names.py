"""What a dataset calls its classes."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset

from kerastorch.data.sharded import bare


def class_names(data: Any) -> tuple[str, ...] | None:
    """Return the names of the classes if a dataset tells them as those of torchvision do, in `classes`.

    Args:
        data: Anything that `fit` takes; looked through are DataLoader, Subset and ConcatDataset.
    """
    data = bare(data)
    if isinstance(data, ConcatDataset):
        found = {class_names(part) for part in data.datasets}
        return found.pop() if len(found) == 1 else None
    try:
        told = getattr(data, "classes", None)
    except Exception:  # a property that cannot tell yet; training does not need it
        return None
    if isinstance(told, (list, tuple)) and told and all(isinstance(name, str) for name in told):
        return tuple(told)
    inner = getattr(data, "dataset", None)
    return None if inner is None or inner is data else class_names(inner)
