"""A training state whose tensors lie in parts on several processes: a directory, whole or not there, never executed.

    runs/backup-0003-0000000.pt/
    ├─ state.pt       sealed: all but these tensors, which part is where, and size and checksum of each file
    ├─ __0_0.distcp   the parts of process 0, as torch.distributed.checkpoint writes them
    ├─ __1_0.distcp
    └─ .metadata      for the tools of torch; a pickle, which is never read here

It is written under another name and moved to its place when all is on the disk, `state.pt` last.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from kerastorch.checkpoint import files, parts
from kerastorch.checkpoint.plain import is_sharded, plain
from kerastorch.checkpoint.together import Group, by_all, by_main
from kerastorch.checkpoint.writing import leaves, size_of, versions, write_sealed
from kerastorch.checkpoint.writing import save as save_file
from kerastorch.errors import CheckpointError

_INDEX, _FILES = "shards", "files"  # beside the content in state.pt
_PATIENCE = 600.0  # seconds that a write in the background waits for the parts of others


def has_shards(content: Mapping[str, Any]) -> bool:
    """Whether some tensor in a tree lies in parts on several processes."""
    return any(is_sharded(leaf) for leaf in leaves(dict(content)))


def save(content: Mapping[str, Any], path: str | Path, group: Group) -> None:
    """Write a training state with all processes; a directory of this name is there afterwards as a whole.

    Args:
        content: What `kerastorch.checkpoint.save` takes; and tensors that lie in parts on the processes. All else is
            that of the main process.
        path: Where to, the same place for all processes.
        group: They.

    Raises:
        CheckpointError: One of them cannot write; what was there is unchanged.
    """
    shards: dict[str, Tensor] = {}
    tree = {key: plain(content[key], key, shards=shards) for key in content}
    draft = Draft(tree, shards, Path(path).expanduser().absolute(), group)
    with draft.opened():
        written = group.everyone(by_all(group, draft.write))
        by_main(group, lambda: draft.commit(written))


@dataclass
class Draft:
    """A directory that is being written.

    Args:
        tree: The content in plain containers, with an empty tensor in the place of each that lies in parts.
        shards: Those tensors, by the keys that lead to them.
        path: Where it is to be.
        group: The processes.
    """

    tree: dict[str, Any]
    shards: dict[str, Tensor]
    path: Path
    group: Group
    directory: Path = field(default_factory=Path)
    _marker: BinaryIO | None = None
    _place: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Make the directory, with all processes; if it was not committed at the end, it goes."""
        self.open()
        with self._place:
            yield

    def open(self) -> None:
        """Make the directory, with all processes."""
        self.directory = Path(by_main(self.group, self._open))

    def _open(self) -> str:
        place = files.replaced_directory(self.path, self._needed(), uuid.uuid4().hex[:8])
        directory, self._marker = self._place.enter_context(place)
        return str(directory)

    def _needed(self) -> int:
        return size_of(self.tree) + sum(tensor.numel() * tensor.element_size() for tensor in self.shards.values())

    def write(self) -> dict[str, Any]:
        """Write the parts that this process has; return which they are, in plain containers."""
        with files.explained(self.path, self._needed()):
            chunks = parts.write(self.shards, self.directory, self.group.rank)
            names = sorted({chunk[3] for chunk in chunks})
            return {"chunks": chunks, "files": {name: parts.sums_of(self.directory / name) for name in names}}

    def commit(self, written: list[dict[str, Any]]) -> None:
        """Write down what all processes have written; in the main process, which then lets it take its place."""
        index: dict[str, Any] = {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).partition(".")[2], "chunks": []}
            for name, tensor in self.shards.items()
        }
        for name, *chunk in (chunk for part in written for chunk in part["chunks"]):
            if all(chunk[0] != known[0] for known in index[name]["chunks"]):  # two processes may have the same part
                index[name]["chunks"].append(chunk)
        parts.write_metadata(index, self.directory)
        known = {name: sums for part in written for name, sums in part["files"].items()}
        known[parts.METADATA] = parts.sums_of(self.directory / parts.METADATA)
        assert self._marker is not None
        write_sealed({**versions(), **self.tree, _INDEX: index, _FILES: known}, self._marker)
        self._place.close()

    def write_apart(self) -> None:
        """Write in a thread, where processes must not talk: they leave notes in the directory."""
        try:
            note = self.write()
        except Exception as error:
            note = {"error": str(error)}
        own = self.directory / f"{self.group.rank}.part"
        draft = own.with_suffix(".draft")
        draft.write_text(json.dumps(note))
        draft.replace(own)
        if self.group.is_main:
            with self._place:
                notes = [self._note(rank) for rank in range(self.group.size)]  # all are there before it may go
                for rank, found in enumerate(notes):
                    if "error" in found:
                        raise CheckpointError(f"Process {rank}: {found['error']}")
                self.commit(notes)

    def _note(self, rank: int) -> dict[str, Any]:
        note, until = self.directory / f"{rank}.part", time.monotonic() + _PATIENCE
        while not note.exists():
            if time.monotonic() > until:
                raise CheckpointError(
                    f"{self.path} could not be written: process {rank} has not written its part within "
                    f"{_PATIENCE:g} seconds. Can all processes write to {self.path.parent}, the same place for all?"
                )
            time.sleep(0.01)
        found: dict[str, Any] = json.loads(note.read_text())
        note.unlink()
        return found


