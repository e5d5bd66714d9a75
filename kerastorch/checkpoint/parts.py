"""The parts of tensors in files, as torch.distributed.checkpoint writes and reads them; its pickles are never read."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import CheckpointError

METADATA = ".metadata"  # what torch calls it
_BLOCK = 1 << 24


def write(shards: dict[str, Tensor], directory: Path, rank: int) -> list[Any]:
    """Write the parts of tensors that this process has; return name, offsets, sizes, file, position, length of each."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    # Not by its `save`: that talks to the other processes, which a thread must not while training does
    planner, writer = DefaultSavePlanner(flatten_state_dict=False), FileSystemWriter(directory)
    names = {_dotted(name): name for name in shards}
    planner.set_up_planner({name: shards[names[name]].detach() for name in names})
    writer.set_up_storage_writer(is_coordinator=False, rank=rank, use_collectives=False)
    plan = planner.finish_plan(writer.prepare_local_plan(planner.create_local_plan()))
    sizes = {
        (item.index.fqn, item.index.offset): item.tensor_data.chunk.sizes for item in plan.items if item.tensor_data
    }
    with _quiet():
        results = writer.write_data(plan, planner).wait()
    return [
        [
            names[(index := result.index).fqn],
            list(index.offset or ()),
            list(sizes[index.fqn, index.offset]),
            (place := result.storage_data).relative_path,
            place.offset,
            place.length,
        ]
        for result in results
    ]


def _dotted(name: str) -> str:
    return name.replace("/", ".")  # as torch has it


def _metadata(index: Mapping[str, Any]) -> Any:
    """Return what torch.distributed.checkpoint knows of a directory."""
    from torch.distributed.checkpoint import metadata as torchs
    from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo

    tensors: dict[str, Any] = {}
    places: dict[Any, Any] = {}
    for name, entry in index.items():
        properties = torchs.TensorProperties(dtype=getattr(torch, entry["dtype"]))
        chunks = []
        for offsets, sizes, *place in entry["chunks"]:
            chunks.append(torchs.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            places[torchs.MetadataIndex(_dotted(name), offsets)] = _StorageInfo(*place)
        tensors[_dotted(name)] = torchs.TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
    keys = {_dotted(name): tuple(name.split("/")) for name in index}
    return torchs.Metadata(tensors, keys, places, torchs.StorageMeta(), CURRENT_DCP_VERSION)


def write_metadata(index: Mapping[str, Any], directory: Path) -> None:
    """Write what the tools of torch want to know, such as `torch.distributed.checkpoint.format_utils`."""
    with (directory / METADATA).open("wb") as file:
        pickle.dump(_metadata(index), file)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, index: Mapping[str, Any], mesh: Any) -> dict[str, Any]:
    """Return the tensors of an index: each whole, or this process's part of it."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        def read_metadata(self, *arguments: Any, **options: Any) -> Any:
            return _metadata(index)  # not from the file, which could run code

    tensors = {
        _dotted(name): _empty(entry["shape"], getattr(torch, entry["dtype"]), mesh) for name, entry in index.items()
    }
    try:
        with _quiet():
            planner = DefaultLoadPlanner(flatten_state_dict=False)
            load(tensors, storage_reader=Reader(path), planner=planner, no_dist=True)
    except CheckpointException as error:  # a BaseException
        raise CheckpointError(f"{path} could not be loaded: {error}.") from error
    return {name: tensors[_dotted(name)] for name in index}


def _empty(shape: list[int], dtype: torch.dtype, mesh: Any) -> Tensor:
    if mesh is None:
        return torch.empty(shape, dtype=dtype, device="cpu")
    from torch.distributed.tensor import Replicate, Shard, empty

    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0) if shape else Replicate()]
    return empty(*shape, dtype=dtype, device_mesh=mesh, placements=placements)


def sums_of(path: Path) -> list[int]:
    """Return size and checksum of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def check(path: Path, sums: list[int], *, is_checked: bool) -> None:
    """See that a file is as `sums_of` has found it; that another process has checked it leaves its size to be seen.

    Raises:
        CheckpointError: It is not.
    """
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise CheckpointError(f"{path.parent} is damaged: {path.name} is missing.")
    if size != sums[0]:
        raise CheckpointError(f"{path.parent} is damaged: {path.name} has {size:,} bytes of {sums[0]:,}.")
    if not is_checked and sums_of(path) != sums:
        raise CheckpointError(f"{path.parent} is damaged: {path.name} has changed since it was written.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of each call without a process group
        yield
