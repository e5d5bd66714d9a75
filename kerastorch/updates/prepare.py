"""What a step is to do for a group of parameters, found out without changing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from kerastorch.shards import local, placements
from kerastorch.updates import formulas
from kerastorch.updates.formulas import AdamOptions, Columns, SGDOptions
from kerastorch.updates.plain import FOREACH, are_plain, device_of, dtype_of

_AT_ONCE = 1 << 16  # elements: some copies of them fit into a cache of the processor
_NUMBERS = {float, int}
_PARAMETERS = {Tensor, Parameter}
_WRAPPED = {torch.float32, torch.float64}
_DTYPES = {*_WRAPPED, torch.bfloat16, torch.float16}
_FLAGS = ("fused", "foreach", "differentiable", "maximize")
_ADAM = itemgetter("lr", "betas", "eps", "weight_decay", *_FLAGS, "amsgrad", "capturable")
_ADAM_STATE = itemgetter("exp_avg", "exp_avg_sq", "step")
_SGD = itemgetter("lr", "momentum", "dampening", "weight_decay", "nesterov", *_FLAGS)


class Members(NamedTuple):
    """The parameters of a group that have a gradient: of one dtype, on one device. `keys` is what they are parts of."""

    keys: list[Tensor]
    parameters: list[Tensor]
    gradients: list[Tensor]
    dtype: torch.dtype
    device: str


class Job(NamedTuple):
    """A function that updates tensors, its columns of tensors (a row for each parameter), and its options."""

    function: Callable[[Columns, Any], None]
    columns: Columns
    options: AdamOptions | SGDOptions
    tensor_by_tensor: bool


def members(group: dict[str, Any]) -> Members | None:
    """Return what has a gradient; None if it is not all alike."""
    parameters = group["params"]
    gradients = [parameter.grad for parameter in parameters]
    if type(None) in set(map(type, gradients)):
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
    if not gradients:
        return Members([], [], [], torch.float32, "cpu")
    keys = parameters
    if not _PARAMETERS.issuperset(map(type, keys)):
        if list(map(placements, gradients)) != list(map(placements, keys)):
            return None
        parameters, gradients = list(map(local, keys)), list(map(local, gradients))
    dtypes, device = set(map(dtype_of, parameters)), device_of(parameters)
    if device is None or len(dtypes) > 1 or not _DTYPES.issuperset(dtypes):
        return None
    if not are_plain(gradients) or not _PARAMETERS.issuperset(map(type, parameters)):
        return None
    return Members(keys, parameters, gradients, dtypes.pop(), device)


def pieces(columns: Columns) -> Iterator[Columns]:
    """Yield the columns in pieces of few elements, so that operation after operation finds them in the cache."""
    sizes = [tensor.numel() for tensor in columns[0]]
    if sum(sizes) <= _AT_ONCE:
        yield columns
        return
    start, total = 0, 0
    for place, size in enumerate(sizes):
        if total and total + size > _AT_ONCE:
            yield tuple(column[start:place] for column in columns)
            start, total = place, 0
        total += size
    yield tuple(column[start:] for column in columns)


def _adam(optimizer: Optimizer, group: dict[str, Any], found: Members) -> Job | None:
    lr, betas, eps, weight_decay, fused, foreach, *flags = _ADAM(group)
    way = _way(fused, foreach, found)
    if way is None or any(flags) or not _NUMBERS.issuperset(map(type, (lr, *betas, eps, weight_decay))):
        return None
    states = _states(optimizer, found, _ADAM_STATE)
    if states is None:
        return None
    # In torch 2.6 AdamW is a class of its own without such an option; but checkpoints of a later torch bring it along.
    by_option = "decoupled_weight_decay" in optimizer.defaults
    decoupled = group["decoupled_weight_decay"] if by_option else type(optimizer) is torch.optim.AdamW
    beta1, beta2 = betas
    options = AdamOptions(lr, beta1, beta2, eps, weight_decay, decoupled, _dtype_of_numbers(found))
    function = formulas.adam_fused if way == "fused" else formulas.adam
    return Job(function, (found.parameters, found.gradients, *states), options, way == "single")


def _sgd(optimizer: Optimizer, group: dict[str, Any], found: Members) -> Job | None:
    lr, momentum, dampening, weight_decay, nesterov, fused, foreach, *flags = _SGD(group)
    way = _way(fused, foreach, found)
    if way is None or any(flags) or not _NUMBERS.issuperset(map(type, (lr, momentum, dampening, weight_decay))):
        return None
    states = _states(optimizer, found, _momentum) if momentum != 0 else ((),)
    if states is None:
        return None
    in_place, dtype = way == "foreach", _dtype_of_numbers(found)
    options = SGDOptions(lr, momentum, dampening, weight_decay, nesterov, in_place, dtype)
    function = formulas.sgd_fused if way == "fused" else formulas.sgd
    return Job(function, (found.parameters, found.gradients, *states), options, way == "single")


PREPARE: dict[type[Optimizer], Callable[[Optimizer, dict[str, Any], Members], Job | None]] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.SGD: _sgd,
}


def _way(fused: bool | None, foreach: bool | None, found: Members) -> str | None:
    """Return which of its three ways torch would go; None where that, or that it gives the same bits, is not known."""
    if fused:
        return None if foreach else "fused"
    if foreach or (foreach is None and fused is None and found.device in FOREACH):
        return "foreach"
    # Of 16 bits, or elsewhere than on the CPU, one tensor may be rounded otherwise than a list of them.
    return "single" if found.device == "cpu" and found.dtype in _WRAPPED else None


def _states(optimizer: Optimizer, found: Members, columns_of: Callable[[Any], Any]) -> Columns | None:
    """Return columns of the state; None if some parameter has none yet."""
    try:
        columns = tuple(zip(*[columns_of(optimizer.state[parameter]) for parameter in found.keys], strict=True))
    except KeyError:
        return None
    if found.keys is not found.parameters:
        columns = tuple([_parts(column, found.keys) for column in columns])
    return columns if all(set(map(type, column)) == {Tensor} for column in columns) else None


def _parts(column: Any, keys: list[Tensor]) -> Any:
    """Return the parts of a column that lies over processes as the parameters do."""
    lie_alike = list(map(placements, column)) == list(map(placements, keys))
    return list(map(local, column)) if lie_alike else column


def _momentum(state: dict[str, Any]) -> tuple[Any]:
    return (state["momentum_buffer"],)


def _dtype_of_numbers(found: Members) -> torch.dtype | None:
    """Return the dtype in which numbers can be handed over as tensors: for each tensor torch wraps a number anew."""
    return found.dtype if found.device == "cpu" and found.dtype in _WRAPPED else None
