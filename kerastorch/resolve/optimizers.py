"""An optimizer, or what builds it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from kerastorch.errors import did_you_mean

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]


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
        f"or functools.partial(torch.optim.SGD, lr=0.01); got {spec!r}. For several, override train_step(batch)."
    )
