"""A trial of training, after which everything is as it was before."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch import isolate, randomness
from kerastorch.shards import local
from kerastorch.tree import map_leaves, tensors

Saved = list[tuple[Tensor, Tensor]]


@contextmanager
def rolled_back(modules: Sequence[nn.Module], optimizers: Iterable[Optimizer], loader: Any) -> Iterator[None]:
    """Put back nets, optimizers and the generators of a loader, on every way out.

    Parameters, buffers and the state of the optimizers are the same objects afterwards, on the same device, with the
    same numbers; so are gradients, which are put aside meanwhile. It costs a copy of all these numbers but the
    gradients, on the CPU: memory is what an accelerator runs out of.

    Args:
        modules: Nets, and losses that have weights or statistics.
        optimizers: With state or without; parameters of theirs that are in no net are put back as well.
        loader: What is read: a DataLoader or anything else.
    """
    optimizers = list(optimizers)
    held = [part for optimizer in optimizers for group in optimizer.param_groups for part in group["params"]]
    parameters = {id(part): part for module in modules for part in module.parameters()} | {id(p): p for p in held}
    with ExitStack() as stack:  # whatever happens to one of them, the others are put back
        for module in modules:
            stack.enter_context(isolate.modes_kept(module))
            stack.enter_context(_buffers_kept(module))
        stack.enter_context(_parameters_kept(list(parameters.values())))
        for optimizer in optimizers:
            stack.enter_context(_optimizer_kept(optimizer))
        stack.enter_context(generators_kept(loader))
        yield


def with_own_workers(loader: Any) -> Any:
    """Return a loader whose workers do not outlive the trial: those that persist keep random numbers of their own."""
    if not getattr(loader, "persistent_workers", False):
        return loader
    twin = copy.copy(loader)
    vars(twin)["_iterator"] = None
    return twin


@contextmanager
def _parameters_kept(parameters: list[nn.Parameter]) -> Iterator[None]:
    saved = _saved(parameter.data for parameter in parameters)
    others = [(parameter, parameter.data, parameter.grad, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, data, grad, requires_grad in others:
            parameter.grad = None
            parameter.data = data  # a net that was moved to an accelerator is back
            parameter.grad = grad
            parameter.requires_grad = requires_grad
        _restore(saved)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    kept = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    saved = _saved(buffer for _, _, buffer in kept if buffer is not None)
    try:
        yield
    finally:
        for part, name, buffer in kept:
            part._buffers[name] = buffer
        _restore(saved)


@contextmanager
def _optimizer_kept(optimizer: Optimizer) -> Iterator[None]:
    attributes = dict(vars(optimizer))
    state = {key: _containers(value) for key, value in optimizer.state.items()}
    groups = [(group, dict(group), list(group["params"])) for group in optimizer.param_groups]
    options = [[value for name, value in group.items() if name != "params"] for group, _, _ in groups]
    saved = _saved(tensors([list(state.values()), options]))
    try:
        yield
    finally:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        optimizer.state.clear()
        optimizer.state.update(state)
        optimizer.param_groups[:] = [group for group, _, _ in groups]
        for group, content, parameters in groups:
            group.clear()
            group.update(content)
            group["params"][:] = parameters
        _restore(saved)


def _containers(value: Any) -> Any:
    """Copy dicts and lists, but not the tensors in them."""
    return map_leaves(lambda leaf: leaf, value)


@contextmanager
def generators_kept(loader: Any) -> Iterator[None]:
    """Put back the random numbers of a loader: of its generators, and those of its samplers, Datasets and transforms.

    Generators of torch, NumPy and Python, where they are attributes or in lists. Workers have copies of their own.

    Args:
        loader: A DataLoader, a Dataset or anything else.
    """
    found = randomness.generators(loader).values()
    states = [(generator, randomness.state_of(generator)) for generator in found]
    try:
        yield
    finally:
        for generator, state in states:
            randomness.set_state(generator, state)


def _saved(originals: Iterable[Tensor]) -> Saved:
    parts = map(local, originals)  # of what lies over several processes, each puts back its own
    return [(part, part.detach().to("cpu", copy=True)) for part in parts if not _is_expanded(part)]


def _is_expanded(tensor: Tensor) -> bool:
    # Several places share one number: nothing can be written into it, so nothing need be put back
    strided = tensor.layout == torch.strided
    return strided and any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


@torch.no_grad()
def _restore(saved: Saved) -> None:
    for tensor, before in saved:
        tensor.copy_(before)
