"""How inputs go into a net."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

EMPTY = inspect.Parameter.empty
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def bind(
    module: Callable[..., Any], x: Any, *, labels: bool = False, like: nn.Module | None = None
) -> Callable[[Any], Any]:
    """Decide how inputs like `x` go into `forward`.

    A tuple spreads over the positional parameters, a dict over the parameters of its names. Where `forward` has no such
    parameters, and for anything else, `x` goes in whole.

    Args:
        module: The net.
        x: The inputs.
        labels: Whether the entry `"labels"` of a dict goes in too; it always does where `forward` cannot do without.
        like: The net whose `forward` tells, where `module` only hands its inputs on to it.
    """
    if not isinstance(x, Mapping) and (hasattr(x, "to") or not isinstance(x, (tuple, list))):
        return module
    parameters = list(inspect.signature(receiver(module if like is None else like).forward).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    if isinstance(x, Mapping):
        labels = labels or any(parameter.name == "labels" and parameter.default is EMPTY for parameter in parameters)
        kept = [name for name in x if labels or name != "labels"]
        names = {parameter.name for parameter in parameters}
        spreads = names.issuperset(kept) or inspect.Parameter.VAR_KEYWORD in kinds
        return (lambda inputs: module(**{name: inputs[name] for name in kept})) if spreads else module
    places = sum(parameter.kind in POSITIONAL for parameter in parameters)
    spreads = places >= len(x) or inspect.Parameter.VAR_POSITIONAL in kinds
    return (lambda inputs: module(*inputs)) if spreads else module


def receiver(module: Any) -> Any:
    """Look through what hands its inputs on: a Model, `torch.compile`, DataParallel."""
    while True:
        if vars(module).get("_wraps") and module._hands_on:
            module = module.net
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        else:
            return module
