"""The weights of a net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kerastorch.checkpoint.plain import is_sharded
from kerastorch.errors import CheckpointError

_WRAPPERS = ("module.", "_orig_mod.", "net.")  # DataParallel, torch.compile, torchkeras
_SUMMED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def weights_in(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights in what `load` gave: all of it, or the `"model"` of a training state."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(key), Mapping):
            found: Mapping[str, Tensor] = content[key]
            return found
    return content


def load_into(module: nn.Module, weights: Mapping[str, Tensor], source: str | Path, *, strict: bool = True) -> None:
    """Copy weights into a net, all or none.

    The prefix that DataParallel, `torch.compile` or torchkeras put before every name is taken off.

    Args:
        module: The net, on any device.
        weights: Tensors by name.
        source: Where they are from, for messages.
        strict: Whether every weight must have its place, and every place its weight. Shapes must always agree.

    Raises:
        CheckpointError: Names or shapes differ; the net is as it was.
    """
    own = module.state_dict()
    for prefix in _WRAPPERS:
        if weights and not set(weights) & set(own) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    for prefix in ("_orig_mod.", "module."):  # plain weights, a compiled or parallel net
        if own and not set(weights) & set(own) and all(name.startswith(prefix) for name in own):
            weights = {prefix + name: value for name, value in weights.items()}
    missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the net"
        for name in own
        if isinstance(own[name], Tensor)
        and not is_lazy(own[name])
        and name in weights
        and weights[name].shape != own[name].shape
    ]
    if own and len(missing) == len(own) and unknown:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: no name agrees. "
            f"It has {unknown[0]}, the net has {missing[0]}."
        )
    problems = [_listed("not in the file", missing), _listed("not in the net", unknown)] if strict else []
    problems.append(_listed("of another shape", shapes))
    if any(problems):
        raise CheckpointError(f"{source} does not fit {type(module).__name__}. {' '.join(filter(None, problems))}")
    module.load_state_dict(placed(weights, own), strict=strict)


def placed(weights: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return weights in the parts that those of a net are in, if it lies on several processes; else as they are."""
    if not any(is_sharded(value) for value in (*weights.values(), *own.values())):
        return weights
    from kerastorch.checkpoint.sharded import like

    return {name: like(value, own[name]) if name in own else value for name, value in weights.items()}


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}."
