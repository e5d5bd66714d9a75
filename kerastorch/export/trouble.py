"""What stands in the way of an export, in a few lines in place of torch's pages."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from kerastorch.errors import ExportError

_OURS = str(Path(__file__).resolve().parent.parent)
_PYTHON = sysconfig.get_paths()["stdlib"]
_TORCH = str(Path(torch.__file__).resolve().parent)
_LONGEST = 300  # characters of somebody else's sentence
_OPERATION = re.compile(
    r"(?:No ONNX function found for|No decompositions registered for|Unsupported).*?op(?:erator)?='?([\w.]+)"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What a message holds, what it means, and what to do; the first that fits
_KNOWN = (
    (
        ("numpy", "FakeTensor", "data pointer"),
        "the net leaves torch here, for NumPy or another library, whose work is not a part of a graph",
        "Use functions of torch.",
    ),
    (
        (".item()", "_local_scalar_dense", "aten.item"),
        "a tensor becomes a number of Python here, by .item(), int() or float()",
        "Leave it a tensor.",
    ),
    (
        ("data-dependent", "guard on data", "DynamicBoolError", "Could not guard", "bool(", "is_nonzero"),
        "what is computed depends on the values of a tensor here, and a graph has one way only",
        "For a branch type torch.where(condition, a, b); for a loop over values, a computation on whole tensors, or "
        "torch.cond. A value that is a tensor must not become a number: no .item(), no if tensor.",
    ),
    (
        ("Constraints violated", "constant", "specialized", "not all values of batch", "ConstraintViolation"),
        "the size of the batch is fixed somewhere in the net",
        "Take it from the input: x.view(x.shape[0], -1) or x.flatten(1), never a number, len() of a list or int().",
    ),
    (
        ("pytree", "output type", "unsupported type"),
        "the net takes or returns an object that is no tensor, dict, list or tuple",
        "Return a tensor, or a dict or tuple of tensors.",
    ),
)


@contextmanager
def explained(net: nn.Module, exporter: str) -> Iterator[None]:
    """Say in a few lines why a net cannot be exported, where, and what to do.

    Raises:
        ExportError: It cannot.
    """
    try:
        yield
    except Exception as error:
        raise ExportError(_text(net, error, exporter)) from None  # torch's traceback is a hundred lines of its own


def _text(net: nn.Module, error: Exception, exporter: str) -> str:
    said = [_COLOUR.sub("", str(part)) for part in _chain(error)]
    everything = "\n".join(said)
    sentence = _sentence(said[-1] if "ONNX" in exporter else everything)  # whose own errors tell how to report them
    operation = _OPERATION.search(everything)
    line = _line(error)
    begin = f"{type(net).__name__} cannot be exported"
    if operation is not None and "ONNX" in exporter:
        return (
            f"{begin} to ONNX: there is no operation for {operation[1]}. Compute it by other functions of torch, or "
            "export to a .pt2 file, which knows all of them."
        )
    where = f"\n  {line}" if line else ""
    for marks, meaning, advice in _KNOWN:
        if any(mark in everything for mark in marks):
            return f"{begin}: {meaning}.{where}\n  {exporter}: {sentence}\n{advice}"
    return f"{begin}.{where}\n  {exporter}: {sentence}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: Exception) -> str:
    """Return the last line of the user's own code on the way to an error."""
    for part in _chain(error):
        own = [frame for frame in traceback.extract_tb(part.__traceback__) if _is_users(frame.filename)]
        if own:
            return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line or ''}".removesuffix(": ")
    return ""


def _is_users(filename: str) -> bool:
    is_pythons = filename.startswith(_PYTHON) and "site-packages" not in filename
    return not filename.startswith((_OURS, _TORCH, "<")) and not is_pythons


def _sentence(text: str) -> str:
    """Return the first sentence that says something."""
    lines = [line.strip() for line in text.splitlines()]
    said = next((line for line in lines if len(line) > 20 and line[0] not in "-#="), lines[0] if lines else "")
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
