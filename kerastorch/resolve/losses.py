"""A loss by its name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn import functional

from kerastorch.errors import did_you_mean
from kerastorch.losses import Loss

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
