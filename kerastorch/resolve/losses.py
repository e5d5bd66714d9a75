"""One loss, several, or that of the net."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch import nn
from torch.nn import functional

from kerastorch.errors import did_you_mean
from kerastorch.losses import Loss, Objective, OutputLoss, SeveralLosses

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


def loss(spec: Any, weights: Any = None) -> Objective:
    """Return what is minimised.

    Args:
        spec: A loss; a dict or a list of them, one for each output of the net, None for an output without; or None for
            a net that returns its own. A loss is a module, a class, a function `f(output, target)`, or a name: one of
            `torch.nn` or `torch.nn.functional` in any spelling (`"CrossEntropyLoss"`, `"cross_entropy"`, `"mse"`), or a
            usual short one (`"mae"`, `"bce"`).
        weights: How often each of several losses counts, nested as they are; 1 by default.

    Raises:
        ValueError: A name is unknown, or the weights do not fit.
        TypeError: It cannot be called.
    """
    if isinstance(spec, (Mapping, list, tuple)):
        return _several(spec, weights)
    if weights is not None:
        raise ValueError(f"loss_weights says how often each of several losses counts, but there is one; got {weights}.")
    if spec is None:
        return OutputLoss()
    return spec if isinstance(spec, Objective) else _single(spec)


def _several(spec: Any, weights: Any) -> SeveralLosses:
    by_key = dict(spec) if isinstance(spec, Mapping) else dict(enumerate(spec))
    losses = {key: _single(item) for key, item in by_key.items() if item is not None}
    if not losses:
        raise ValueError("loss names no loss at all. Type loss={'name of the output': 'cross_entropy'}.")
    return SeveralLosses(losses, _factors(weights, by_key, isinstance(spec, Mapping)))


def _factors(weights: Any, known: Mapping[Any, Any], by_name: bool) -> dict[Any, float]:
    if weights is None:
        return dict.fromkeys(known, 1.0)
    if by_name != isinstance(weights, Mapping) or not isinstance(weights, (Mapping, list, tuple)):
        form = "a dict, as loss is" if by_name else "a list, as loss is"
        raise ValueError(f"loss_weights must be {form}; got {weights!r}.")
    given = dict(weights) if by_name else dict(enumerate(weights))
    unknown = [key for key in given if key not in known]
    if unknown or (not by_name and len(given) != len(known)):
        hint = did_you_mean(str(unknown[0]), map(str, known)) if by_name else " Give one number for each."
        raise ValueError(f"loss_weights {weights!r} does not fit the losses of {', '.join(map(repr, known))}.{hint}")
    strange = [value for value in given.values() if isinstance(value, bool) or not isinstance(value, Real)]
    if strange or not all(math.isfinite(value) for value in given.values()):
        raise ValueError(f"loss_weights must be numbers; got {weights!r}.")
    return {**dict.fromkeys(known, 1.0), **given}


def _single(spec: Any) -> Loss:
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
