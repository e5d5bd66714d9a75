"""What trials before a training have in common: a learning rate or a batch size is found by them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from kerastorch.assembly import Session
from kerastorch.errors import MismatchError
from kerastorch.hooks import Callback
from kerastorch.tree import leaves


def that_prepare(callbacks: Any, *others: Callback) -> Any:
    """Return the callbacks that change batches, and others; what is no list, or no callback, the session refuses."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, (Iterable, type(None))):
        return callbacks
    return [*filter(_may_prepare, callbacks or ()), *others]


def _may_prepare(callback: Any) -> bool:
    if not isinstance(callback, Callback):
        return True
    return "prepare_batch" in vars(callback) or type(callback).prepare_batch is not Callback.prepare_batch


@contextmanager
def unbuilt_again(session: Session) -> Iterator[None]:
    """Leave an optimizer that `fit` is to build unbuilt: the net may still change."""
    state = session.state
    before = state.optimizer
    try:
        yield
    finally:
        state.optimizer = before


def optimizers_of(first: Optimizer, modules: list[nn.Module]) -> list[Optimizer]:
    """Return an optimizer, and those that it, or a module, has: each once."""
    owners = [first, *(part for module in modules for part in module.modules())]
    held = (value for owner in owners for value in leaves(vars(owner)) if isinstance(value, Optimizer))
    return list({id(optimizer): optimizer for optimizer in [first, *held]}.values())


def refuse_unknown_shapes(module: nn.Module) -> None:
    """See that all parameters are there, so that they can be put back.

    Raises:
        MismatchError: Some are made in the first batch.
    """
    if any(map(is_lazy, itertools.chain(module.parameters(), module.buffers()))):
        raise MismatchError(
            "The net has layers whose shapes are not known before its first batch, so they could not be made as they "
            "were. First show it one: model.predict_on_batch(x)."
        )
