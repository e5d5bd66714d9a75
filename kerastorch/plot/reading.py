"""A few samples of any kind of data, and what their labels are called."""

from __future__ import annotations

import textwrap
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kerastorch.data import Batch, adapt, makes_own_batches
from kerastorch.data.batch import count_samples
from kerastorch.data.kinds import is_arrays, is_dataset
from kerastorch.errors import DataError
from kerastorch.history import format_number
from kerastorch.plot.images import is_image
from kerastorch.tree import describe, leaves

Classes = Sequence[str] | Mapping[int, str]
_UNLABELLED = -100  # by the losses of torch
_LABELS = ("label", "labels", "target", "targets", "y", "fine_label")


def check_arguments(n: int, classes: Any) -> None:
    """Look at what all pictures of samples take.

    Raises:
        ValueError: `n` is below 1.
        TypeError: `classes` is text, or has no names by number.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is a number of images, 1 or more; got {n!r}.")
    if isinstance(classes, str) or not isinstance(classes, (Sequence, Mapping, type(None))):
        raise TypeError(f"classes is a list of names, or a dict of them by number; got {classes!r}.")


def some(data: Any, n: int, seed: int | None) -> list[tuple[Any, Any]]:
    """Return at most `n` images with their labels, or None; a Dataset is asked for these only, and not for tensors."""
    if not is_dataset(data):
        pairs = (pair for batch in read(data, n, n, seed) for pair in unbatched(batch))
        return list(islice(pairs, n))
    items = data if isinstance(data, IterableDataset) else (data[row] for row in _rows(len(data), n, seed).tolist())
    return [_sample(item) for item in islice(items, n)]


def read(data: Any, batch_size: int, n: int | None, seed: int | None) -> Generator[Batch, None, None]:
    """Yield batches of the samples that `seed` chooses, in which float64 is left as it is.

    Args:
        data: Of any form.
        batch_size: Samples in each, where the data do not make their own batches.
        n: How many samples to choose; None for all.
        seed: What chooses; None for the first ones.
    """
    rows, size = None, None if makes_own_batches(data) else batch_size
    by_number = is_dataset(data) and not isinstance(data, IterableDataset)
    if size is not None and (by_number or is_arrays(data)):
        count = len(data) if by_number else count_samples(data if isinstance(data, tuple) else (data,))
        rows = _rows(count, count if n is None else n, seed)
    yield from adapt(data, name="data", float_dtype=torch.float64, batch_size=size, rows=rows).batches(0)


def _rows(count: int, n: int, seed: int | None) -> Tensor:
    if seed is None:
        return torch.arange(min(n, count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n]


def _sample(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        label = next((item[key] for key in _LABELS if key in item), None)
        return _image(item), label
    parts = item if isinstance(item, (tuple, list)) else (item,)
    return _image(parts[0] if parts else None), parts[1] if len(parts) > 1 else None


def _image(part: Any) -> Any:
    found = next((leaf for leaf in leaves(part) if is_image(leaf)), None)
    if found is None:
        raise DataError(f"There is no image in a sample: {describe(part)}. Images are (H, W), (C, H, W) or (H, W, C).")
    return found


def unbatched(batch: Batch) -> Iterator[tuple[Any, Any]]:
    """Yield image and label of each sample of a batch.

    Raises:
        DataError: It holds no images.
    """
    images = next((leaf for leaf in leaves(batch.x) if isinstance(leaf, Tensor) and leaf.ndim >= 3), None)
    if images is None:
        raise DataError(
            f"There are no images in {describe(batch.x)}. Reshape rows of pixels, such as x.reshape(-1, 1, 28, 28)."
        )
    labels = labels_in(batch)
    known = labels if isinstance(labels, Tensor) and labels.ndim else [None] * len(images)
    yield from zip(images, known, strict=False)


def labels_in(batch: Batch) -> Any:
    """Return the targets of a batch, or what stands in a dict under a name that labels have; None for neither."""
    if batch.y is None and isinstance(batch.x, Mapping):
        return next((batch.x[key] for key in _LABELS if key in batch.x), None)
    return batch.y


def classes_of(data: Any, classes: Classes | None) -> Classes | None:
    """Return the names that were given, else those that the data know: torchvision's, and those of Hugging Face."""
    while classes is None and data is not None:
        columns = getattr(data, "features", None)
        named = columns if isinstance(columns, Mapping) else {}
        found = (getattr(named[key], "names", None) for key in _LABELS if key in named)
        classes = getattr(data, "classes", None) or next(filter(None, found), None)
        data = getattr(data, "dataset", None)
    return classes if isinstance(classes, (Sequence, Mapping)) else None


def called(label: Any, classes: Classes | None) -> str:
    """Say a label in words; an empty string for none, and for what is no label, such as a mask.

    Example:
        >>> called(torch.tensor(1), ["cat", "dog"]), called(1, None), called(torch.tensor([0, 1, 1]), None)
        ('dog', '1', '1, 2')
    """
    if isinstance(label, str) or label is None:
        return _folded(label or "")
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        label = label.tolist()
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, list):
        marked = all(value in (0, 1) for value in label)  # a mask is a list of lists
        return _folded(", ".join(_name(place, classes) for place, value in enumerate(label) if value)) if marked else ""
    return _folded(_name(label, classes))


def _name(label: Any, classes: Classes | None) -> str:
    if isinstance(label, float) and not label.is_integer():
        return format_number(label)
    if not isinstance(label, (bool, int, float)):
        return ""
    number = int(label)
    if classes is not None and (number in classes if isinstance(classes, Mapping) else 0 <= number < len(classes)):
        return str(classes[number])
    if label == _UNLABELLED and isinstance(label, int):
        return "not labelled"
    return str(number)


def _folded(text: str) -> str:
    return textwrap.fill(textwrap.shorten(text, 60, placeholder=" ..."), 20)