def load(path: Path, mesh: Any = None, *, only: str = "", is_checked: bool = False) -> dict[str, Any]:
    """Read a directory of `save`, in any number of processes; none waits for another.

    Args:
        path: The directory.
        mesh: The processes that each tensor is to be spread over again by its first dimension, as `fully_shard` does;
            without, each is whole and on the CPU.
        only: Read those tensors alone whose keys begin so, such as `"model/"`; others have no numbers.
        is_checked: Another process has seen that it is whole.

    Raises:
        CheckpointError: It was not written to its end, or is damaged.
    """
    content, index = read_tree(path, is_checked=is_checked)
    wanted = {name: entry for name, entry in index.items() if name.startswith(only)}
    loaded = parts.read(path, wanted, mesh)
    names = iter(index)

    def found(tensor: Tensor) -> Tensor:
        return loaded.get(next(names), tensor) if tensor.is_meta else tensor

    return {key: plain(value, key, copied=found) for key, value in content.items()}


def read_tree(path: Path, *, is_checked: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is in a directory, with tensors that have no numbers in the place of those in parts, and their index.

    Raises:
        CheckpointError: It was not written to its end, or is damaged.
    """
    from kerastorch.checkpoint.reading import read  # which reads directories too

    marker = path / files.MARKER
    if not marker.is_file():
        raise CheckpointError(
            f"{path} is a directory without {files.MARKER}, so no checkpoint: it was not written to its end, or is "
            "something else."
        )
    content = read(marker)
    index, known = content.pop(_INDEX, None), content.pop(_FILES, None)
    if index is None or known is None:
        raise CheckpointError(f"{path} is no checkpoint in parts. Its file {marker} can be read by itself.")
    for name, sums in known.items():
        parts.check(path / name, sums, is_checked=is_checked)
    return content, index


def whole(weights: Mapping[str, Any], *, is_main: bool) -> dict[str, Any]:
    """Put tensors in parts together on the CPU, one by one, with all processes; the others keep nothing of them."""
    found = {}
    for name, value in weights.items():
        together = value.full_tensor().cpu() if is_sharded(value) else value
        if is_main:
            found[name] = together
    return found


def like(value: Any, own: Any) -> Any:
    """Return a tensor in the parts that another of its shape is in, or whole if that is."""
    if not is_sharded(own):
        return value.full_tensor() if is_sharded(value) else value
    if is_sharded(value):
        same = value.device_mesh == own.device_mesh and value.placements == own.placements
        return value if same else value.redistribute(own.device_mesh, own.placements)
    from torch.distributed.tensor import distribute_tensor

    # every process has all of it, and takes its own part without a word
    return distribute_tensor(value.detach(), own.device_mesh, own.placements, src_data_rank=None)


def save_together(content: Mapping[str, Any], path: str | Path, group: Group) -> None:
    """Write a training state, which all processes hand in: as one file, or as a directory if tensors are in parts.

    Raises:
        CheckpointError: One of them cannot write; all raise it, and what was there is unchanged.
    """
    if group.size > 1 and has_shards(content):
        save(content, path, group)
    else:
        by_main(group, lambda: save_file(content, path))


def mesh_of(module: torch.nn.Module) -> Any:
    """Return the processes that a net is spread over; None for one that is not."""
    parts: Iterator[Any] = (parameter for parameter in module.parameters() if is_sharded(parameter))
    return next((part.device_mesh for part in parts), None)


def size_on_disk(path: Path) -> int:
    """Return the bytes of all files."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
