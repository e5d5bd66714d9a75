"""An optimizer, or what builds it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from kerastorch.errors import did_you_mean

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]

_FUSED = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
_WAYS = {"fused", "foreach", "differentiable"}  # of the same step; torch takes one
_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}
_FUSED_DTYPES = {torch.float32, torch.float64, torch.bfloat16, torch.float16}


def optimizer(spec: Any) -> Optimizer | OptimizerFactory:
    """Return an optimizer, or what builds one from the parameters.

    `"adam"`, `"adamw"` and the default are built with their fastest setting, `fused=True`, where torch has it. The last
    digits of numbers may differ from those of `torch.optim.Adam(parameters)`, which has another; a class, a function
    or an optimizer stays as it was written.

    Args:
        spec: An optimizer, a class of `torch.optim` or its name (built with torch's defaults), a function or a
            `functools.partial` that takes the parameters, or None for Adam with learning rate 1e-3.

    Raises:
        ValueError: The name is unknown.
        TypeError: It is none of these.
    """
    if spec is None:
        spec = "adam"
    if isinstance(spec, str):
        return by_name(spec)
    if isinstance(spec, Optimizer):
        return spec
    if callable(spec):
        return cast(OptimizerFactory, spec)
    raise TypeError(
        "optimizer is an optimizer, a name such as 'adam', a class of torch.optim, "
        f"or functools.partial(torch.optim.SGD, lr=0.01); got {spec!r}. For several, override train_step(batch)."
    )


def by_name(name: str, options: Mapping[str, Any] | None = None) -> OptimizerFactory:
    """Return what builds an optimizer of torch, by the name of its class; `options` are its further arguments.

    Where they say how a step is computed, by `foreach`, `differentiable` or `fused`, it is not `fused=True`.

    Raises:
        ValueError: The name is unknown.
    """
    known = {
        name.lower(): made
        for name, made in vars(torch.optim).items()
        if isinstance(made, type) and issubclass(made, Optimizer) and made is not Optimizer
    }
    if name.lower() not in known:
        names = ", ".join(sorted(known))
        raise ValueError(f"Unknown optimizer {name!r}.{did_you_mean(name, known)} torch.optim has {names}.")
    kind = _FUSED.get(name.lower())
    made = known[name.lower()] if kind is None else functools.partial(_fastest, kind)
    return functools.partial(made, **options) if options else made


def _fastest(
    kind: type[torch.optim.Adam] | type[torch.optim.AdamW], parameters: Iterable[Parameter], **options: Any
) -> Optimizer:
    listed = list(parameters)
    if not _WAYS.isdisjoint(options):
        return kind(listed, **options)
    fused = all(each.device.type in _FUSED_DEVICES and each.dtype in _FUSED_DTYPES for each in listed) or None
    return kind(listed, fused=fused, **options)
