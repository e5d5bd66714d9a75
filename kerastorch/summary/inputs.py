"""Shapes or a real batch in, the arguments of `forward` out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kerastorch.tree import leaves, map_leaves


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of the net, and how many samples they hold."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    samples: int

    @property
    def sample_bytes(self) -> float:
        """The size of one sample in bytes, all inputs together."""
        found = tensors_in([*self.args, *self.kwargs.values()])
        return sum(tensor.numel() * tensor.element_size() for tensor in found) / self.samples


def from_shapes(input_shape: Any, input_dtype: Any, net: nn.Module, *, samples: int) -> Inputs:
    """Make inputs of the given shapes (without the batch dimension): random floats, zeros for other dtypes.

    Raises:
        ValueError: A shape or dtype is none, or there are not as many dtypes as shapes.
    """
    shapes = _shapes(input_shape)
    dtypes = _dtypes(input_dtype, shapes)
    generator = torch.Generator("cpu").manual_seed(0)  # one of our own: the random numbers of the program stay

    device = device_of(net)

    def batch(name: Any) -> Tensor:
        return _batch((samples, *shapes[name]), _dtype_for(net, dtypes[name]), device, generator)

    if isinstance(input_shape, Mapping):
        return Inputs((), {name: batch(name) for name in shapes}, samples)
    return Inputs(tuple(batch(index) for index in shapes), {}, samples)


def from_data(input_data: Any, net: nn.Module) -> Inputs:
    """Copy a real batch to the net's device: an in-place layer must not write into the user's tensors."""
    device = device_of(net)

    def placed(value: Any) -> Any:
        return map_leaves(lambda leaf: _copied(leaf, device), value)

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(input_data, Mapping):
        kwargs = {name: placed(value) for name, value in input_data.items()}
    elif isinstance(input_data, (list, tuple)) and not isinstance(input_data, PackedSequence):
        args = tuple(placed(value) for value in input_data)
    else:
        args = (placed(input_data),)
    return Inputs(args, kwargs, _samples([*args, *kwargs.values()]))


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yield each tensor, also those inside packed sequences, dataclasses and dicts of model libraries."""
    for leaf in leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, PackedSequence):
            yield leaf.data
        elif isinstance(leaf, Mapping):
            yield from tensors_in(list(leaf.values()))
        elif is_dataclass(leaf):
            yield from tensors_in([getattr(leaf, part.name) for part in fields(leaf)])


def device_of(net: nn.Module) -> torch.device:
    """Return where the net's first parameter (else buffer) lives, else torch's default device."""
    first = next(chain(net.parameters(), net.buffers()), None)
    return torch.get_default_device() if first is None else first.device


def _shapes(input_shape: Any) -> dict[Any, tuple[int, ...]]:
    if isinstance(input_shape, Mapping):
        return {name: _sizes(shape) for name, shape in input_shape.items()}
    if isinstance(input_shape, (list, tuple)) and any(isinstance(part, (list, tuple)) for part in input_shape):
        return {index: _sizes(shape) for index, shape in enumerate(input_shape)}
    return {0: _sizes(input_shape)}


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (list, tuple)) or not all(map(_is_size, shape)):
        raise ValueError(
            f"{shape!r} is no input_shape: give whole numbers above 0 without the batch dimension, such as "
            "(1, 28, 28); for several inputs a list [(8,), (4,)] or a dict {'query': (8,), 'key': (4,)}."
        )
    return tuple(int(size) for size in shape)


def _is_size(size: Any) -> bool:
    return not isinstance(size, bool) and isinstance(size, Integral) and int(size) > 0


def _dtypes(input_dtype: Any, shapes: dict[Any, tuple[int, ...]]) -> dict[Any, torch.dtype]:
    if isinstance(input_dtype, (list, tuple)):
        input_dtype = dict(enumerate(input_dtype))
    if not isinstance(input_dtype, Mapping):
        return dict.fromkeys(shapes, _dtype(input_dtype))
    if set(input_dtype) != set(shapes):
        raise ValueError(
            f"input_dtype is for the inputs {list(input_dtype)}, input_shape for {list(shapes)}: "
            "give one dtype for all, or one for each."
        )
    return {name: _dtype(dtype) for name, dtype in input_dtype.items()}


def _dtype(dtype: Any) -> torch.dtype:
    found = getattr(dtype, "dtype", dtype)  # torch.LongTensor.dtype is torch.int64
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{dtype!r} is no input_dtype: give a dtype of torch, such as torch.float32 or torch.int64.")
    return found


def _dtype_for(net: nn.Module, dtype: torch.dtype) -> torch.dtype:
    floating = (parameter.dtype for parameter in net.parameters() if parameter.dtype.is_floating_point)
    return next(floating, dtype) if dtype == torch.float32 else dtype


def _batch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    is_random = (dtype.is_floating_point or dtype.is_complex) and device.type != "meta"
    if not is_random:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.rand(shape, generator=generator, device="cpu").to(device, dtype)


def _copied(leaf: Any, device: torch.device) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to(device, copy=True)
    return copy.copy(leaf).to(device) if hasattr(leaf, "to") else leaf  # some change themselves in `to`


def _samples(values: list[Any]) -> int:
    for value in values:
        if isinstance(value, PackedSequence):
            return int(value.batch_sizes[0])
        for tensor in tensors_in(value):
            if tensor.ndim:
                return max(len(tensor), 1)
    return 1
