"""What is written."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from kerastorch.checkpoint import seal
from kerastorch.checkpoint.files import replaced
from kerastorch.checkpoint.plain import plain
from kerastorch.errors import CheckpointError, needs
from kerastorch.facts import as_texts

FORMAT = 2  # 1 had no versions of kerastorch and Python, and no seal
_RECORD = 512  # its two headers, padding, and the lines of the pickle that name it
_ENTRY = 32  # a number, a text or a container


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a training state; a file of this name is there afterwards as a whole, or as it was before.

    Args:
        content: Plain containers, numbers, texts and tensors. Numbers and arrays of NumPy become those of Python and
            torch, and paths become texts.
        path: Where to; missing directories are made.

    Raises:
        CheckpointError: There is no space for it, it cannot be written, or it holds what could not be loaded again
            without running code.
    """
    _write(versions() | {key: plain(content[key], key) for key in content}, path)


def save_weights(weights: Mapping[str, Tensor], path: str | Path, told: Mapping[str, Any] | None = None) -> None:
    """Write the weights of a net, as `.safetensors` or in torch's own format.

    Args:
        weights: Tensors by name.
        path: Where to; missing directories are made.
        told: What else is known of the net, for the header of a `.safetensors` file.

    Raises:
        CheckpointError: It cannot be written.
    """
    _refuse_programs(path)
    if Path(path).suffix != ".safetensors":
        _write({name: plain(value, name) for name, value in weights.items()}, path)
        return
    safetensors = needs("safetensors.torch", purpose="A .safetensors file")
    # tied weights share memory, which the format does not know
    separate = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    header = {"format": "pt", "kerastorch": own_version()}  # Transformers asks for the format
    data = safetensors.save(separate, metadata=header | as_texts(told or {}))
    with replaced(Path(path).expanduser(), len(data)) as file:
        file.write(data)


def save_described(weights: Mapping[str, Tensor], path: str | Path, told: Mapping[str, Any]) -> None:
    """Write the weights of a net and what is known of it; in torch's format the weights are under `"model"`.

    Raises:
        CheckpointError: It cannot be written, or the suffix is that of an exported file.
    """
    _refuse_programs(path)
    if Path(path).suffix == ".safetensors":
        save_weights(weights, path, told)
    else:
        save({"model": dict(weights), "facts": dict(told)}, path)


def _refuse_programs(path: str | Path) -> None:
    if Path(path).suffix.lower() in (".onnx", ".pt2"):
        raise CheckpointError(f"{path} is the name of an exported program. Type model.export({str(path)!r}).")


def size_of(content: Any) -> int:
    """Return how many bytes `save` needs for it, a little more rather than less; memory that is shared counts once."""
    storages: dict[tuple[torch.device, int], int] = {}
    others = 0
    for leaf in leaves(content):
        if not isinstance(leaf, Tensor):
            others += _ENTRY + (len(leaf) if isinstance(leaf, (str, bytes, bytearray)) else 0)
        elif leaf.is_meta:
            others += _RECORD
        elif leaf.layout is not torch.strided:
            others += 4 * _RECORD + leaf._nnz() * (leaf.element_size() + 8 * leaf.dim())
        else:
            storage = leaf.untyped_storage()
            others += _RECORD
            storages[leaf.device, storage.data_ptr() or id(leaf)] = storage.nbytes()
    total = sum(storages.values()) + others
    return total + total // 100 + 16 * _RECORD


def own_version() -> str:
    """Return the version of kerastorch; it is above this package, and there when all of it is imported."""
    return str(import_module("kerastorch").__version__)


def versions() -> dict[str, Any]:
    """Return what is told of each file."""
    return {
        "format": FORMAT,
        "kerastorch": own_version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _write(content: dict[str, Any], path: str | Path) -> None:
    with replaced(Path(path).expanduser(), size_of(content)) as file:
        write_sealed(content, file)


def write_sealed(content: dict[str, Any], file: BinaryIO) -> None:
    """Write plain containers, and vouch for them."""
    _save_with_sums(content, file)
    seal.close(file)


def _save_with_sums(content: dict[str, Any], file: BinaryIO) -> None:
    # the seal builds on torch's sums of each record, which can be switched off for the whole process
    before = torch.serialization.get_crc32_options()
    if not before:
        torch.serialization.set_crc32_options(True)
    try:
        torch.save(content, file)
    finally:
        if not before:
            torch.serialization.set_crc32_options(False)


def leaves(tree: Any) -> Iterable[Any]:
    """Yield all that is no container, and something for each container."""
    if isinstance(tree, dict):
        yield from leaves(list(tree))
        yield from leaves([*tree.values(), *getattr(tree, "__dict__", {}).values()])
    elif isinstance(tree, (list, tuple, set)):
        yield None
        for part in tree:
            yield from leaves(part)
    else:
        yield tree
