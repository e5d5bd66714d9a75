"""Whether an optimizer trains the net."""

from __future__ import annotations

import inspect
import warnings

from torch import nn
from torch.optim import Optimizer

from kerastorch.errors import MismatchError
from kerastorch.shards import is_shard


def same_parameters(module: nn.Module, before: list[nn.Parameter]) -> None:
    """See that a net has no parameter that it did not have when its optimizer was built.

    Raises:
        MismatchError: It has, and that would not be trained.
    """
    known = {id(parameter) for parameter in before}
    new = [name for name, parameter in module.named_parameters() if id(parameter) not in known]
    if new:
        raise MismatchError(
            f"The net has new parameters, {new[0]} for one, which its optimizer does not know. "
            "Call model.compile(...) again after the last change of layers."
        )


def needs_no_closure(optimizer: Optimizer) -> None:
    """See that `optimizer.step()` can be called as it is.

    Raises:
        MismatchError: It needs a closure.
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise MismatchError(
            f"{type(optimizer).__name__} evaluates the loss several times a step, through a closure. "
            "Subclass kt.Model, override train_step(batch), and call self.optimizer.step(closure) there."
        )


def optimizer_fits(optimizer: Optimizer, module: nn.Module) -> None:
    """See that an optimizer trains parameters of this net, and warn where it holds others in place of some.

    Raises:
        MismatchError: It holds none of them.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in module.parameters()):
        if any(map(is_shard, module.parameters())):
            kind = type(optimizer).__name__
            raise MismatchError(
                f"FSDP puts others in the place of the parameters that the optimizer {kind} was built from. Give "
                f"compile what builds it later: optimizer=functools.partial(torch.optim.{kind}, lr=...), a name such "
                "as 'adamw', or a function of the parameters."
            )
        raise MismatchError(
            f"The optimizer {type(optimizer).__name__} holds no parameter of this net, so nothing would be trained. "
            "Build it from model.parameters(), after the last change of layers."
        )
    if not any(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"]):
        raise MismatchError(
            f"Every parameter that the optimizer {type(optimizer).__name__} holds is frozen, so nothing would be "
            "trained. Type model.unfreeze(...), or build the optimizer from parameters that are not."
        )
    own = {id(parameter): name for name, parameter in module.named_parameters() if parameter.requires_grad}
    left_out = [name for key, name in own.items() if key not in held]
    if left_out and held - {id(parameter) for parameter in module.parameters()}:
        warnings.warn(
            f"The optimizer does not train {left_out[0]}, but holds parameters that are not in the net. "
            "Were layers replaced after it was built? Then build it anew and compile again.",
            stacklevel=2,
        )


def unfrozen_are_held(optimizer: Optimizer, module: nn.Module, frozen: list[nn.Parameter]) -> None:
    """See that an optimizer holds what was frozen when the net was compiled and is to be trained now.

    Raises:
        MismatchError: It does not, and that would not be trained.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    unknown = {id(parameter) for parameter in frozen} - held
    lost = [name for name, part in module.named_parameters() if part.requires_grad and id(part) in unknown]
    if lost:
        raise MismatchError(
            f"{lost[0]} was frozen when the optimizer was made, which does not hold it, so it would not be trained. "
            "Call model.compile(...) again after unfreeze, with a new optimizer."
        )
