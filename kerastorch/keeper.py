"""The optimizer of a model: built when first needed, and seen to train the net that is there; what else a model has."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kerastorch import checks
from kerastorch.errors import ExportError, MismatchError
from kerastorch.losses import Objective
from kerastorch.state import Stateful, TrainState


class OptimizerKeeper:
    """Knows for which parameters the optimizer was built, and what was frozen then.

    Args:
        given: An optimizer, or what builds one, as `compile` resolved it.
        module: The net, or what wraps it.
    """

    def __init__(self, given: Any, module: nn.Module) -> None:
        self._given = given
        self._model = module
        self._parameters: list[nn.Parameter] = []
        self._frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]

    def optimizer(self, state: TrainState) -> Optimizer:
        """Return the optimizer of a state; it is built here if it is not there.

        Raises:
            TypeError: What should build it built something else.
            MismatchError: It does not train this net.
        """
        given = self._given
        if state.optimizer is None:
            state.optimizer = given if isinstance(given, Optimizer) else _built(given, state.module)
            self._parameters = list(state.module.parameters())
            if state.optimizer is not given:
                self._frozen = [parameter for parameter in self._parameters if not parameter.requires_grad]
            checks.optimizer_fits(state.optimizer, state.module)
        return state.optimizer

    def take_in_unfrozen(self, state: TrainState) -> None:
        """Let an optimizer that was built here train what was frozen when it was built; in the order of the net."""
        optimizer = state.optimizer
        if optimizer is None or len(optimizer.param_groups) > 1 or optimizer is self._given:
            return
        group, known = optimizer.param_groups[0], {id(parameter) for parameter in self._parameters}
        held = {id(parameter) for parameter in group["params"]}
        group["params"] = [
            parameter
            for parameter in state.module.parameters()
            if id(parameter) in held or (parameter.requires_grad and id(parameter) in known)
        ]

    def check(self, state: TrainState) -> None:
        """See that the optimizer trains the present net.

        Raises:
            MismatchError: It does not, or cannot.
            ExportError: The net is an exported file.
        """
        if getattr(state.module, "is_program", False):
            from kerastorch.export.programs import NOT_TRAINED

            raise ExportError(NOT_TRAINED)
        optimizer, module = self.optimizer(state), state.module
        self.take_in_unfrozen(state)
        checks.needs_no_closure(optimizer)
        checks.unfrozen_are_held(optimizer, module, self._frozen)
        if isinstance(self._given, Optimizer):
            checks.optimizer_fits(optimizer, module)
        else:
            checks.same_parameters(module, self._parameters)

    def look_over(self, state: TrainState, loss: Objective | None) -> None:
        """Take note of all that the model has by now beside its net and its optimizer."""
        state.optimizers, state.parts = held_by(self._model, loss)

    def thaw(self, state: TrainState) -> None:
        """Take in what was unfrozen in the middle of a run, which is not ended for what cannot be taken in."""
        self.take_in_unfrozen(state)
        if state.optimizer is not None:
            try:
                checks.unfrozen_are_held(state.optimizer, state.module, self._frozen)
            except MismatchError as error:
                warnings.warn(str(error), stacklevel=2)


def held_by(model: nn.Module, loss: Objective | None) -> tuple[dict[str, Optimizer], dict[str, Stateful]]:
    """Return by name what a model has beside its net, its optimizer and its callbacks: in attributes, lists and dicts.

    Returns:
        Optimizers; and all else that has a state: schedulers and scalers, nets that are no part of the net, such as a
        teacher in a list, and the losses that have weights or statistics.
    """
    own = {id(module) for module in model.modules()}
    found = {name: value for name, value in _named(vars(model)) if id(value) not in own}
    optimizers = {name: value for name, value in found.items() if isinstance(value, Optimizer)}
    parts = {name: value for name, value in found.items() if name not in optimizers}
    losses = {f"loss {place + 1}": module for place, module in enumerate(loss_modules(loss)) if module.state_dict()}
    return optimizers, parts | losses


def loss_modules(loss: Objective | None) -> list[nn.Module]:
    """Return losses that may have weights or statistics of their own."""
    compiled = getattr(loss, "origin", loss)
    functions = [getattr(part, "function", None) for part in getattr(compiled, "losses", {"": compiled}).values()]
    inner = [function.func if isinstance(function, functools.partial) else function for function in functions]
    return [function for function in inner if isinstance(function, nn.Module)]


def _named(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what has a state, by the path to it."""
    if not isinstance(tree, (dict, list, tuple)):
        if hasattr(tree, "state_dict") and hasattr(tree, "load_state_dict") and not isinstance(tree, type):
            yield name, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _named(value, f"{name}[{key!r}]" if name else str(key))


def _built(factory: Callable[..., Any], module: nn.Module) -> Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise MismatchError("Every parameter of the net is frozen, so nothing would be trained. Type model.unfreeze().")
    optimizer = factory(trainable)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"What was given as optimizer must return a torch.optim.Optimizer; it returned {optimizer!r}.")
    return optimizer
