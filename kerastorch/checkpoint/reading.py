"""What is read."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kerastorch.checkpoint import files, seal
from kerastorch.checkpoint.plain import plain
from kerastorch.checkpoint.weights import weights_in
from kerastorch.checkpoint.writing import FORMAT, own_version
from kerastorch.errors import CheckpointError, did_you_mean, needs
from kerastorch.facts import from_texts


def load(
    path: str | Path,
    map_location: str | torch.device = "cpu",
    *,
    mesh: Any = None,
    only: str = "",
    is_checked: bool = False,
) -> dict[str, Any]:
    """Read a file of `save` or of `torch.save`, or a directory of FSDP, without running any code that is in it.

    Args:
        path: The file or directory.
        map_location: Where its tensors go; the CPU by default, wherever they were.
        mesh: The processes that tensors of a directory are to be spread over; without, each is whole, and
            `map_location` says where. No process waits for another.
        only: Of a directory, read those tensors alone whose keys begin so, such as `"model/"`.
        is_checked: Another process has seen that the directory is whole.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It is damaged, was written by a newer kerastorch, or holds more than tensors and plain
            containers.
    """
    path = files.there(Path(path).expanduser())
    if not path.is_dir():
        return read(path, map_location)
    from kerastorch.checkpoint import sharded

    content = sharded.load(path, mesh, only=only, is_checked=is_checked)
    if mesh is not None or torch.device(map_location).type == "cpu":
        return content
    return {key: plain(value, key, copied=lambda tensor: tensor.to(map_location)) for key, value in content.items()}


def load_weights(path: str | Path, mesh: Any = None) -> Mapping[str, Tensor]:
    """Read the weights in a file or a directory, and of a directory nothing else."""
    return weights_in(load(path, mesh=mesh, only="model/"))


def load_described(path: str | Path, mesh: Any = None) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Do what `load_weights` does; return as well what the file tells of classes and inputs."""
    content = load(path, mesh=mesh, only="model/")
    return weights_in(content), told_in(content, path)


def told_in(content: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return what a file tells of classes and inputs, given what was read of it."""
    if Path(path).suffix != ".safetensors":
        told = content.get("facts")
        return dict(told) if isinstance(told, Mapping) else {}
    safetensors = needs("safetensors", purpose="A .safetensors file")
    with safetensors.safe_open(Path(path).expanduser(), framework="pt") as file:
        return from_texts(file.metadata())


def read(path: str | Path, map_location: str | torch.device = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """Do what `load` does; with `mmap`, tensors are read when they are used."""
    path = Path(path).expanduser()
    if not path.exists():
        others = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"There is no file {path}.{did_you_mean(path.name, others)}")
    if path.suffix == ".safetensors":
        safetensors = needs("safetensors.torch", purpose="A .safetensors file")
        with _explained(path):
            weights: dict[str, Any] = safetensors.load_file(path, device=str(map_location))
            return weights
    torch.empty(0, device=map_location)  # a device that is not there is no fault of the file
    with _explained(path):
        trouble = seal.trouble(path)
        if trouble is not None:
            raise CheckpointError(f"{path} is damaged or no checkpoint ({path.stat().st_size:,} bytes): {trouble}.")
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and seal.is_archive(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a checkpoint holds a dict of tensors.")
    _check_version(content, path)
    return content


def _check_version(content: dict[str, Any], path: Path) -> None:
    number = content.get("format")
    if "torch" not in content or not isinstance(number, int) or number <= FORMAT:  # others may have a "format" as well
        return
    raise CheckpointError(
        f"{path} was written by kerastorch {content.get('kerastorch')}, in format {number}; this is kerastorch "
        f"{own_version()}, which reads formats up to {FORMAT}. Type: pip install -U kerastorch"
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error.strerror or error}.") from error
    except Exception as error:  # torch raises nearly anything for a damaged file
        text = str(error)
        if "GLOBAL" in text:  # a name that is no tensor, in the language of pickle
            raise CheckpointError(
                f"{path} holds more than tensors and would run code when loaded; it was left alone. If it is a whole "
                "net saved by torch.save(net, ...), save net.state_dict() instead."
            ) from error
        verdict = "could not be loaded" if seal.is_sealed(path) else "is damaged or no checkpoint"
        if isinstance(error, (pickle.UnpicklingError, LookupError)):  # which advises to run it, or says nothing
            text = "its content is not what torch.save writes"
        raise CheckpointError(
            f"{path} {verdict} ({path.stat().st_size:,} bytes): {text.strip().rstrip('.') or type(error).__name__}."
        ) from error
