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
        if shuffle and isinstance(data, IterableDataset):
            raise DataError(
                f"shuffle=True was given, but {name} is the IterableDataset {type(data).__name__}, which has an order "
                "of its own. Leave shuffle out."
            )
        source = _batched(data, size, training if shuffle is None else shuffle, name, float_dtype)
    return source if steps is None else LimitedSource(source, steps, continues=training)


def makes_own_batches(data: Any) -> bool:
    """Whether the data are an iterable of batches, which knows no `batch_size` and no `shuffle` from outside."""
    known = isinstance(data, (str, bytes, tuple, Mapping, Dataset)) or _is_arrays(data) or hasattr(data, "to_numpy")
    return isinstance(data, Iterable) and not known


def _batched(data: Any, batch_size: int, shuffle: bool, name: str, float_dtype: torch.dtype) -> DataSource:
    if type(data) is TensorDataset:  # one of the user's own may change what it holds
        data = data.tensors
    if _is_arrays(data):
        return TensorSource(_tensors(data, name, float_dtype), batch_size=batch_size, shuffle=shuffle, name=name)
    if not isinstance(data, Dataset):
        raise DataError(_unusable(data, name))
    if isinstance(data, IterableDataset):
        return LoaderSource(DataLoader(data, batch_size), float_dtype=float_dtype, name=name)
    if not hasattr(data, "__len__"):
        raise DataError(
            f"{name} cannot be read: its {type(data).__name__} has no __len__. Write one, "
            "or make it an IterableDataset."
        )
    if len(data) == 0:
        raise DataError(f"{name} is empty: its {type(data).__name__} has no samples.")
    return LoaderSource(DataLoader(data, batch_size, shuffle), float_dtype=float_dtype, name=name)


def _tensors(data: Any, name: str, float_dtype: torch.dtype) -> tuple[Any, ...]:
    parts = data if isinstance(data, tuple) else (data,)
    if len(parts) > 3:
        raise DataError(f"{name} is x, (x, y) or (x, y, sample_weight); got {len(parts)} arrays: {describe(parts)}.")
    arrays = tuple(to_tensors(part, float_dtype, labels=place == 1) for place, part in enumerate(parts))
    strange = next((leaf.dtype for leaf in leaves(arrays) if isinstance(leaf, np.ndarray)), None)
    if strange is not None:
        raise DataError(
            f"{name} holds an array of the dtype {strange}, which torch does not know. Type array.astype('float32')."
        )
    return arrays


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
    if isinstance(data, tuple) and data[0] is not None:
        data = [part for part in data if part is not None]  # (x, None, weight)
    return all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves(data))


def _unusable(data: Any, name: str) -> str:
    known = "a DataLoader, an iterable of batches, a Dataset, or a tuple of tensors or NumPy arrays"
    if isinstance(data, tuple) and not data:
        return f"{name} is empty: it is a tuple without arrays. Pass {known}."
    if data is None:
        return f"There is no data: {name} is None. Pass {known}."
    if isinstance(data, tuple):
        strange = next((part for part in data if not _is_arrays(part)), None)
        hint = "Type .to_numpy() behind it." if hasattr(strange, "to_numpy") else "Type numpy.asarray(...) around it."
        return f"{name} is a tuple, which holds tensors or arrays, but one item is a {type(strange).__name__}. {hint}"
    hint = f" {data.__name__} is a class; call it." if isinstance(data, type) else ""
    hint = " Type .to_numpy() behind it." if hasattr(data, "to_numpy") else hint
    return f"{name} cannot be a {type(data).__name__}.{hint} Pass {known}."
