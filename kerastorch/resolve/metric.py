"""Metrics by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from kerastorch.errors import did_you_mean
from kerastorch.losses import Loss
from kerastorch.metrics import Accuracy, MeanAbsoluteError, MeanOf, MeanSquaredError, Metric, TorchMetric

_METRIC_NAMES = {"acc": "accuracy", "mean_squared_error": "mse", "mean_absolute_error": "mae"}
_TAKEN = ("loss", "epoch", "lr", "seconds", "samples_per_second")
_METRICS = ("accuracy", "mse", "mae")
_ON_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
_NAMES_ON_LOGITS = ("with_logits", "WithLogits", "multilabel_soft_margin")


def metrics(spec: Any, loss: Loss | None) -> dict[str, Metric]:
    """Return metrics by name.

    Args:
        spec: `{name: metric}` or a list of metrics. A metric is a name (`"accuracy"`, `"mse"`, `"mae"`), a function
            `f(y_pred, y_true)`, a `kerastorch.metrics.Metric`, or an object of torchmetrics.
        loss: Tells whether outputs are logits, and which label is ignored.

    Raises:
        ValueError: A name is unknown, given twice, or stands for something else in the history.
        TypeError: A metric is of another kind.
    """
    if spec is None:
        return {}
    pairs = list(spec.items()) if isinstance(spec, Mapping) else [(_metric_name(item), item) for item in _listed(spec)]
    found: dict[str, Metric] = {}
    for name, item in pairs:
        if name in _TAKEN or name in found or name.startswith("val_"):
            taken = "is there twice" if name in found else "stands for something else in the history"
            raise ValueError(f"The metric name {name!r} {taken}; give another: metrics={{'my_{name}': ...}}.")
        found[name] = _metric(item, name, loss)
    return found


def _listed(spec: Any) -> list[Any]:
    return list(spec) if isinstance(spec, (list, tuple)) else [spec]


def _metric_name(item: Any) -> str:
    if isinstance(item, str):
        return item
    name = getattr(item, "__name__", type(item).__name__)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)  # BinaryAUROC: binary_auroc
    return words.lower().strip("_<>") or "metric"


def _metric(item: Any, name: str, loss: Loss | None) -> Metric:
    if isinstance(item, str):
        return _named_metric(item, loss)
    if isinstance(item, type):
        raise TypeError(f"The metric {name!r} is the class {item.__name__}; pass an object: {item.__name__}(...).")
    if isinstance(item, Metric):
        return item
    if all(hasattr(item, verb) for verb in ("update", "compute", "reset")):
        return TorchMetric(item, name)
    if callable(item):
        return MeanOf(item, name)
    raise TypeError(f"The metric {name!r} is a name, a function f(y_pred, y_true) or a metric object; got {item!r}.")


def _named_metric(name: str, loss: Loss | None) -> Metric:
    known = _METRIC_NAMES.get(name.lower(), name.lower())
    if known not in _METRICS:
        names = (*_METRICS, *_METRIC_NAMES)
        raise ValueError(f"Unknown metric {name!r}.{did_you_mean(name, names)} There are {', '.join(_METRICS)}.")
    if known == "mse":
        return MeanSquaredError()
    if known == "mae":
        return MeanAbsoluteError()
    if loss is None:
        return Accuracy()
    on_logits = isinstance(loss.function, _ON_LOGITS) or any(part in loss.name for part in _NAMES_ON_LOGITS)
    threshold = 0.0 if on_logits else 0.5
    ignored = loss.ignore_index if loss.by_label else None
    return Accuracy(threshold=threshold, classes=loss.by_label, ignore_index=ignored)
