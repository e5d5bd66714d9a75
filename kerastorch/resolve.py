"""Names and spellings -> objects, once, into a frozen Recipe."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from kerastorch.errors import did_you_mean
from kerastorch.losses import Loss
from kerastorch.metrics import Accuracy, MeanAbsoluteError, MeanOf, MeanSquaredError, Metric, TorchMetric

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]

_LOSS_ALIASES = {
    "mae": "L1Loss",
    "mean_squared_error": "MSELoss",
    "mean_absolute_error": "L1Loss",
    "binary_crossentropy": "BCELoss",
    "binary_cross_entropy": "BCELoss",
    "bce_with_logits": "BCEWithLogitsLoss",
    "categorical_crossentropy": "CrossEntropyLoss",
    "sparse_categorical_crossentropy": "CrossEntropyLoss",
}
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_METRIC_NAMES = {"acc": "accuracy", "mean_squared_error": "mse", "mean_absolute_error": "mae"}
_TAKEN = ("loss", "epoch", "lr", "seconds", "samples_per_second")
_METRICS = ("accuracy", "mse", "mae")
_ON_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
_NAMES_ON_LOGITS = ("with_logits", "WithLogits", "multilabel_soft_margin")


@dataclass(frozen=True)
class Recipe:
    """What `compile` was given, resolved.

    Attributes:
        loss: The loss, with the weight of each batch; None where a step of the user's own needs none.
        optimizer: The optimizer, or what builds it from the parameters.
        metrics: Names and metrics, in order.
        device: `"auto"`, or the device to train on.
    """

    loss: Loss | None
    optimizer: Optimizer | OptimizerFactory
    metrics: Mapping[str, Metric]
    device: str | torch.device


def loss(spec: Any) -> Loss:
    """Return the loss of a name, a class, a module or a function.

    A name is one of `torch.nn` or `torch.nn.functional` in any spelling (`"CrossEntropyLoss"`, `"cross_entropy"`,
    `"mse"`), or a usual short one (`"mae"`, `"bce"`).

    Raises:
        ValueError: The name is unknown.
        TypeError: It cannot be called.
    """
    if isinstance(spec, str):
        return Loss(_named_loss(spec))
    if isinstance(spec, type):
        return Loss(_made(spec))
    if isinstance(spec, Loss):
        return spec
    if not callable(spec):
        raise TypeError(
            f"loss is a function f(output, target), a loss of torch.nn, or a name like 'cross_entropy'; got {spec!r}."
        )
    return Loss(spec)


def _named_loss(name: str) -> Callable[..., Any]:
    known = _losses()
    found: Any = known.get(_bare(_LOSS_ALIASES.get(name.lower(), name)))
    if found is None:
        names = [*_LOSS_ALIASES, *(spelling for spelling, _ in known.values())]
        raise ValueError(f"Unknown loss {name!r}.{did_you_mean(name, names)} Losses are those of torch.nn.functional.")
    made: Callable[..., Any] = found[1]
    return _made(made) if isinstance(made, type) else made


def _made(kind: type) -> Callable[..., Any]:
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.default is parameter.empty and parameter.kind in _NAMED for parameter in parameters):
        raise ValueError(f"The loss {kind.__name__} needs arguments; pass an object: {kind.__name__}(...).")
    made: Callable[..., Any] = kind()
    return made


@functools.cache
def _losses() -> dict[str, tuple[str, Any]]:
    """Every loss of torch by its bare name: (a spelling for messages, the class or the function)."""
    functions = {
        name: function
        for name, function in vars(functional).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and "reduction" in inspect.signature(function).parameters
    }
    known: dict[str, tuple[str, Any]] = {_bare(name): (name, function) for name, function in functions.items()}
    for name in dir(nn):
        if name.endswith("Loss"):
            spelling = known.get(_bare(name), (name, None))[0]
            known[_bare(name)] = (spelling, getattr(nn, name))
    return known


def _bare(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("loss")


def optimizer(spec: Any) -> Optimizer | OptimizerFactory:
    """Return an optimizer, or what builds one from the parameters.

    Args:
        spec: An optimizer, a class of `torch.optim` or its name (built with torch's defaults), a function or a
            `functools.partial` that takes the parameters, or None for Adam with learning rate 1e-3.

    Raises:
        ValueError: The name is unknown.
        TypeError: It is none of these.
    """
    if spec is None:
        return functools.partial(torch.optim.Adam, lr=1e-3)
    if isinstance(spec, str):
        known = {
            name.lower(): made
            for name, made in vars(torch.optim).items()
            if isinstance(made, type) and issubclass(made, Optimizer) and made is not Optimizer
        }
        if spec.lower() not in known:
            names = ", ".join(sorted(known))
            raise ValueError(f"Unknown optimizer {spec!r}.{did_you_mean(spec, known)} torch.optim has {names}.")
        return known[spec.lower()]
    if isinstance(spec, Optimizer):
        return spec
    if callable(spec):
        return cast(OptimizerFactory, spec)
    raise TypeError(
        "optimizer is an optimizer, a name such as 'adam', a class of torch.optim, "
        f"or functools.partial(torch.optim.SGD, lr=0.01); got {spec!r}."
    )


def either(name: str, value: Any, other: str, other_value: Any) -> Any:
    """Return what was given in one of two spellings.

    Raises:
        TypeError: It was given in both.
    """
    if value is not None and other_value is not None:
        raise TypeError(f"{name} and {other} are two spellings of one argument; give one of them.")
    return other_value if value is None else value


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


def device(spec: str | torch.device) -> torch.device:
    """Return the device of a name; `"auto"` is the accelerator that is there, else the CPU.

    Raises:
        ValueError: There is no such device, or no such kind of device.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if spec == "auto":
        return there or torch.device("cpu")
    try:
        wanted = torch.device(spec)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"Unknown device {spec!r}. Devices are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'."
        ) from error
    if wanted.type in ("cpu", "meta"):
        return wanted
    if there is None or there.type != wanted.type:
        found = "no accelerator" if there is None else f"only {there.type!r}"
        raise ValueError(
            f"The device {str(wanted)!r} is not there: torch finds {found} on this machine. Type device='auto'."
        )
    count = torch.accelerator.device_count()
    if wanted.index is not None and wanted.index >= count:
        raise ValueError(f"The device {str(wanted)!r} is not there: this machine has {count}, numbered from 0.")
    return wanted
