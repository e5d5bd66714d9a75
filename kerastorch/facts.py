"""What is known of a net beside its weights: what goes into it, and what its classes are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGEST = 2**31  # of one size


@dataclass
class Facts:
    """What a model remembers from one call to the next, and what files of it tell.

    Attributes:
        classes: The names of the classes, as a dataset or a file told them last.
        inputs: The form of the last inputs: `["float32", [1, 28, 28]]` for a tensor, without its first dimension, in
            lists and dicts as the inputs were nested; None where it is not known.
    """

    classes: tuple[str, ...] | None = None
    inputs: Any = None

    def see(self, x: Any) -> None:
        """Remember the form of inputs, not the inputs; what is no tensor has none."""
        self.inputs = form_of(x)

    def told(self) -> dict[str, Any]:
        """Return what is known, as plain containers."""
        known = {"classes": None if self.classes is None else list(self.classes), "inputs": self.inputs}
        return {key: value for key, value in known.items() if value is not None}

    def learn(self, told: Mapping[str, Any]) -> None:
        """Take over what `told` returned; what it does not tell, and nonsense in a file, changes nothing."""
        self.classes = names_in(told.get("classes")) or self.classes
        self.inputs = told["inputs"] if is_form(told.get("inputs")) else self.inputs


def form_of(x: Any) -> Any:
    """Return dtype and shape of each tensor, nested as they are; None if something is no tensor."""
    if isinstance(x, Tensor):
        has_form = x.ndim and not x.is_nested
        return [str(x.dtype).removeprefix("torch."), [int(size) for size in x.shape[1:]]] if has_form else None
    if isinstance(x, Mapping):
        parts: Any = {key: form_of(value) for key, value in x.items()}
        return parts if parts and all(isinstance(key, str) and part for key, part in parts.items()) else None
    if isinstance(x, (list, tuple)) and not hasattr(x, "to"):
        parts = [form_of(value) for value in x]
        return parts if parts and all(parts) else None
    return None


def is_leaf(form: Any) -> bool:
    """Whether a form is that of one tensor."""
    return isinstance(form, (list, tuple)) and len(form) == 2 and isinstance(form[0], str)


def is_form(value: Any, depth: int = 8) -> bool:
    """Whether a value is one that `form_of` returns: what a file says need not be."""
    if is_leaf(value):
        sizes = value[1] if isinstance(value[1], (list, tuple)) else [None]
        is_known = isinstance(getattr(torch, value[0], None), torch.dtype)
        return is_known and all(type(size) is int and 0 <= size < _LARGEST for size in sizes)
    if not isinstance(value, (Mapping, list, tuple)) or not value or not depth:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_form(part, depth - 1) for key, part in value.items())
    return all(is_form(part, depth - 1) for part in value)


def dtype_of(form: Any) -> torch.dtype:
    """Return the dtype in the form of one tensor."""
    found: torch.dtype = getattr(torch, form[0])
    return found


def names_in(value: Any) -> tuple[str, ...] | None:
    """Return names of classes, if that is what a value is: a list or an array of texts or whole numbers."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    is_list = isinstance(value, (list, tuple)) and value and all(isinstance(name, (str, int)) for name in value)
    return tuple(map(str, value)) if is_list else None


def as_texts(told: Mapping[str, Any]) -> dict[str, str]:
    """Return what is told in the form that headers of files take."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}


def from_texts(texts: Mapping[str, str] | None) -> dict[str, Any]:
    """Read what `as_texts` wrote, in a header that may hold anything else as well."""
    told = {}
    for key in ("classes", "inputs", "output"):
        try:
            told[key] = json.loads((texts or {})[key])
        except (KeyError, ValueError, RecursionError):
            continue
    return told
