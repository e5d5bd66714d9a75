"""Modules that are imported when something in them is first used, so that `import kerastorch` stays fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from kerastorch.errors import did_you_mean


def attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    See https://peps.python.org/pep-0562/.

    Args:
        package: Its `__name__`.
        homes: The module that defines each name, relative to the package: `".nan"`; a module is its own: `".plot"`.
    """

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            known = [*homes, *vars(sys.modules[package])]
            raise AttributeError(f"module {package!r} has no attribute {name!r}.{did_you_mean(name, known)}")
        module = import_module(home, package)
        value = module if home == f".{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # found at once from now on
        return value

    return find
