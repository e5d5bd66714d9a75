"""What inputs and outputs are called in a file."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kerastorch.binding import POSITIONAL, receiver
from kerastorch.errors import ExportError
from kerastorch.tree import describe


def key_of(step: Any) -> Any:
    """Return the key or the place in one step of a path."""
    return getattr(step, "key", getattr(step, "idx", getattr(step, "name", None)))


def input_names(net: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[str]:
    """Return a name for each tensor in the arguments of a call, in the order in which torch flattens them.

    It is that of the parameter of `forward`; in a dict it is the key.
    """
    positional = list(_positional(net, len(arguments)))
    names = []
    for path, _ in pytree.tree_flatten_with_path((arguments, keywords))[0]:
        group, place, *inside = map(key_of, path)
        first = [] if inside and isinstance(inside[0], str) else [place if group else positional[place]]
        names.append("_".join(map(str, [*first, *inside])))  # in a dict, its keys alone
    return _apart(names)


def output_names(output: Any, taken: list[str]) -> list[str]:
    """Return a name for each tensor in an output: `"output"`, its key in a dict, `"output_0"` in a tuple."""
    names = []
    for path, leaf in pytree.tree_flatten_with_path(output)[0]:
        if not isinstance(leaf, Tensor):
            raise ExportError(
                f"The outputs of a program are tensors; this net returns {describe(output)}. Leave out what is none."
            )
        keys = [key_of(step) for step in path]
        names.append("_".join(map(str, keys if keys and isinstance(keys[0], str) else ["output", *keys])))
    return _apart([f"output_{name}" if name in taken else name for name in names])


def form_of_output(output: Any) -> Any:
    """Return how an output is nested, with the numbers of its tensors in place of them, for `rebuilt`."""
    leaves, spec = pytree.tree_flatten(output)
    return _plain(pytree.tree_unflatten(list(range(len(leaves))), spec))


def rebuilt(form: Any, tensors: list[Tensor]) -> Any:
    """Return tensors nested as a form says; what was a tuple is one, other classes are dicts."""
    if isinstance(form, Mapping):
        if form.get("") == "tuple":  # JSON has none
            return tuple(rebuilt(part, tensors) for part in form["of"])
        return {key: rebuilt(part, tensors) for key, part in form.items()}
    if isinstance(form, list):
        return [rebuilt(part, tensors) for part in form]
    return tensors[form]


def _plain(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return {"": "tuple", "of": [_plain(value) for value in tree]}
    return [_plain(value) for value in tree] if isinstance(tree, list) else tree


def _positional(net: nn.Module, count: int) -> Iterator[str]:
    for parameter in inspect.signature(receiver(net).forward).parameters.values():
        if parameter.kind in POSITIONAL:
            yield parameter.name
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            yield from (f"{parameter.name}_{place}" for place in range(count))


def _apart(names: list[str]) -> list[str]:
    """Give names that occur twice a number."""
    twice = {name for name, times in Counter(names).items() if times > 1}
    seen: Counter[str] = Counter()
    apart = []
    for name in names:
        apart.append(f"{name}_{seen[name]}" if name in twice else name)
        seen[name] += 1
    return apart
