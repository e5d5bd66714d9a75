"""Functions as callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kerastorch.errors import did_you_mean
from kerastorch.hooks import HOOKS, Callback


class LambdaCallback(Callback):
    """Functions in place of a class, by the name of the hook.

    Example:
        >>> kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))

    Args:
        hooks: A function for each hook, with the hook's arguments.

    Raises:
        TypeError: There is no such hook.
    """

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        for name, function in hooks.items():
            if name not in HOOKS:
                raise TypeError(f"There is no hook {name!r}.{did_you_mean(name, HOOKS)} Hooks are {', '.join(HOOKS)}.")
            if not callable(function):
                raise TypeError(f"{name} is a function; got {function!r}.")
        vars(self).update(hooks)
