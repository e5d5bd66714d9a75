"""Parameter groups: options of an optimizer that are for some parameters only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kerastorch.parameters import matching


def groups(model: nn.Module, rules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return parameter groups for any optimizer of torch: learning rates and more by the names of parameters.

    The first group holds what no rule matches, and is left out when empty; the optimizer's own arguments are for it.
    A parameter that several rules match has the options of all of them, of the last where they differ. Frozen
    parameters are left out, so freeze first. A group's `"name"` tells its rules.

    Example:
        >>> rules = {"*.bias": dict(weight_decay=0), "head": dict(lr=1e-2)}
        >>> optimizer = torch.optim.AdamW(kt.optimizers.groups(model, rules), lr=1e-3)
        >>> model.compile("cross_entropy", optimizer)

        Built only when training begins, after the last change of layers:

        >>> model.compile("cross_entropy", lambda _: torch.optim.AdamW(kt.optimizers.groups(model, rules), lr=1e-3))

    Args:
        model: The net.
        rules: Patterns of names, and the options of the optimizer for what they match. In a pattern `*` stands for any
            text, `?` for a character, `[34]` for one of several; the name of a module means all below it.

    Returns:
        Groups in the order of the rules; within a group, parameters in the order of the net.

    Raises:
        ValueError: A pattern matches no parameter, an option is named `params`, or every parameter is frozen.
        TypeError: `model` is no module, or the rules are no dict of dicts.
    """
    _check(model, rules)
    matched = [{id(parameter) for parameter in matching(model, [pattern]).values()} for pattern in rules]
    members: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = tuple(number for number, found in enumerate(matched) if id(parameter) in found)
            members.setdefault(key, []).append(parameter)
    if not members:
        raise ValueError("There is nothing to optimize: the net has no trainable parameter. Unfreeze some of it first.")
    listed = list(rules.items())
    return [_group(members[key], [listed[number] for number in key]) for key in sorted(members)]


def _group(parameters: list[nn.Parameter], rules: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    group: dict[str, Any] = {"params": parameters, "name": " + ".join(pattern for pattern, _ in rules) or "rest"}
    for _, options in rules:
        group |= options
    return group


def _check(model: Any, rules: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"groups takes the net, for the names of its parameters; got {type(model).__name__}.")
    if not isinstance(rules, Mapping):
        raise TypeError(f"Rules are a dict, such as {{'*.bias': dict(weight_decay=0)}}; got {rules!r}.")
    for pattern, options in rules.items():
        if not isinstance(options, Mapping):
            raise TypeError(f"The rule {pattern!r} needs a dict of options, such as dict(lr=1e-2); got {options!r}.")
        if "params" in options:
            raise ValueError(f"The rule {pattern!r} has an option 'params'; but its pattern says which they are.")
