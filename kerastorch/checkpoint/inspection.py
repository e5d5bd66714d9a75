"""What is in a file, without a net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kerastorch.checkpoint import files, sharded
from kerastorch.checkpoint.reading import read, told_in
from kerastorch.checkpoint.weights import weights_in
from kerastorch.errors import CheckpointError
from kerastorch.facts import names_in
from kerastorch.history import format_number

_WIDTH = 80  # of a line of names
_VERSIONS = ("kerastorch", "torch", "python", "format")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a file holds; printed, it is a small table.

    Attributes:
        path: The file or directory.
        size: Its bytes.
        damage: What is wrong with it; None for a whole one. Of a damaged file nothing else is known.
        kind: `"training state"`, `"weights"`, `"safetensors weights"`, or `"unknown"`; for a directory `"training state
            in parts"`.
        epoch: Epochs finished, None where the file does not tell.
        batch: Batches finished in the epoch after them.
        step: Optimizer steps.
        metrics: The values of the last finished epoch.
        tensors: How many tensors the net has, buffers included.
        parameters: How many numbers there are in them; those of tied weights count once.
        versions: Of kerastorch, torch and Python that wrote it, and of the format.
        classes: The names of the classes, where it tells them.
        inputs: The form of the inputs, where it tells: `["float32", [1, 28, 28]]` without the batch, or a nest of such.
    """

    path: Path
    size: int
    damage: str | None = None
    kind: str = "unknown"
    epoch: int | None = None
    batch: int | None = None
    step: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tensors: int = 0
    parameters: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    inputs: Any = None

    @property
    def is_whole(self) -> bool:
        """Whether it can be loaded."""
        return self.damage is None

    def __str__(self) -> str:
        rows = {
            "kind": self.kind,
            "state": "whole" if self.damage is None else f"DAMAGED: {self.damage}",
            "size": f"{self.size:,} bytes",
        }
        if self.damage is None:
            rows["net"] = f"{_counted(self.parameters, 'parameter')} in {_counted(self.tensors, 'tensor')}"
        if self.inputs:
            rows["inputs"] = json.dumps(self.inputs)
        if self.classes:
            rows["classes"] = f"{len(self.classes)}: {_shortened(', '.join(self.classes))}"
        if self.epoch is not None:
            rows["progress"] = self._progress()
        if self.metrics:
            rows["last epoch"] = ", ".join(f"{name} {_told(value)}" for name, value in self.metrics.items())
        if self.versions:
            rows["written by"] = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join([str(self.path), *(f"  {name:<12}{value}" for name, value in rows.items())])

    def _progress(self) -> str:
        epochs = _counted(self.epoch or 0, "epoch") + (f" and {_counted(self.batch, 'batch')}" if self.batch else "")
        return epochs if self.step is None else f"{epochs}, {_counted(self.step, 'step')}"


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}{'es' if name == 'batch' else 's'}"


def inspect(path: str | Path) -> CheckpointInfo:
    """Tell what is in a file, without a net, and whether it is whole: all of it is read for that.

    Example:
        >>> print(kt.checkpoint.inspect("runs/backup-0003-0000000.pt"))

    Args:
        path: A file of kerastorch, of `torch.save`, or of safetensors; or a directory that was written under FSDP.

    Raises:
        FileNotFoundError: There is none.
    """
    path = files.there(Path(path).expanduser())
    try:
        content = sharded.read_tree(path)[0] if path.is_dir() else read(path, mmap=True)
    except CheckpointError as error:
        return CheckpointInfo(path, sharded.size_on_disk(path), damage=_reason(error, path))
    weights = _tensors(weights_in(content))
    progress = content.get("progress")
    is_ours = "format" in content
    is_state = isinstance(progress, Mapping) and is_ours
    told = told_in(content, path)
    return CheckpointInfo(
        path,
        sharded.size_on_disk(path),
        kind=_kind(path, weights, is_state=is_state),
        **(_progress(content) if is_state else {}),
        tensors=len(weights),
        parameters=sum({_place(tensor): tensor.numel() for tensor in weights}.values()),
        versions={name: str(content[name]) for name in _VERSIONS if is_ours and name in content},
        classes=names_in(told.get("classes")) or (),
        inputs=told.get("inputs"),
    )


def _progress(content: Mapping[str, Any]) -> dict[str, Any]:
    progress = content["progress"]
    history = content.get("history")
    rows = history.get("rows") if isinstance(history, Mapping) else None
    return {name: progress.get(name) for name in ("epoch", "batch", "step")} | {
        "metrics": dict(rows[-1]) if rows else {}
    }


def _kind(path: Path, weights: list[Tensor], *, is_state: bool) -> str:
    if is_state:
        return "training state in parts" if path.is_dir() else "training state"
    if path.suffix == ".safetensors":
        return "safetensors weights"
    return "weights" if weights else "unknown"


def _tensors(weights: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in weights.values() if isinstance(value, Tensor)]


def _place(tensor: Tensor) -> Any:
    """Return what is equal for tied weights."""
    has_place = tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta
    return (tensor.data_ptr(), tensor.shape) if has_place else id(tensor)


def _reason(error: CheckpointError, path: Path) -> str:
    text = str(error).removeprefix(f"{path} ").rstrip(".")
    return text.partition(" bytes): ")[2] or text  # the size is told anyway


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def _told(value: Any) -> str:
    return format_number(value) if isinstance(value, (int, float)) else str(value)
