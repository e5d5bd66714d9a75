"""The labels of a data set, read as cheaply as it allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from kerastorch import isolate
from kerastorch.data.batch import to_tensors, unpack
from kerastorch.data.kinds import (
    is_arrays,
    is_dataset,
    is_graph,
    is_labelled,
    is_one_shot,
    makes_own_batches,
    plain,
    sample_count,
    unusable,
)
from kerastorch.data.order import check_rows
from kerastorch.data.source import common_length
from kerastorch.data.told import as_tensor, told_labels
from kerastorch.errors import DataError
from kerastorch.rollback import generators_kept
from kerastorch.tree import describe

MOST_CLASSES = 2**24  # a table of more is no table of classes
_READ_AT_ONCE = 64
_KEPT_AT_ONCE = 2**16  # numbers; images of labels are large
_WHERE_TARGETS_ARE = "They come second, (x, y), or in a dict as 'labels'."


def labels_of(data: Any, *, name: str, rows: Tensor | None = None) -> Tensor:
    """Return all labels of a data set. Random numbers are afterwards as they were.

    Arrays are looked at; a Dataset tells its labels by `targets`, `labels` or its columns where these agree with what
    it gives, else every sample is read, and so is every batch of a DataLoader that does not simply go through its data.

    Args:
        data: Data of any form that can be read more than once.
        name: What the user calls it, for messages.
        rows: Numbers of the samples to look at, int64 `(M,)`; all by default.

    Returns:
        int64: `(N,)` for labels `(N,)`, `(N, 1)` or one-hot rows `(N, C)`; labels of pixels or words `(N, ...)` one
        after the other.

    Raises:
        DataError: There are no targets, several for a sample, or they are no labels; or the data can be read only once.
    """
    with isolate.random_state_kept():
        pieces = list(_pieces(data, name, rows))
    if not pieces:
        raise DataError(f"{name} is empty: it has no labels.")
    return torch.cat(pieces)


def label_counts(data: Any, *, name: str, rows: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    """Return how often each label from 0 is there, int64 `(C,)`; memory does not grow with the data.

    Args:
        data: As for `labels_of`, and so are `name` and `rows`.
        name: What the user calls it.
        rows: The samples to look at.
        ignore_index: A label that is not counted.

    Raises:
        DataError: As for `labels_of`; or labels are below 0.
    """
    counts = torch.zeros(0, dtype=torch.int64)
    with isolate.random_state_kept():
        for piece in _pieces(data, name, rows):
            labels = piece[piece != ignore_index]
            if not len(labels):
                continue
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= MOST_CLASSES:
                raise DataError(
                    f"Labels are numbers of classes, 0, 1, 2 and so on; those of {name} hold {low} and {high}."
                )
            found = torch.bincount(labels, minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
    return counts


def _pieces(data: Any, name: str, rows: Tensor | None) -> Iterator[Tensor]:
    data = plain(data)
    if is_arrays(data):
        yield _of_arrays(data, name, rows)
    elif is_dataset(data) and not isinstance(data, IterableDataset):
        yield from _of_dataset(data, name, rows)
    else:
        _check_can_be_read(data, name, rows)
        if isinstance(data, DataLoader):
            yield from _of_loader(data, name)
        elif isinstance(data, IterableDataset):
            yield from _of_samples(data, name)
        else:
            yield from _of_batches([data] if is_graph(data) else data, name)


def _check_can_be_read(data: Any, name: str, rows: Tensor | None) -> None:
    kind = type(data).__name__
    if is_one_shot(data):
        raise DataError(
            f"{name} is a {kind}, which can be read once, and would be empty after its labels were read. "
            "Pass a list or a DataLoader."
        )
    if not isinstance(data, IterableDataset) and not makes_own_batches(data):
        raise DataError(unusable(data, name))
    if rows is not None:
        raise DataError(f"Rows of {name} were chosen, but it is a {kind}, which knows no samples by number.")


def _of_arrays(data: Any, name: str, rows: Tensor | None) -> Tensor:
    length = common_length(data if isinstance(data, tuple) else (data,), name)
    target = _target(data, name)
    target = _only(to_tensors(target, torch.float32, labels=True, name=name), name)
    if rows is not None:
        check_rows(rows, length, name)
        target = target[rows.to(target.device)]
    return _integers(target, name)


def _target(sample: Any, name: str) -> Any:
    """Return the target of a sample, or of all samples."""
    target = None
    if is_labelled(sample):
        target = sample["labels"]
    elif is_graph(sample):
        target = sample.y
    elif isinstance(sample, (tuple, list)) and not hasattr(sample, "to") and len(sample) > 1:
        target = sample[1]
    if target is None:
        raise DataError(f"{name} has no targets: it holds {describe(sample)}. {_WHERE_TARGETS_ARE}")
    return target


def _only(target: Any, name: str) -> Tensor:
    if isinstance(target, Tensor):
        return target
    raise DataError(
        f"Labels are one tensor or array; the targets of {name} are {describe(target)}. Say what is wanted by hand: "
        "stratify=labels, or class_weight={0: 1, 1: 5}."
    )


def _integers(target: Tensor, name: str) -> Tensor:
    """Return labels (N,) as int64: of rows, of one-hot rows, or of whatever each row holds."""
    target = target.detach().cpu()
    if not target.is_floating_point() and not target.is_complex() and target.dtype != torch.bool:
        return target.reshape(-1).long()
    in_rows = target.ndim == 2 and target.shape[1] > 1
    only_two = bool(((target == 0) | (target == 1)).all())
    if in_rows and _is_one_hot(target):
        return target.float().argmax(1)
    if only_two and not in_rows:  # as a loss of two classes takes them
        return target.reshape(-1).long()
    hint = "A row may have one class only." if only_two else "If they are: type y.long(), or y.astype('int64')."
    raise DataError(
        f"Labels are whole numbers, one-hot rows, or zeros and ones. The targets of {name} are none of these: "
        f"{describe(target)}. {hint}"
    )


def _is_one_hot(target: Tensor) -> bool:
    """Whether each row is one class, or the probabilities of classes."""
    if target.is_complex():
        return False
    rows = target.float()
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < 1e-3).all())


def _of_dataset(dataset: Any, name: str, rows: Tensor | None) -> Iterator[Tensor]:
    count = sample_count(dataset, name)
    if rows is not None:
        check_rows(rows, count, name)
    known = told_labels(dataset)
    if known is not None and _agrees(dataset, known, name):
        yield _integers(known if rows is None else known[rows], name)
    else:
        numbers = range(count) if rows is None else rows.tolist()
        yield from _of_samples(_samples(dataset, numbers), name)


def _samples(dataset: Any, numbers: Any) -> Iterator[Any]:
    if hasattr(dataset, "__getitems__"):  # many at once cost little more than one
        for start in range(0, len(numbers), _READ_AT_ONCE):
            yield from dataset.__getitems__(list(numbers[start : start + _READ_AT_ONCE]))
    else:
        yield from (dataset[number] for number in numbers)


def _agrees(dataset: Any, told: Tensor, name: str) -> bool:
    """Whether the first sample, one in the middle and the last have the labels that the Dataset tells."""
    for number in {0, len(dataset) // 2, len(dataset) - 1}:
        found, expected = as_tensor(_target(dataset[number], name)), told[number].cpu()
        if found is None or found.numel() != expected.numel():
            return False
        if not torch.equal(found.reshape(-1).double(), expected.reshape(-1).double()):
            return False
    return True


def _of_samples(samples: Iterable[Any], name: str) -> Iterator[Tensor]:
    waiting: list[Tensor] = []
    for sample in samples:
        target = _target(sample, name)
        label = as_tensor(target)
        if label is None:
            raise DataError(f"Labels are whole numbers; a sample of {name} has the target {describe(target)}.")
        if waiting and (len(waiting) * label.numel() >= _KEPT_AT_ONCE or label.shape != waiting[0].shape):
            yield _integers(torch.stack(waiting), name)
            waiting = []
        waiting.append(label)
    if waiting:
        yield _integers(torch.stack(waiting), name)


def _of_batches(batches: Iterable[Any], name: str) -> Iterator[Tensor]:
    for index, item in enumerate(batches):
        target = unpack(item, index, torch.float32).y
        if target is None:
            raise DataError(f"{name} has no targets: batch {index} holds {describe(item)}. {_WHERE_TARGETS_ARE}")
        yield _integers(_only(target, name), name)


def _of_loader(loader: DataLoader[Any], name: str) -> Iterator[Tensor]:
    if _goes_through(loader):
        yield from _of_dataset(loader.dataset, name, None)
        return
    with generators_kept(loader):
        yield from _of_batches(loader, name)


def _goes_through(loader: Any) -> bool:
    """Whether an epoch of a DataLoader is its Dataset, each sample once and as it is."""
    sampler, batches = loader.sampler, loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or loader.collate_fn is not default_collate:
        return False
    if type(batches) is not BatchSampler or batches.sampler is not sampler:
        return False
    in_order = type(sampler) is SequentialSampler and not batches.drop_last
    shuffled = type(sampler) is RandomSampler and not sampler.replacement
    return (in_order or shuffled) and len(loader.sampler) == len(loader.dataset)
