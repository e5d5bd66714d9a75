"""One batch: inputs, targets, sample weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from kerastorch.data.kinds import is_graph, is_labelled
from kerastorch.data.tables import is_table, to_array
from kerastorch.errors import DataError
from kerastorch.tree import describe, leaves, map_leaves


@dataclass(slots=True)
class Batch:
    """What one step works on.

    Attributes:
        index: Position in the epoch, from 0.
        x: What goes into the net: a tensor `(N, ...)`, or a tuple or dict of them.
        y: Targets `(N, ...)`, nested as the user likes; None where there are none.
        weight: Weight of each sample `(N,)`; nested like `y` for weights of each output; or None.
        size: Number of samples N.
        truth: What metrics compare with, where that is something else than `y`: the labels behind mixed targets.
        is_filler: It counts nothing: several processes train together, and this one has no batch left in a step.
    """

    index: int
    x: Any
    y: Any = None
    weight: Any = None
    size: int = 1
    truth: Any = None
    is_filler: bool = False

    def describe(self) -> str:
        """Say shapes, dtypes and devices in one line."""
        weight = "" if self.weight is None else f", weight {describe(self.weight)}"
        return f"x {describe(self.x)}, y {describe(self.y)}{weight}"


def unpack(item: Any, index: int, float_dtype: torch.dtype) -> Batch:
    """Make a Batch of `x`, `(x,)`, `(x, y)` or `(x, y, weight)`, of a dict with `"labels"`, or of graphs with `y`.

    Arrays, and the tables of pandas and polars, become tensors. Float64 becomes `float_dtype`, integer arrays among the
    targets become int64. A dict with `"labels"` is the input whole, labels included, and its labels are the target.

    Raises:
        DataError: A tuple or list of no or more than three items, weights that do not fit, a table of other things than
            numbers.
    """
    if type(item) in (tuple, list) and len(item) == 2:
        x, y = item
        if _is_ready(x) and _is_ready(y):  # what a DataLoader gives nearly always
            return Batch(index, x, y, None, x.size(0))
    if not isinstance(item, (tuple, list)) or hasattr(item, "to"):  # a PackedSequence is a tuple, and an input
        return _whole(item, index, float_dtype)
    if not 1 <= len(item) <= 3:
        raise DataError(
            f"A batch is x, (x, y) or (x, y, sample_weight); batch {index} has {len(item)} items: "
            f"{describe(item)}. Several inputs go into a tuple of their own: ((a, b), y)."
        )
    x, y, weight = (*item, None, None)[:3]
    x = to_tensors(x, float_dtype)
    y = None if y is None else to_tensors(y, float_dtype, labels=True)
    size = count_samples(x, y)
    if weight is not None:
        weight = to_tensors(weight, float_dtype)
        check_weight(weight, size, f"batch {index}")
    return Batch(index, x, y, weight, size)


def _is_ready(value: Any) -> bool:
    return type(value) is Tensor and value.dtype is not torch.float64 and value.ndim > 0


def _whole(item: Any, index: int, float_dtype: torch.dtype) -> Batch:
    if is_labelled(item):
        x = labelled_to_tensors(item, float_dtype)
        return Batch(index, x, x["labels"], None, count_samples(x["labels"], x))
    if is_graph(item):
        y = to_tensors(item.y, float_dtype, labels=True)
        return Batch(index, item, y, None, int(getattr(item, "num_graphs", count_samples(y))))
    x = to_tensors(item, float_dtype)
    return Batch(index, x, None, None, count_samples(x))


def check_weight(weight: Any, size: int, where: str) -> None:
    """See that there is a weight for each sample, or for each of each output.

    Raises:
        DataError: There is not.
    """
    if isinstance(weight, Tensor) and weight.numel() == size:
        return
    found = [leaf for leaf in leaves(weight) if leaf is not None]
    if found and all(isinstance(leaf, Tensor) and leaf.numel() == size for leaf in found):
        return
    several = isinstance(weight, (tuple, list, Mapping)) and any(isinstance(leaf, Tensor) for leaf in found)
    raise DataError(
        f"The third item of a batch is sample weights ({size},){' for each output' if several else ''}; "
        f"{where} has {describe(weight)}. Several inputs go into a tuple of their own: ((a, b), y)."
    )


def to_tensors(tree: Any, float_dtype: torch.dtype, *, labels: bool = False, name: str = "A batch") -> Any:
    """Make arrays and tables tensors, and float64 the dtype of the net; other leaves stay as they are.

    Args:
        tree: Arrays, however nested.
        float_dtype: What float64 becomes.
        labels: Whether these are targets: integer arrays become int64.
        name: What holds them, for messages.

    Raises:
        DataError: A table holds something else than numbers, or an array is masked.
    """
    if type(tree) is Tensor:
        return tree.to(float_dtype) if tree.dtype == torch.float64 else tree
    return map_leaves(lambda leaf: _to_tensor(leaf, float_dtype, labels, name), tree)


def labelled_to_tensors(tree: Mapping[Any, Any], float_dtype: torch.dtype, name: str = "A batch") -> Any:
    """Do what `to_tensors` does with a dict of inputs and targets; the same dict where there is nothing to do."""
    values = {key: to_tensors(value, float_dtype, labels=key == "labels", name=name) for key, value in tree.items()}
    if type(tree) is dict or not isinstance(tree, MutableMapping):
        return values
    changed = {key: value for key, value in values.items() if value is not tree[key]}
    if not changed:
        return tree
    twin = copy.copy(tree)  # keeps what else it knows, such as .to()
    for key, value in changed.items():
        twin[key] = value
    return twin


def _to_tensor(leaf: Any, float_dtype: torch.dtype, labels: bool, name: str) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to(float_dtype) if leaf.dtype == torch.float64 else leaf
    if isinstance(leaf, (np.ndarray, np.generic)):
        return _array_to_tensor(leaf, float_dtype, labels, name) if leaf.dtype.kind in "fiubc" else leaf
    if is_table(leaf):
        return _array_to_tensor(to_array(leaf, name), float_dtype, labels, name).contiguous()
    if isinstance(leaf, Mapping) and hasattr(leaf, "to"):  # what a tokenizer gives
        return labelled_to_tensors(leaf, float_dtype, name)
    return leaf


def _array_to_tensor(array: Any, float_dtype: torch.dtype, labels: bool, name: str) -> Tensor:
    if type(array) is not np.ndarray and np.any(getattr(array, "mask", False)):
        raise DataError(f"{name} holds a masked array, and a net would see what is masked. Type array.filled(0).")
    tensor = _from_numpy(array)
    if labels and array.dtype.kind in "iu":
        return tensor.long()
    if tensor.dtype != torch.float64:
        return tensor
    # The values of a frame lie column by column; rows are taken 50 times as fast from rows, and a copy is made anyway
    layout = torch.contiguous_format if tensor.ndim == 2 else torch.preserve_format
    return tensor.to(float_dtype, memory_format=layout)


def _from_numpy(array: Any) -> Tensor:
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    if array.dtype == np.longdouble:  # torch knows nothing longer than float64
        array = array.astype(np.float64)
    if array.flags.writeable:
        return torch.as_tensor(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # pandas gives such; none is written
        return torch.as_tensor(array)


def count_samples(*trees: Any) -> int:
    """Return how many samples the first tensor that has dimensions holds; 1 where there is none."""
    for tree in trees:
        for leaf in leaves(tree) if type(tree) is not Tensor else (tree,):
            if isinstance(leaf, Mapping):  # what a tokenizer gives: it has .to() itself
                return count_samples(*leaf.values())
            if isinstance(leaf, PackedSequence):
                return int(leaf.batch_sizes[0])
            if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim:
                return int(leaf.shape[0])
    return 1
