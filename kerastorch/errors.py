"""What can go wrong, and how we say it: what we got, what we know, what to type."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from types import ModuleType


class KerastorchError(Exception):
    """Any error that kerastorch raises on purpose."""


class NotCompiledError(KerastorchError, RuntimeError):
    """`fit` or `evaluate` was called before `compile`."""


class BusyError(KerastorchError, RuntimeError):
    """A call that trains, or `compile`, was made inside `fit`."""


class DataError(KerastorchError, ValueError):
    """The data are empty, run out, or have a form that cannot be used."""


class MismatchError(KerastorchError, ValueError):
    """Outputs, targets, loss or metrics do not fit together."""


class NonFiniteError(KerastorchError, RuntimeError):
    """A loss in training is NaN or infinite."""


class CheckpointError(KerastorchError, RuntimeError):
    """A file cannot be written, is damaged, or belongs to another net."""


class DistributedError(KerastorchError, RuntimeError):
    """Processes that train together do not come together, or do not do the same."""


class ExportError(KerastorchError, RuntimeError):
    """A net cannot be written as a program, a program differs from its net, or is asked to do what it cannot."""


class MissingPackageError(KerastorchError, ImportError):
    """An optional package is not installed."""


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, else an empty string."""
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(got.lower(), lowered, n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def needs(package: str, *, purpose: str, install: str | None = None) -> ModuleType:
    """Import an optional package, or say what to install.

    Args:
        package: The module to import, `"tensorboard"` or dotted.
        purpose: Who asks, for the message: `"TensorBoard"`.
        install: The name to give to pip where it is not the module's own.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = install or package.partition(".")[0]
        raise MissingPackageError(f"{purpose} needs the package {name!r}. Type: pip install {name}") from error


def add_note(error: BaseException, note: str) -> None:
    """Append one line to an error's traceback; Python 3.10 keeps it, but prints none, so it goes to stderr too."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:  # pragma: no cover - measured on 3.11
        vars(error).setdefault("__notes__", []).append(note)
        print(note, file=sys.stderr)
