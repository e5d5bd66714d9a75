"""Images of the data, and what a model says about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Literal

from kerastorch.data import Batch
from kerastorch.errors import DataError
from kerastorch.isolate import random_state_kept
from kerastorch.metrics.task import Task
from kerastorch.plot.images import grid
from kerastorch.plot.outcome import IGNORED, answers, check_model, looks_like, task_of, truths
from kerastorch.plot.reading import Classes, called, check_arguments, classes_of, labels_in, read, some, unbatched
from kerastorch.rollback import generators_kept

_READ_AT_ONCE = 64
_Pair = tuple[Batch, Any]
_Cell = tuple[Any, str, bool | None]


def samples(data: Any, n: int = 9, classes: Classes | None = None, *, seed: int | None = 0) -> Any:
    """Draw images with their labels: the first look at the data.

    Images are gray or in colour, `(C, H, W)`, `(H, W, C)` or `(H, W)`, of any dtype, or those of PIL. Normalised ones
    are scaled back so that they can be seen. Random numbers are afterwards as they were. Of what makes its own batches,
    the first are read; an iterator that can be read only once has lost them.

    Example:
        >>> kt.plot.samples(torchvision.datasets.CIFAR10("data"))

    Args:
        data: A Dataset, tensors or arrays `(x, y)`, a DataLoader, or any other data that `fit` takes.
        n: How many.
        classes: Names of the classes; by default `data.classes`, if there is such, else numbers.
        seed: What chooses among the samples of a Dataset or of tensors; None for the first ones.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        DataError: There are no images.
        MissingPackageError: matplotlib is not installed.
    """
    check_arguments(n, classes)
    names = classes_of(data, classes)
    with random_state_kept(), generators_kept(data):
        pairs = some(data, n, seed)
    if not pairs:
        raise DataError("There are no samples to draw: data is empty, or an iterator that was read before.")
    titles = [called(label, names) for _, label in pairs]
    return grid([image for image, _ in pairs], titles, [None] * len(pairs), purpose="kt.plot.samples")


def predictions(
    model: Any,
    data: Any,
    classes: Classes | None = None,
    n: int = 9,
    *,
    only: Literal["wrong"] | None = None,
    seed: int | None = 0,
) -> Any:
    """Draw images with what a classifier says they are, and how sure it is.

    Where it is wrong there is a frame, and below its answer the true class. Without labels in the data only its answers
    are shown; a label of -100, or the one that the loss ignores, is none.

    Example:
        >>> kt.plot.predictions(model, ds_val, only="wrong")

    Args:
        model: A `kerastorch.Model` that gives scores of classes `(N, C)`, or of one class `(N,)` or `(N, 1)`; logits or
            probabilities, as the loss that it was compiled with tells. Without one, if all of the first `n` are within
            0 and 1 they are taken for probabilities.
        data: As for `samples`, in the form that the model takes.
        classes: As for `samples`.
        n: How many.
        only: `"wrong"` for those that it is wrong about; the data are read until there are `n`.
        seed: As for `samples`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        TypeError: The model cannot predict.
        DataError: There are no images; or nothing that it is wrong about, where only that is wanted.
        MismatchError: The model is no classifier, or a sample has several labels.
        ValueError: Outputs are NaN.
        MissingPackageError: matplotlib is not installed.
    """
    check_arguments(n, classes)
    check_model(model, "kt.plot.predictions")
    if only not in (None, "wrong"):
        raise ValueError(f"only is 'wrong' or None; got {only!r}.")
    names = classes_of(data, classes)
    size, count = (n, n) if only is None else (_READ_AT_ONCE, None)
    told = task_of(model)
    with random_state_kept(), generators_kept(data), closing(read(data, size, count, seed)) as batches:
        pairs: Iterator[_Pair] = ((batch, model.predict([(batch.x,)])) for batch in batches)
        if told.outputs is None:
            first = _first(pairs, n)
            told = replace(told, outputs=looks_like(output for _, output in first))
            pairs = chain(first, pairs)
        cells = (cell for pair in pairs for cell in _cells(*pair, told, names, needs_label=only is not None))
        found = list(islice((cell for cell in cells if only is None or cell[2] is False), n))
    if not found:
        wrong = "" if only is None else ", or the model is right about every sample"
        raise DataError(f"There is nothing to draw: data is empty, or an iterator that was read before{wrong}.")
    images, titles, right = zip(*found, strict=True)
    return grid(images, titles, right, purpose="kt.plot.predictions")


def _first(pairs: Iterator[_Pair], n: int) -> list[_Pair]:
    """Read the batches that hold the first `n` samples."""
    found, count = [], 0
    while count < n and (pair := next(pairs, None)) is not None:
        found.append(pair)
        count += pair[0].size
    return found


def _cells(batch: Batch, output: Any, told: Task, classes: Classes | None, *, needs_label: bool) -> list[_Cell]:
    """Return image, title and whether the model is right about it, for each sample of a batch."""
    labels, sure, count = answers(output, told.outputs)
    known, target = [None] * len(labels), labels_in(batch)
    if target is not None or needs_label:
        known = truths(target, output, len(labels), count, told.ignore_index).tolist()
    cells: list[_Cell] = []
    for (image, _), label, probability, truth in zip(
        unbatched(batch), labels.tolist(), sure.tolist(), known, strict=True
    ):
        title = f"{called(label, classes)}  {_percent(probability)}"
        if truth == IGNORED:
            title += "\nnot labelled"
        elif truth not in (None, label):
            title += f"\nis {called(truth, classes)}"
        cells.append((image, title, None if truth in (None, IGNORED) else truth == label))
    return cells


def _percent(probability: float) -> str:
    return ">99 %" if probability > 0.995 else f"{100 * probability:.0f} %"
