"""The net, the optimizer and the dtype of a fit, from the plain parameters of an estimator."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from kerastorch.callbacks.backup import BackupAndRestore
from kerastorch.callbacks.rates import set_rates
from kerastorch.errors import did_you_mean
from kerastorch.resolve.optimizers import OptimizerFactory, by_name

_MAKES = ("net_factory", "net_params", "loss", "optimizer", "metrics", "device")
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def net(factory: Any, params: Mapping[str, Any] | None, told: Mapping[str, Any]) -> nn.Module:
    """Return a new net.

    Args:
        factory: What makes it.
        params: Arguments of the factory.
        told: Arguments that it gets if it has parameters of these names, and nobody has set them.

    Raises:
        TypeError: The factory is none, or returns no net.
        ValueError: It does not take one of the arguments.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        hint = " For this one type functools.partial(copy.deepcopy, net)." if isinstance(factory, nn.Module) else ""
        raise TypeError(
            "net_factory is a class or a function that returns a net, since each fit begins with a new one; got "
            f"{type(factory).__name__} {factory!r}.{hint}"
        )
    name = getattr(factory, "__name__", type(factory).__name__)
    known = _parameters(factory)
    given = dict(params or {})
    for key in given:
        if known is not None and key not in known:
            raise ValueError(
                f"net_params has {key!r}, but {name} does not take it.{did_you_mean(key, known)} "
                f"It takes {', '.join(known) or 'nothing'}."
            )
    set_already = getattr(factory, "keywords", {})  # of a functools.partial
    free = {key: value for key, value in told.items() if key in (known or ()) and key not in set_already}
    made = factory(**(free | given))
    if not isinstance(made, nn.Module):
        raise TypeError(f"net_factory returns a net, an nn.Module; {name} returned {made!r}.")
    return made


def _parameters(factory: Callable[..., Any]) -> list[str] | None:
    """Return the names that can be given to it; None where it takes any."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some builtins tell nothing
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind in _BY_NAME]


def optimizer(spec: Any, lr: float | None, params: Mapping[str, Any] | None) -> OptimizerFactory:
    """Return what builds the optimizer of a net.

    Raises:
        TypeError: `spec` is an optimizer, or nothing that could make one.
        ValueError: The name is unknown.
    """
    options = ({} if lr is None else {"lr": lr}) | dict(params or {})
    if isinstance(spec, str):
        return by_name(spec, options)
    if isinstance(spec, Optimizer) or not callable(spec):
        raise TypeError(
            "optimizer is a name such as 'adam', a class of torch.optim or a function of the parameters, since each "
            f"fit begins with a new net; got {type(spec).__name__}."
        )
    return functools.partial(spec, **options)


def recipe(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a net and its optimizer are made with, of the parameters of an estimator; `lr` as it counts."""
    options = params["optimizer_params"]
    options = dict(options) if isinstance(options, Mapping) else {}
    rate = options.pop("lr", params["lr"])
    return {name: params[name] for name in _MAKES} | {"optimizer_params": options, "lr": rate}


def go_on(made: dict[str, Any], now: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Give an optimizer the learning rate that was set since it was made; warn of what a new net would take.

    Args:
        made: The recipe of the net that is there; the rate is noted in it.
        now: That of a new one.
        optimizer: That of the net.

    Raises:
        ValueError: The rate is none.
    """
    changed = [name for name, value in now.items() if not _same(value, made[name])]
    rate = now["lr"]
    if "lr" in changed and rate is not None:
        if not isinstance(rate, (Real, torch.Tensor)) or not rate >= 0:  # type: ignore[operator]  # Real has no order
            raise ValueError(f"lr is the learning rate, a number from 0 on; got {rate!r}.")
        set_rates(optimizer, [float(rate)] * len(optimizer.param_groups))
        made["lr"] = rate
        changed.remove("lr")
    if changed:
        warnings.warn(
            f"{', '.join(changed)} {'counts' if len(changed) == 1 else 'count'} from the next new net on; this fit "
            "goes on with the one that is there.",
            stacklevel=4,
        )


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except (RuntimeError, TypeError, ValueError):  # arrays say it for each number
        return False


def dtype(spec: Any) -> Any:
    """Return a dtype as scikit-learn takes it.

    Raises:
        TypeError: It is one of torch that NumPy does not have.
    """
    if spec is None:
        return "numeric"  # as it is
    if not isinstance(spec, torch.dtype):
        return spec
    name = str(spec).removeprefix("torch.")
    try:
        return np.dtype(name)
    except TypeError:
        raise TypeError(f"NumPy has no {name}, which X cannot be made then. Type dtype='float32'.") from None


def refuse_backup(callbacks: Iterable[Any] | None) -> None:
    """See that no fit goes on from the backup of another.

    Raises:
        ValueError: There is a `BackupAndRestore`.
    """
    if any(isinstance(callback, BackupAndRestore) for callback in callbacks or ()):
        raise ValueError(
            "BackupAndRestore is for one run; the fits of a search would take each other's. Give it to a kt.Model's "
            "fit, or leave it out."
        )
