"""Files: whole or not there, and never executed."""

from __future__ import annotations

import contextlib
import copy
import os
import reprlib
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kerastorch.errors import CheckpointError, did_you_mean, needs

FORMAT = 1
_PLAIN = (bool, int, float, complex, str, bytes)
_WRAPPERS = ("module.", "_orig_mod.", "net.")  # DataParallel, torch.compile, torchkeras


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a training state; a file of this name is there afterwards as a whole, or as it was before.

    Args:
        content: Plain containers, numbers, texts and tensors. Numbers and arrays of NumPy become those of Python and
            torch.
        path: Where to; missing directories are made.

    Raises:
        CheckpointError: It cannot be written, or holds what could not be loaded again without running code.
    """
    plain = {"format": FORMAT, "torch": str(torch.__version__)} | {key: _plain(content[key], key) for key in content}
    with _replaced(Path(path).expanduser()) as file:
        torch.save(plain, file)


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Write the weights of a net, as `.safetensors` or in torch's own format.

    Raises:
        CheckpointError: It cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        with _replaced(path) as file:
            torch.save(dict(weights), file)
        return
    safetensors = needs("safetensors.torch", purpose="A .safetensors file")
    # tied weights share memory, which the format does not know
    separate = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    with _replaced(path) as file:
        file.write(safetensors.save(separate))


def load(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a file of `save` or of `torch.save`, without running any code that is in it.

    Args:
        path: The file.
        map_location: Where its tensors go; the CPU by default, wherever they were.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It is damaged, or holds more than tensors and plain containers.
    """
    path = Path(path).expanduser()
    if not path.exists():
        others = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"There is no file {path}.{did_you_mean(path.name, others)}")
    if path.suffix == ".safetensors":
        safetensors = needs("safetensors.torch", purpose="A .safetensors file")
        with _explained(path):
            weights: dict[str, Any] = safetensors.load_file(path, device=str(map_location))
            return weights
    with _explained(path):
        _test_crc(path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a checkpoint holds a dict of tensors.")
    return content


def weights_in(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights in what `load` gave: all of it, or the `"model"` of a training state."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(key), Mapping):
            found: Mapping[str, Tensor] = content[key]
            return found
    return content


def load_into(module: nn.Module, weights: Mapping[str, Tensor], source: str | Path, *, strict: bool = True) -> None:
    """Copy weights into a net, all or none.

    The prefix that DataParallel, `torch.compile` or torchkeras put before every name is taken off.

    Args:
        module: The net, on any device.
        weights: Tensors by name.
        source: Where they are from, for messages.
        strict: Whether every weight must have its place, and every place its weight. Shapes must always agree.

    Raises:
        CheckpointError: Names or shapes differ; the net is as it was.
    """
    own = module.state_dict()
    for prefix in _WRAPPERS:
        if weights and not set(weights) & set(own) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    for prefix in ("_orig_mod.", "module."):  # plain weights, a compiled or parallel net
        if own and not set(weights) & set(own) and all(name.startswith(prefix) for name in own):
            weights = {prefix + name: value for name, value in weights.items()}
    missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the net"
        for name in own
        if isinstance(own[name], Tensor)
        and not is_lazy(own[name])
        and name in weights
        and weights[name].shape != own[name].shape
    ]
    if len(missing) == len(own) and unknown:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: no name agrees. "
            f"It has {unknown[0]}, the net has {missing[0]}."
        )
    problems = [_listed("not in the file", missing), _listed("not in the net", unknown)] if strict else []
    problems.append(_listed("of another shape", shapes))
    if any(problems):
        raise CheckpointError(f"{source} does not fit {type(module).__name__}. {' '.join(filter(None, problems))}")
    module.load_state_dict(weights, strict=strict)


def _plain(tree: Any, place: str) -> Any:
    """Return a tree that `load` can read."""
    if tree is None or type(tree) in _PLAIN or isinstance(tree, (Tensor, torch.Size, torch.dtype, torch.device)):
        return tree
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biufc":
        return torch.from_numpy(tree.copy())
    if isinstance(tree, (OrderedDict, Counter)) or type(tree) is dict:
        items = {_plain(key, f"a key of {place}"): _plain(value, f"{place}/{key}") for key, value in tree.items()}
        return _with_attributes(tree, items)
    if type(tree) in (list, tuple, set):
        return type(tree)(_plain(value, f"{place}/{index}") for index, value in enumerate(tree))
    raise CheckpointError(
        f"{place} is a {type(tree).__name__}, {reprlib.repr(tree)}, which could not be loaded again without running "
        "code. A checkpoint holds numbers, texts and tensors, and lists and dicts of them."
    )


def _with_attributes(tree: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    """Return the items as a dict of the kind of another; torch notes the versions of modules in its attributes."""
    if type(tree) is dict:
        return items
    copied = copy.copy(tree)
    copied.clear()
    for key, value in items.items():
        copied[key] = value
    return copied


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}."


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside the wanted one, which takes its place when all is written and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} could not be written: {_reason(error)}. What was there is unchanged.") from error
    finally:
        with contextlib.suppress(OSError):  # it took its place, or the directory is none
            temporary.unlink()


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # pragma: no cover - directories cannot be opened there
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: BaseException) -> str:
    # torch's own text says nothing; the reason of the system is the OSError behind it
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # torch raises nearly anything for a damaged file
        if "GLOBAL" in str(error):  # a name that is no tensor, in the language of pickle
            raise CheckpointError(
                f"{path} holds more than tensors and would run code when loaded; it was left alone. If it is a whole "
                "net saved by torch.save(net, ...), save net.state_dict() instead."
            ) from error
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({size} bytes): {str(error) or type(error).__name__}."
        ) from error


def _test_crc(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"{path} is damaged: the part {broken} has changed since it was written.")
