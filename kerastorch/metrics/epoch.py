"""Functions of a whole epoch, such as those of scikit-learn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from kerastorch.errors import MismatchError, did_you_mean
from kerastorch.metrics.base import Metric, On, Rows, Sum, Value, as_value
from kerastorch.metrics.forms import are_counted, as_columns, as_rows, form, ignored, marked, probabilities, spread
from kerastorch.metrics.task import Task, filled
from kerastorch.tree import describe

Given = Literal["raw", "labels", "probabilities"]


class Epoch(Metric):
    """A function that is called once an epoch, with all targets and all outputs: any metric of scikit-learn.

    **The targets come first**: `function(y_true, y_pred)`, as scikit-learn has it. A plain function among the metrics
    is called the other way round, batch by batch, as torch has it: `f(y_pred, y_true)`. Both are NumPy arrays here. If
    batches have sample weights and the function takes `sample_weight`, they are handed on.

    What the function is given:

    - `"raw"`: outputs and targets `(N, ...)` as they are.
    - `"labels"`: of scores `(N, C, ...)` the largest, `(M,)`, M being every label of every sample; of values `(N,)`,
      `(N, 1)` or `(N, L)` what is above the threshold as 1, `(N,)` or `(N, L)`.
    - `"probabilities"`: of scores `(N, C, ...)` their softmax `(M, C)`, but for two classes that of the second, `(M,)`;
      of values their sigmoid `(N,)` or `(N, L)`. Values are taken for logits if the loss works on logits, or if nobody
      knows and one is not between 0 and 1.

    Outputs of the epoch stay on their device until its end. It is not shown before.

    Args:
        function: Gives one number, an array, or several numbers by name.
        outputs: What it is given.
        name: What to call it in messages.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.

    Raises:
        ValueError: `outputs` is something else.

    Example:
        >>> from sklearn.metrics import cohen_kappa_score
        >>> model.compile("cross_entropy", metrics={"kappa": kt.metrics.Epoch(cohen_kappa_score, outputs="labels")})
    """

    running = False

    def __init__(
        self, function: Callable[..., Any], *, outputs: Given = "raw", name: str | None = None, on: On = "both"
    ) -> None:
        super().__init__(on=on)
        if outputs not in get_args(Given):
            hint = did_you_mean(str(outputs), get_args(Given))
            raise ValueError(f"outputs is 'raw', 'labels' or 'probabilities'; got {outputs!r}.{hint}")
        self._function = function  # not `function`, which in other metrics has outputs first
        self.outputs = outputs
        self.name = getattr(function, "__name__", type(function).__name__) if name is None else name
        self._task: Task | None = None

    def bound(self, task: Task) -> Epoch:
        """Return a copy that knows what the loss tells."""
        return filled(self, _task=task)

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return outputs, targets and weights."""
        if self.outputs == "raw":
            return _raw(output, target, weight, f"Epoch({self.name})")
        task = self._task or Task()
        values, truth, by_class = form(output, target, task.labels, f"Epoch({self.name})")
        weights = _no_weights(truth) if weight is None else spread(weight, truth)
        labels = marked(truth, ignored(task.ignore_index, truth, target), by_class=by_class)
        if by_class:
            given = values.argmax(1).reshape(-1) if self.outputs == "labels" else as_rows(values)
            return Rows(given), Rows(labels.reshape(-1)), Rows(weights.reshape(-1))
        columns = as_columns(values, f"Epoch({self.name})")
        given = columns > task.threshold if self.outputs == "labels" else columns
        if weight is not None:
            weights = as_rows(weights.reshape(columns.shape))[:, 0]
        return Rows(as_rows(given)), Rows(as_rows(labels.reshape(columns.shape))), Rows(weights)

    def value(self, sums: Sequence[Any]) -> Value:
        """Call the function.

        Raises:
            MismatchError: What it gives is no value, or its arguments cannot be made.
        """
        given, truth, weight = sums
        if len(weight) not in (0, len(truth)):
            raise MismatchError(
                f"The metric {self.name!r} got sample weights with some batches, and none with others. Give all "
                "batches weights, ones where nothing else is known, or none."
            )
        if self.outputs != "raw":
            given, truth, weight = self._readied(given, truth, weight)
        if not len(truth):
            return math.nan
        weights = {"sample_weight": _array(weight)} if len(weight) and _takes_weights(self._function) else {}
        return as_value(self._function(_array(truth), _array(given), **weights), f"The metric {self.name!r}")

    def _readied(self, given: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leave out what is ignored; make labels, or probabilities."""
        by_class, counts = truth.ndim == 1, are_counted(truth)
        if not by_class and truth.shape[1] > 1 and not counts.all():
            raise MismatchError(
                f"The metric {self.name!r} gets whole rows of {truth.shape[1]} labels, from which single ignored ones "
                "cannot be taken. Type outputs='raw', and leave them out in the function."
            )
        counts = counts if by_class else counts.all(1)
        given, truth, weight = given[counts], truth[counts].long(), weight[counts] if len(weight) else weight
        if self.outputs == "labels":
            given = given.long()
        else:
            given = probabilities(given, (self._task or Task()).outputs, by_class=by_class)
            given = given[:, -1] if by_class and given.shape[1] <= 2 else given
        return (given, truth, weight) if by_class else (given.squeeze(1), truth.squeeze(1), weight)


def _raw(output: Any, target: Any, weight: Tensor | None, what: str) -> tuple[Rows, Rows, Rows]:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or output.shape[:1] != target.shape[:1]:
        raise MismatchError(
            f"{what} needs a tensor of outputs (N, ...) and one of targets (N, ...); got output {describe(output)}, "
            f"target {describe(target)}. For one of several outputs type OnOutput(..., key)."
        )
    return Rows(output), Rows(target), Rows(_no_weights(target) if weight is None else weight.reshape(-1))


def _no_weights(rows: Tensor) -> Tensor:
    return torch.empty(0, device=rows.device)


def _takes_weights(function: Callable[..., Any]) -> bool:
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins tell nothing
        return False


def _array(rows: Tensor) -> np.ndarray[Any, Any]:
    return (rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows).numpy()
