"""Metrics by name."""

from __future__ import annotations

import re
from collections.abc import Callable

from kerastorch.errors import did_you_mean
from kerastorch.metrics.accuracy import Accuracy
from kerastorch.metrics.base import Metric
from kerastorch.metrics.confusion import ConfusionMatrix
from kerastorch.metrics.mean import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from kerastorch.metrics.perplexity import Perplexity
from kerastorch.metrics.ranking import AUROC, AveragePrecision
from kerastorch.metrics.scores import F1, Dice, IoU, Precision, Recall

_METRICS: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "top5": lambda: Accuracy(top_k=5),
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "iou": IoU,
    "dice": Dice,
    "confusion_matrix": ConfusionMatrix,
    "auroc": AUROC,
    "average_precision": AveragePrecision,
    "mae": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "rmse": RootMeanSquaredError,
    "r2": R2,
    "perplexity": Perplexity,
}
_ALIASES = {
    "acc": "accuracy",
    "binary_accuracy": "accuracy",
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
    "top_k_categorical_accuracy": "top5",  # 5 is Keras's k
    "sparse_top_k_categorical_accuracy": "top5",
    "f1_score": "f1",
    "jaccard": "iou",
    "mean_iou": "iou",
    "auc": "auroc",
    "roc_auc": "auroc",
    "ap": "average_precision",
    "mean_absolute_error": "mae",
    "mean_squared_error": "mse",
    "root_mean_squared_error": "rmse",
    "r2_score": "r2",
}

NAMES = tuple(_METRICS)


def named(name: str) -> Metric:
    """Return the metric of a name, in any spelling: `"f1"`, `"F1"`, `"mean_squared_error"`, `"MeanSquaredError"`.

    `"top5"` and `"top_5_accuracy"` stand for the accuracy of any number of guesses.

    Raises:
        ValueError: The name is unknown.
        MissingPackageError: The metric needs a package that is not installed.
    """
    bare = _bare(name)
    guesses = re.fullmatch(r"top([1-9]\d*)(acc(uracy)?)?", bare)
    if guesses:
        return Accuracy(top_k=int(guesses[1]))
    known = {_bare(alias): made for alias, made in _ALIASES.items()} | {_bare(short): short for short in _METRICS}
    if bare not in known:
        hint = did_you_mean(name, (*_METRICS, *_ALIASES))
        raise ValueError(f"Unknown metric {name!r}.{hint} There are {', '.join(_METRICS)}.")
    return _METRICS[known[bare]]()


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
