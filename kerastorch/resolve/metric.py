"""Metrics by name, and what the loss tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from kerastorch.losses import Loss, Objective, OutputLoss, SeveralLosses
from kerastorch.losses.several import Key, label
from kerastorch.metrics import MeanOf, Metric, OnOutput, Task, TorchMetric, named
from kerastorch.metrics.names import NAMES

_TAKEN = ("loss", "epoch", "lr", "seconds", "samples_per_second")
_ON_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, nn.SoftMarginLoss)
_NAMES_ON_LOGITS = ("with_logits", "soft_margin")
_NAMES_ON_LOG_PROBABILITIES = ("NLLLoss", "nll_loss")
_NAMES_ON_PROBABILITIES = ("BCELoss", "binary_cross_entropy")


def metrics(spec: Any, loss: Objective) -> dict[str, Metric]:
    """Return metrics by name.

    Args:
        spec: `{name: metric}` or a list of metrics. A metric is a name (`"accuracy"`), a function `f(y_pred, y_true)`,
            a `kerastorch.metrics.Metric`, or an object of torchmetrics. A dict or a list in place of a metric holds
            those of one output, whose name, or place, comes before theirs: `{"age": ["mae"]}` gives `age_mae`.
        loss: Tells whether outputs are logits, and which label is ignored.

    Raises:
        ValueError: A name is unknown, given twice, or stands for something else in the history.
        TypeError: A metric is of another kind.
    """
    found: dict[str, Metric] = {}
    for name, metric in _resolved(spec, loss):
        if name in (*_TAKEN, *(loss.factors or ()), *found) or name.startswith("val_"):
            taken = "is there twice" if name in found else "stands for something else in the history"
            raise ValueError(f"The metric name {name!r} {taken}; give another: metrics={{'my_{name}': ...}}.")
        found[name] = metric
    return found


def _resolved(spec: Any, loss: Objective) -> Iterator[tuple[str, Metric]]:
    for key, item in _pairs(spec):
        if isinstance(item, (Mapping, list, tuple)):
            for name, metric in _pairs(item):
                full_name = f"{label(key)}_{_metric_name(metric) if isinstance(name, int) else name}"
                yield full_name, OnOutput(_metric(metric, full_name).bound(task(loss, key)), key)
            continue
        name = _metric_name(item) if isinstance(key, int) else key
        metric = _metric(item, name)
        if isinstance(loss, SeveralLosses) and isinstance(item, str):
            first = next(iter(loss.losses))
            form = f"{{{first!r}: [...]}}" if isinstance(first, str) else "[[...], [...]]"
            raise ValueError(f"There are several losses, so say which output {name!r} is for: metrics={form}.")
        yield name, metric.bound(task(loss))


def _pairs(spec: Any) -> list[tuple[Key, Any]]:
    if spec is None:
        return []
    if isinstance(spec, Mapping):
        return list(spec.items())
    return list(enumerate(spec)) if isinstance(spec, (list, tuple)) else [(0, spec)]


def task(loss: Objective, key: Key | None = None) -> Task:
    """Return what a loss tells of outputs and targets.

    Args:
        loss: The loss.
        key: The output that is asked about, where there are several.
    """
    if isinstance(loss, SeveralLosses) and key in loss.losses:
        loss = loss.losses[key]
    if isinstance(loss, OutputLoss):
        return Task("logits" if key is None or "logits" in str(key) else None, ignore_index=-100)
    if not isinstance(loss, Loss):
        return Task()
    if loss.by_label:
        on_logs = loss.name in _NAMES_ON_LOG_PROBABILITIES
        return Task("log_probabilities" if on_logs else "logits", labels=True, ignore_index=loss.ignore_index)
    if isinstance(loss.function, _ON_LOGITS) or any(part in loss.name for part in _NAMES_ON_LOGITS):
        return Task("logits", labels=False)
    if loss.name in _NAMES_ON_PROBABILITIES:
        return Task("probabilities", labels=False)
    return Task(labels=False if loss.by_element else None)


def _metric_name(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, Metric) and isinstance(getattr(item, "name", None), str):
        return str(item.name)  # type: ignore[attr-defined]
    name = getattr(item, "__name__", type(item).__name__)
    if name.lower() in NAMES:
        return str(name).lower()  # IoU: iou
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)  # BinaryAUROC: binary_auroc
    return words.lower().strip("_<>") or "metric"


def _metric(item: Any, name: str) -> Metric:
    if isinstance(item, str):
        return named(item)
    if isinstance(item, type):
        raise TypeError(f"The metric {name!r} is the class {item.__name__}; pass an object: {item.__name__}(...).")
    if isinstance(item, Metric):
        return item
    if all(hasattr(item, verb) for verb in ("update", "compute", "reset")):
        return TorchMetric(item, name)
    if callable(item):
        return MeanOf(item, name)
    raise TypeError(f"The metric {name!r} is a name, a function f(y_pred, y_true) or a metric object; got {item!r}.")
