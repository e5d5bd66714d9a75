"""The optimizer of a model: built when first needed, and seen to train the net that is there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kerastorch import checks
from kerastorch.errors import MismatchError
from kerastorch.state import TrainState


class OptimizerKeeper:
    """Knows for which parameters the optimizer was built, and what was frozen then.

    Args:
        given: An optimizer, or what builds one, as `compile` resolved it.
        module: The net, or what wraps it.
    """

    def __init__(self, given: Any, module: nn.Module) -> None:
        self._given = given
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
        """
        optimizer, module = self.optimizer(state), state.module
        self.take_in_unfrozen(state)
        checks.needs_no_closure(optimizer)
        checks.unfrozen_are_held(optimizer, module, self._frozen)
        if isinstance(self._given, Optimizer):
            checks.optimizer_fits(optimizer, module)
        else:
            checks.same_parameters(module, self._parameters)

    def thaw(self, state: TrainState) -> None:
        """Take in what was unfrozen in the middle of a run, which is not ended for what cannot be taken in."""
        self.take_in_unfrozen(state)
        if state.optimizer is not None:
            try:
                checks.unfrozen_are_held(state.optimizer, state.module, self._frozen)
            except MismatchError as error:
                warnings.warn(str(error), stacklevel=2)


def _built(factory: Callable[..., Any], module: nn.Module) -> Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise MismatchError("Every parameter of the net is frozen, so nothing would be trained. Type model.unfreeze().")
    optimizer = factory(trainable)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"What was given as optimizer must return a torch.optim.Optimizer; it returned {optimizer!r}.")
    return optimizer
