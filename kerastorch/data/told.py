"""What a Dataset tells of its labels without being read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset


def told_labels(dataset: Any) -> Tensor | None:
    """Return the labels `(N, ...)` that a Dataset tells; None where it tells none of that number.

    They are what it holds, and need not be what it gives.
    """
    if type(dataset) is TensorDataset:
        return as_tensor(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    if type(dataset) is Subset:
        whole = told_labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor([int(index) for index in dataset.indices])]
    if type(dataset) is ConcatDataset:
        parts = [told_labels(part) for part in dataset.datasets]
        there = [part for part in parts if part is not None]
        alike = len(there) == len(parts) and len({part.shape[1:] for part in there}) == 1
        return torch.cat(there) if alike else None
    return None if _changes_targets(dataset) else next(_attributes(dataset), None)


def _attributes(dataset: Any) -> Iterator[Tensor]:
    for attribute in ("targets", "labels"):
        yield from _sized(getattr(dataset, attribute, None), len(dataset))
    if "labels" in (getattr(dataset, "column_names", None) or ()):  # of Hugging Face
        yield from _sized(dataset["labels"], len(dataset))


def _sized(values: Any, length: int) -> Iterator[Tensor]:
    tensor = as_tensor(values)
    if tensor is not None and tensor.ndim and len(tensor) == length:
        yield tensor


def _changes_targets(dataset: Any) -> bool:
    # torchvision: a transform of targets, or one of images and targets together, which knows no target_transform
    together = getattr(dataset, "transforms", None)
    changes = getattr(dataset, "target_transform", None) is not None
    return changes or getattr(together, "target_transform", together) is not None


def as_tensor(value: Any) -> Tensor | None:
    """Return numbers as a tensor on the CPU; None where it is something else."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # rows of different lengths, tensors on a device
        return None
    if array.dtype.kind not in "fiub":
        return None
    wide = np.dtype(np.int64) if array.dtype.kind == "u" and array.dtype.itemsize > 1 else array.dtype
    return torch.as_tensor(np.array(array, wide.newbyteorder("=")))  # torch does little with uint16 and wider
