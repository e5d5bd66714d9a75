"""Parameters by the patterns of their names; what is frozen, and what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from kerastorch import isolate
from kerastorch.errors import did_you_mean

Target = TypeVar("Target", bound=nn.Parameter | nn.Module)


def matching(module: nn.Module, patterns: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters that a pattern matches, each once, in the order of the net.

    A pattern is a dotted name in which `*` stands for any text, `?` for a character, `[34]` for one of several:
    `"backbone.*"`, `"*.bias"`, `"layer[34].*"`. One that matches a module, such as `"backbone"`, means all below it.

    Args:
        module: The net.
        patterns: Patterns; a parameter need match but one of them.

    Returns:
        Parameters by name. One that has several names, since layers share it, is there under the first that matches.

    Raises:
        ValueError: A pattern matches no parameter.
        TypeError: A pattern is no text.
    """
    named = dict(module.named_parameters(remove_duplicate=False))  # a pattern may match only the second of two names
    first: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in _chosen(named, patterns, module).items():
        first.setdefault(id(parameter), (name, parameter))
    return dict(first.values())


def freeze(module: nn.Module, *patterns: str) -> None:
    """Leave parameters as they are in training, and with them the statistics of normalizations.

    A BatchNorm, or another normalization with running statistics, of which every parameter is frozen stays in
    evaluation mode, and so does one without parameters whose name matches, until it is unfrozen. Copies and pickles of
    the net are frozen alike; a state_dict does not tell, and is loaded into frozen parts as into others. Make other
    modules of these (`SyncBatchNorm.convert_sync_batchnorm`) before, not after.

    Example:
        >>> freeze(net, "backbone")  # weights and statistics
        >>> freeze(net, "*.bias")  # biases only

    Args:
        module: The net.
        patterns: As in `matching`; everything where none is given.

    Raises:
        ValueError: A pattern matches nothing that could be frozen.
        TypeError: A pattern is no text.
    """
    _set_trainable(module, patterns, trainable=False)


def unfreeze(module: nn.Module, *patterns: str) -> None:
    """Train what was frozen; a normalization gets the mode of the module that it is a part of.

    An optimizer that was built while parameters were frozen may not know them.

    Args:
        module: The net.
        patterns: As in `matching`; everything where none is given.

    Raises:
        ValueError: A pattern matches nothing that could be unfrozen.
        TypeError: A pattern is no text.
    """
    _set_trainable(module, patterns, trainable=True)


def _set_trainable(module: nn.Module, patterns: Iterable[str], *, trainable: bool) -> None:
    targets = dict(_targets(module))
    chosen = _chosen(targets, patterns, module) if patterns else targets
    for target in chosen.values():
        if isinstance(target, nn.Parameter):
            _set_parameter(target, trainable)
    touched = {id(target) for target in chosen.values()}
    modes = {id(child): parent.training for parent in module.modules() for child in parent.children()}
    for part in filter(_has_statistics, module.modules()):
        own = list(part.parameters(recurse=False))
        if touched.isdisjoint(map(id, own) if own else [id(part)]):
            continue
        if any(parameter.requires_grad for parameter in own) if own else trainable:
            isolate.release(part, modes.get(id(part), True))
        else:
            isolate.hold(part)


def _set_parameter(parameter: nn.Parameter, trainable: bool) -> None:
    # Assigned, since a parameter of a lazy module, whose shape is not known yet, has no requires_grad_().
    if not trainable:
        parameter.requires_grad = False
        parameter.grad = None  # an optimizer that finds a gradient moves it: momentum and weight decay do so at zero
    elif parameter.is_floating_point() or parameter.is_complex():  # quantized ones cannot be trained
        parameter.requires_grad = True


def _targets(module: nn.Module) -> Iterator[tuple[str, nn.Parameter | nn.Module]]:
    """Yield what can be frozen: parameters, and normalizations that have statistics only; by every name."""
    yield from module.named_parameters(remove_duplicate=False)
    for name, part in module.named_modules(remove_duplicate=False):
        if _has_statistics(part) and not list(part.parameters(recurse=False)):
            yield name, part


def _has_statistics(part: nn.Module) -> bool:
    return isinstance(part, _NormBase) and part.running_mean is not None


def _chosen(targets: Mapping[str, Target], patterns: Iterable[str], module: nn.Module) -> dict[str, Target]:
    names: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            got = type(pattern).__name__
            raise TypeError(f"Patterns are names, one after the other: 'backbone.*', '*.bias'; got an object {got}.")
        found = [name for name in targets if _matches(name, pattern)]
        if not found:
            raise ValueError(_nothing(targets, pattern, module))
        names.update(found)
    return {name: target for name, target in targets.items() if name in names}


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatchcase(beginning, pattern) for beginning in _beginnings(name))


def _beginnings(name: str) -> list[str]:
    """Return the names of the modules that a name lies under, and the name itself."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def _nothing(targets: Iterable[str], pattern: str, module: nn.Module) -> str:
    names = [name for name in targets if name]
    top = list(dict.fromkeys(name.partition(".")[0] for name in names))
    more = f" and {len(top) - 8} more" if len(top) > 8 else ""
    there = f" The net has {', '.join(map(repr, top[:8]))}{more}." if top else " The net has no parameters."
    if any(_matches(name, pattern) for name, _ in module.named_modules() if name):
        return f"What {pattern!r} matches has no parameters.{there}"
    known = {beginning for name in names for beginning in _beginnings(name)}
    below = {f"{name}.*" for name in known.difference(names)}
    anywhere = {f"*.{name.rpartition('.')[2]}" for name in known}
    return f"No parameter matches {pattern!r}.{did_you_mean(pattern, known | below | anywhere)}{there}"
