"""Which form of data is this?"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from kerastorch.data.sharded import Sharded, bare
from kerastorch.data.tables import is_table
from kerastorch.errors import DataError
from kerastorch.tree import leaves, map_leaves

KNOWN = "a DataLoader, an iterable of batches, a Dataset, or a tuple of tensors, arrays or DataFrames"


def makes_own_batches(data: Any) -> bool:
    """Whether the data are an iterable of batches, which knows no `batch_size` and no `shuffle` from outside."""
    data = bare(data)
    if isinstance(data, (str, bytes, tuple, Mapping)) or is_dataset(data) or is_arrays(data):
        return False
    is_array = hasattr(data, "shape")  # of a library that we do not know
    return (isinstance(data, Iterable) and not is_array) or is_graph(data)


def is_arrays(data: Any) -> bool:
    """Whether the data are tensors, arrays or tables, alone or nested; behind the inputs of a tuple may be None."""
    if _is_array(data):
        return True
    if not isinstance(data, (tuple, Mapping)) or not data or hasattr(data, "to"):
        return False
    x, others = (data[0], data[1:]) if isinstance(data, tuple) else (data, ())
    inputs = list(leaves(x))
    return bool(inputs) and all(map(_is_array, [*inputs, *(leaf for leaf in leaves(others) if leaf is not None)]))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, np.ndarray)) or is_table(leaf)


def is_dataset(data: Any) -> bool:
    """Whether it gives samples by number, or one after the other: a Dataset of torch or of Hugging Face."""
    by_number = hasattr(data, "__getitems__") and hasattr(data, "__len__")
    return isinstance(data, Dataset) or (by_number and not isinstance(data, type))


def is_labelled(item: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Whether it is a dict that holds inputs and targets together, as those of Hugging Face do."""
    return isinstance(item, Mapping) and "labels" in item


def is_graph(item: Any) -> bool:
    """Whether it is an object of its own kind that holds its targets as `y`, as the graphs of PyTorch Geometric do."""
    if isinstance(item, (tuple, Mapping, Tensor, Dataset)) or not hasattr(item, "to"):
        return False
    return isinstance(getattr(item, "y", None), Tensor)


def is_one_shot(data: object) -> bool:
    """Whether it can be read once only."""
    # A class of the user's with __next__ may begin anew in __iter__, so only those of Python and torch are certain
    builtin = type(data).__module__ in ("builtins", "itertools", "torch.utils.data.dataloader")
    return inspect.isgenerator(data) or (builtin and isinstance(data, Iterator))


def plain(data: Any) -> Any:
    """Make what a tokenizer gives, a dict with `.to()`, a dict without; all else stays as it is."""
    if not isinstance(data, (tuple, Mapping)) or not any(isinstance(leaf, Mapping) for leaf in leaves(data)):
        return data
    return map_leaves(lambda leaf: dict(leaf) if isinstance(leaf, Mapping) else leaf, data)


def named_sets(data: Any, name: str = "dl_val") -> dict[str, Any] | None:
    """Return several data sets by their names; None where the data are one set.

    Args:
        data: A dict of strings is several sets if any value is a set by itself: a DataLoader, a Dataset, a tuple, a
            list or another iterable of batches, or a dict with `"labels"`. A dict of arrays is the inputs of one set.
        name: What the user calls it, for messages.

    Raises:
        DataError: The dict is empty.
    """
    if not isinstance(data, Mapping):
        return None
    if not data:
        raise DataError(f"{name} is an empty dict. Pass {KNOWN}, or a dict of such by name.")
    holds_labels = is_labelled(data) and not _is_set(data["labels"])
    if holds_labels or not all(isinstance(key, str) for key in data):
        return None
    return dict(data) if any(_is_set(value) for value in data.values()) else None


def _is_set(value: Any) -> bool:
    if isinstance(value, Sharded):
        return True
    if isinstance(value, Mapping):
        return "labels" in value
    return isinstance(value, tuple) or is_dataset(value) or makes_own_batches(value)


def sample_count(dataset: Any, name: str) -> int:
    """Return how many samples a Dataset has.

    Raises:
        DataError: It has none, or does not say.
    """
    kind = type(dataset).__name__
    if not hasattr(dataset, "__len__"):
        raise DataError(f"{name} cannot be read: its {kind} has no __len__. Write one, or make it an IterableDataset.")
    if len(dataset) == 0:
        raise DataError(f"{name} is empty: its {kind} has no samples.")
    return len(dataset)


def unusable(data: Any, name: str) -> str:
    """Say why data cannot be used, and what can be."""
    if data is None:
        return f"There is no data: {name} is None. Pass {KNOWN}."
    if isinstance(data, tuple) and not data:
        return f"{name} is empty: it is a tuple without arrays. Pass {KNOWN}."
    if isinstance(data, (tuple, Mapping)) and data and not hasattr(data, "to"):
        return _strange(data, name)
    hint = f" {data.__name__} is a class; call it." if isinstance(data, type) else _hint(data)
    return f"{name} cannot be a {type(data).__name__}.{hint} Pass {KNOWN}."


def _strange(data: Any, name: str) -> str:
    place, item = "", data
    while _is_nested(item):
        key, item = _strangest(list(item.items() if isinstance(item, Mapping) else enumerate(item)))
        place += f"[{key!r}]"
    if isinstance(data, Mapping) and _is_set(item) and not isinstance(item, list):
        some = ", ".join(map(repr, list(data)[:3]))
        return f"{name} is a dict of several data sets, such as {some}; it can be one of them. Type data{place}."
    kind = "tuple" if isinstance(data, tuple) else "dict"
    what = "None" if item is None else f"a {type(item).__name__}"
    return f"{name} is a {kind}, which holds tensors or arrays, but its item {place} is {what}.{_hint(item)}"


def _is_nested(item: Any) -> bool:
    is_list = isinstance(item, list) and any(map(_is_array, item))  # else it is meant as an array
    return bool((isinstance(item, (tuple, Mapping)) or is_list) and item and not hasattr(item, "to"))


def _strangest(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    for pair in pairs:
        if any(leaf is not None and not _is_array(leaf) for leaf in leaves(pair[1])):
            return pair
    return next((pair for pair in pairs if not any(map(_is_array, leaves(pair[1])))), pairs[0])


def _hint(item: Any) -> str:
    if hasattr(item, "toarray"):  # sparse, of SciPy
        return " Type .toarray() behind it."
    return " Type numpy.asarray(...) around it." if isinstance(item, list) or hasattr(item, "__array__") else ""
