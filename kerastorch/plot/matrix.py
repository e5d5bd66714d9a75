"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kerastorch.errors import DataError, MismatchError, did_you_mean, needs
from kerastorch.isolate import random_state_kept
from kerastorch.plot.outcome import IGNORED, answers, check_model, task_of, truths
from kerastorch.plot.reading import Classes, called, check_arguments, classes_of, labels_in, read
from kerastorch.rollback import generators_kept

Normalize = Literal["true", "pred", "all"]
_NUMBERED = 20  # classes; numbers in more cells cannot be read
_NAMED = 50
_READ_AT_ONCE = 64


def confusion_matrix(
    matrix: Any, data: Any = None, classes: Classes | None = None, normalize: Normalize | None = None
) -> Any:
    """Draw how often each class was taken for each other: rows are true classes, columns are predictions.

    Example:
        >>> kt.plot.confusion_matrix(model, ds_val, normalize="true")
        >>> kt.plot.confusion_matrix(history["val_confusion_matrix"][-1])  # metrics=["confusion_matrix"]

    Args:
        matrix: A matrix `(C, C)`, as of the metric `"confusion_matrix"`; or a `kerastorch.Model` that gives scores of
            classes, to predict `data` with. The loss that it was compiled with tells whether they are logits; without
            one, all that are within 0 and 1 are taken for probabilities.
        data: Data with labels, in any form that `fit` takes; for a model.
        classes: Names of the classes; by default `data.classes`, if there is such, else numbers.
        normalize: Divide by the sum of each row (`"true"`), of each column (`"pred"`) or of all (`"all"`).

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        TypeError: Neither a matrix nor a model with data.
        MismatchError: The matrix is not square, the model is no classifier, or a sample has several labels.
        ValueError: `normalize` is something else, there are fewer names than classes, or outputs are NaN.
        MissingPackageError: matplotlib is not installed.
    """
    check_arguments(1, classes)
    if normalize is not None and normalize not in get_args(Normalize):
        hint = did_you_mean(str(normalize), get_args(Normalize))
        raise ValueError(f"normalize is 'true', 'pred', 'all' or None; got {normalize!r}.{hint}")
    cells = _counted(matrix, data) if data is not None else _given(matrix)
    names = classes_of(data, classes)
    if classes is not None and len(classes) != len(cells):
        raise ValueError(f"There are {len(cells)} classes, but {len(classes)} names.")
    if normalize is not None:
        dims = {"true": (1,), "pred": (0,), "all": (0, 1)}[normalize]
        cells = (cells / cells.sum(dims, keepdim=True)).nan_to_num(0.0)
    return _drawn(cells, [called(label, names) for label in range(len(cells))])


def _given(matrix: Any) -> Tensor:
    if callable(getattr(matrix, "predict", None)):
        raise TypeError("With a model, kt.plot.confusion_matrix needs data with labels: confusion_matrix(model, data).")
    try:
        cells = torch.as_tensor(matrix).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"matrix is numbers (C, C) or a kerastorch.Model; got a {type(matrix).__name__}.") from error
    if cells.ndim != 2 or cells.shape[0] != cells.shape[1] or not len(cells):
        hint = " Those of several labels are drawn one by one: matrix[0]." if cells.ndim == 3 else ""
        raise MismatchError(f"A confusion matrix is (C, C); got {tuple(cells.shape)}.{hint}")
    return cells


def _counted(model: Any, data: Any) -> Tensor:
    check_model(model, "kt.plot.confusion_matrix with data")
    targets: list[Any] = []

    def inputs() -> Iterator[tuple[Any]]:
        for batch in read(data, _READ_AT_ONCE, None, None):
            targets.append(labels_in(batch))
            yield (batch.x,)

    with random_state_kept(), generators_kept(data):
        output = model.predict(inputs())
    told = task_of(model)
    labels, _, count = answers(output, told.outputs)
    missing = next((target for target in targets if not isinstance(target, Tensor)), None)
    joined = missing if missing is not None or targets[0] is None else torch.cat(targets)
    truth = truths(joined, output, len(labels), count, told.ignore_index)
    labels, truth = labels[truth != IGNORED], truth[truth != IGNORED]
    if not len(truth):
        ignored = IGNORED if told.ignore_index is None else told.ignore_index
        raise DataError(f"Every label is {ignored}, which is ignored.")
    return torch.bincount(truth * count + labels, minlength=count * count).reshape(count, count).double()


def _drawn(cells: Tensor, names: list[str]) -> Any:
    needs("matplotlib", purpose="kt.plot.confusion_matrix")
    from kerastorch.curves import picture

    count = len(cells)
    numbered = count <= _NUMBERED
    side = min(max(3.2, 1.6 + 0.48 * count), 11) if numbered else 8.5
    figure = picture.new(side + (0 if numbered else 1), side)
    axes = figure.add_subplot()
    image = axes.imshow(cells.numpy(), cmap="Blues", vmin=0, vmax=max(float(cells.max()), 1e-12))
    _add_names(axes, names)
    axes.set_xlabel("predicted", fontsize=11)
    axes.set_ylabel("true", fontsize=11)
    axes.spines[:].set_visible(False)
    counts = bool((cells == cells.round()).all()) and float(cells.sum()) > count
    if counts:
        share = float(cells.trace() / cells.sum())
        axes.set_title(f"{100 * share:.1f} % of {cells.sum():,.0f} are right", fontsize=11)
    if numbered:
        _add_numbers(axes, image, cells, counts=counts)
    else:
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def _add_names(axes: Any, names: list[str]) -> None:
    count = len(names)
    if count > _NAMED:  # every tenth, so that they do not lie on each other
        axes.set_xticks(range(0, count, 10))
        axes.set_yticks(range(0, count, 10))
        return
    size = 10 if count <= _NUMBERED else 7
    turned = 90 if max(map(len, names)) > (3 if count > 10 else 7) else 0
    axes.set_xticks(range(count), names, rotation=turned, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0)


def _add_numbers(axes: Any, image: Any, cells: Tensor, *, counts: bool) -> None:
    size = 11 if len(cells) <= 12 else 8
    for row, values in enumerate(cells.tolist()):
        for column, value in enumerate(values):
            red, green, blue, _ = image.cmap(image.norm(value))
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.52  # ITU-R BT.601
            colour = "white" if is_dark else ("#9aa5b1" if value == 0 else "#1a1a1a")
            text = f"{value:.0f}" if counts or value == 0 else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
