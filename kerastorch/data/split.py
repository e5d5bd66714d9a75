"""Some samples to train on, the others to validate on."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kerastorch.data.kinds import is_arrays, is_dataset, makes_own_batches, plain, sample_count, unusable
from kerastorch.data.labels import labels_of
from kerastorch.data.order import seeded
from kerastorch.data.source import common_length
from kerastorch.errors import DataError


def split(
    data: Any, fraction: float, *, stratify: Any = False, seed: int | None = None, name: str = "dl_train"
) -> tuple[Tensor, Tensor]:
    """Choose samples at random to validate on; the others are for training.

    The choice depends on nothing but the arguments, so that the next `fit` on the same data has the same: another one
    would validate on what was trained on. As many are chosen as by scikit-learn's `train_test_split`.

    Args:
        data: Arrays, in any form that `fit` takes, or a Dataset with `__len__`.
        fraction: What part to validate on, above 0 and below 1.
        stratify: Whether each class has the same share in both parts, by the labels of the data; or one label of any
            kind per sample, `(N,)`.
        seed: Another one, another choice.
        name: What the user calls the data, for messages.

    Returns:
        Numbers of the samples to train on and of those to validate on, int64, both in ascending order.

    Raises:
        DataError: The data cannot be split so; the text says what to type.
    """
    if not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise DataError(f"The part of {name} to validate on is above 0 and below 1, such as 0.2; got {fraction!r}.")
    count = _count(data, fraction, name)
    chosen = math.ceil(fraction * count)
    if chosen == count:
        raise DataError(
            f"{name} has {count} sample{'' if count == 1 else 's'}, and {fraction} of them to validate on leaves none "
            "to train on."
        )
    order = torch.randperm(count, generator=seeded(seed or 0, 0))
    if stratify is not None and not _is(False, stratify):
        order = _spread(order, _labels(data, stratify, count, name), chosen, name)
    validates = torch.zeros(count, dtype=torch.bool)
    validates[order[:chosen]] = True
    # Ascending: training shuffles anyway, and where it is told not to, the order of the data stays
    return (~validates).nonzero().flatten(), validates.nonzero().flatten()


def _count(data: Any, fraction: float, name: str) -> int:
    data = plain(data)
    if is_arrays(data):
        return common_length(data if isinstance(data, tuple) else (data,), name)
    if isinstance(data, IterableDataset):
        raise DataError(
            f"{name} is the IterableDataset {type(data).__name__}, whose samples cannot be chosen by number. Make one "
            "for each part, and pass them as dl_train and dl_val."
        )
    if makes_own_batches(data):
        raise DataError(
            f"{name} is a {type(data).__name__}, whose samples cannot be chosen by number. Split the Dataset: "
            f"torch.utils.data.random_split(dataset, [{1 - fraction:g}, {fraction:g}]), and pass each part as data."
        )
    if not is_dataset(data):
        raise DataError(unusable(data, name))
    return sample_count(data, name)


def _is(value: bool, stratify: Any) -> bool:
    return isinstance(stratify, (bool, np.bool_)) and bool(stratify) is value


def _labels(data: Any, stratify: Any, count: int, name: str) -> Any:
    """Return one label per sample, of any kind, as an array `(N,)`."""
    if _is(True, stratify):
        labels = labels_of(data, name=name).numpy()
    else:
        labels = np.asarray(stratify.cpu() if isinstance(stratify, Tensor) else stratify)
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (count,):
        raise DataError(
            f"stratify needs one label for each of the {count} samples of {name}; got labels of the shape "
            f"{labels.shape}. Type stratify=labels with an array ({count},)."
        )
    return labels


def _spread(order: Tensor, labels: Any, chosen: int, name: str) -> Tensor:
    """Move to the front the first ones of each class, `chosen` in all."""
    values, numbers = np.unique(labels, return_inverse=True)
    classes = torch.as_tensor(numbers)
    counts = torch.bincount(classes)
    single, fewest = counts.argmin(), min(chosen, len(order) - chosen)
    if counts[single] == 1:
        raise DataError(
            f"The class {values[single]} of {name} has one sample, which cannot be in both parts. "
            "Take it out, or leave stratify out."
        )
    if len(counts) > fewest:
        raise DataError(
            f"{name} has {len(counts)} classes, but one part would have {fewest} samples, and each part needs one of "
            "each class. Choose another fraction, or leave stratify out."
        )
    grouped = order[classes[order].argsort(stable=True)]
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[classes[grouped]]
    is_first = place < _shares(counts, chosen)[classes[grouped]]
    return torch.cat([grouped[is_first], grouped[~is_first]])


def _shares(counts: Tensor, chosen: int) -> Tensor:
    """Return how many of each class to choose: by largest remainder, but neither none nor all of a class."""
    ideal = counts.double() * chosen / counts.sum()
    shares = ideal.floor().clamp(min=1).long()
    while (missing := chosen - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        full = shares == counts - 1 if step > 0 else shares == 1
        gain = ((ideal - shares) * step).masked_fill(full, -torch.inf)
        most = gain.argsort(descending=True, stable=True)
        shares[most[: min(abs(missing), int((~full).sum()))]] += step
    return shares
