"""Any form of data -> DataSource."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kerastorch.data.batch import to_tensors
from kerastorch.data.source import DataSource, LimitedSource, LoaderSource, TensorSource
from kerastorch.errors import DataError
from kerastorch.tree import describe, leaves

DEFAULT_BATCH_SIZE = 32


def adapt(
    data: Any,
    *,
    name: str,
    float_dtype: torch.dtype = torch.float32,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    steps: int | None = None,
    training: bool = False,
) -> DataSource:
    """Give any form of data the one face that the loop knows.

    Args:
        data: A DataLoader, any iterable of batches, a Dataset, or a tensor, an array, a dict of them, or a tuple
            `(x,)`, `(x, y)`, `(x, y, sample_weight)` of such. A list is an iterable of batches.
        name: What the user calls it, for messages.
        float_dtype: What float64 becomes: the dtype of the net.
        batch_size: Samples per batch of a Dataset or of tensors; 32 by default.
        shuffle: Whether a Dataset or tensors are shuffled each epoch; by default in training.
        steps: Batches per epoch; all of them by default.
        training: Whether it is trained on.

    Raises:
        DataError: The data are empty, or of a form that cannot be used, or bring their own `batch_size`.
    """
    for argument, value in (("batch_size", batch_size), ("steps", steps)):
        if value is not None and value < 1:
            raise DataError(f"{argument} for {name} is at least 1; got {value}.")
    if makes_own_batches(data):
        _refuse_arguments(data, name, batch_size=batch_size, shuffle=shuffle)
        source: DataSource = LoaderSource(data, float_dtype=float_dtype, name=name)
    else:
        size = batch_size or DEFAULT_BATCH_SIZE
        source = _batched(data, size, training if shuffle is None else shuffle, name, float_dtype)
    return source if steps is None else LimitedSource(source, steps, continues=training)


def makes_own_batches(data: Any) -> bool:
    """Whether the data are an iterable of batches, which knows no `batch_size` and no `shuffle` from outside."""
    known = isinstance(data, (str, bytes, Mapping, Dataset)) or _is_arrays(data)
    return isinstance(data, Iterable) and not known


def _batched(data: Any, batch_size: int, shuffle: bool, name: str, float_dtype: torch.dtype) -> DataSource:
    if isinstance(data, TensorDataset):
        data = data.tensors
    if _is_arrays(data):
        parts = data if isinstance(data, tuple) else (data,)
        if len(parts) > 3:
            raise DataError(
                f"{name} is x, (x, y) or (x, y, sample_weight); got {len(parts)} arrays: {describe(parts)}."
            )
        arrays = tuple(to_tensors(part, float_dtype, labels=place == 1) for place, part in enumerate(parts))
        return TensorSource(arrays, batch_size=batch_size, shuffle=shuffle, name=name)
    if not isinstance(data, Dataset):
        raise DataError(_unusable(data, name))
    if isinstance(data, IterableDataset):
        return LoaderSource(DataLoader(data, batch_size), float_dtype=float_dtype, name=name)
    if len(data) == 0:  # type: ignore[arg-type]
        raise DataError(f"{name} is empty: its {type(data).__name__} has no samples.")
    return LoaderSource(DataLoader(data, batch_size, shuffle), float_dtype=float_dtype, name=name)


def _refuse_arguments(data: Any, name: str, **arguments: Any) -> None:
    for argument, value in arguments.items():
        if value is not None:
            raise DataError(
                f"{argument} was given, but {name} is a {type(data).__name__}, which makes its own batches. "
                f"Leave {argument} out, or pass a Dataset or tensors."
            )


def _is_arrays(data: Any) -> bool:
    if isinstance(data, (Tensor, np.ndarray)):
        return True
    if not isinstance(data, (tuple, Mapping)) or not data:
        return False
    return all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves(data))


def _unusable(data: Any, name: str) -> str:
    known = "a DataLoader, an iterable of batches, a Dataset, or a tuple of tensors or NumPy arrays"
    if data is None:
        return f"There is no data: {name} is None. Pass {known}."
    hint = f" {data.__name__} is a class; call it." if isinstance(data, type) else ""
    return f"{name} cannot be a {type(data).__name__}.{hint} Pass {known}."
