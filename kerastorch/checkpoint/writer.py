"""Write while the training goes on."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kerastorch.checkpoint.plain import plain
from kerastorch.checkpoint.sharded import Draft, has_shards
from kerastorch.checkpoint.together import Group, by_all
from kerastorch.checkpoint.writing import save


class Writer:
    """Writes training states in a thread of its own, one at a time.

    `submit` returns as soon as the state is copied; training may change it at once. The copy is kept in memory for the
    next one, so a state is held twice. The end of the program waits for a file that is being written.

    Example:
        >>> writer = Writer()
        >>> writer.submit(state.state_dict(), "runs/2.pt", then=lambda: Path("runs/1.pt").unlink())
        >>> writer.wait()
    """

    def __init__(self) -> None:
        self._snapshot = _Snapshot()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return "Writer()"

    def submit(
        self,
        content: Mapping[str, Any],
        path: str | Path,
        then: Callable[[], object] | None = None,
        *,
        group: Group | None = None,
    ) -> None:
        """Copy a training state, and begin to write it; a file that is being written is waited for.

        Args:
            content: What `save` takes.
            path: Where to.
            then: What to do when the file is on the disk, in the thread; not done if it could not be written.
            group: The processes that train together, which all do this. The main one writes what is not in parts; the
                others do what is to be done then when their own part is written.

        Raises:
            CheckpointError: It holds what could not be loaded again, or the file before could not be written.
        """
        self.wait() if group is None else by_all(group, self.wait)
        path = Path(path).expanduser().absolute()  # the program may change its directory
        work = self._prepared(content, path, group)
        # No daemon: the program would end in the middle of the file
        self._thread = threading.Thread(target=self._write, args=(work, then), name=f"kerastorch writes {path}")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last file is on the disk.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the error of the last file, if there was one that was not raised before; does not wait.

        Raises:
            CheckpointError: It could not be written.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _prepared(self, content: Mapping[str, Any], path: Path, group: Group | None) -> Callable[[], None]:
        """Copy what is to be written; return what writes it."""
        shards: dict[str, Tensor] | None = None
        if group is not None and has_shards(content):
            shards = {}
        elif group is not None and not group.is_main:
            return lambda: None  # the main process writes it
        copied = self._snapshot.take(content, shards)
        if shards is None or group is None:
            return functools.partial(save, copied, path)
        draft = Draft(copied, shards, path, group)
        draft.open()
        return draft.write_apart

    def _write(self, work: Callable[[], None], then: Callable[[], object] | None) -> None:
        try:
            work()
            if then is not None:
                then()
        except BaseException as error:  # for the thread that trains
            self._error = error


class _Snapshot:
    """Copies of tensors on the CPU, in memory that is used again."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, bool], list[Tensor]] = {}

    def take(self, content: Mapping[str, Any], shards: dict[str, Tensor] | None = None) -> dict[str, Any]:
        """Return a copy that shares nothing with the content, nor with anything but the copy before, which is lost.

        Args:
            content: What is copied.
            shards: Where to put copies of tensors that lie in parts on several processes.
        """
        unused, used = self._buffers, defaultdict[tuple[int, bool], list[Tensor]](list)
        copies: dict[tuple[torch.device, int, int], Tensor] = {}
        devices = set()

        def copied(tensor: Tensor) -> Tensor:
            tensor = tensor.detach().resolve_conj().resolve_neg()
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
                return tensor.to("cpu", copy=True)
            storage = tensor.untyped_storage()
            place = (tensor.device, storage.data_ptr(), storage.nbytes())
            if place not in copies:  # tensors that share their memory share its copy
                kind = (storage.nbytes(), tensor.is_cuda)
                free = unused.get(kind)
                buffer = free.pop() if free else _buffer(*kind)
                source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
                copies[place] = buffer.copy_(source, non_blocking=True)
                used[kind].append(buffer)
                devices.add(tensor.device)
            view = torch.empty(0, dtype=tensor.dtype, device="cpu")
            memory = copies[place].untyped_storage()
            return view.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())

        with torch.no_grad():
            result = {key: plain(content[key], str(key), copied=copied, shards=shards) for key in content}
            for name in shards or ():
                shards[name] = shards[name].to("cpu", copy=True)  # type: ignore[index]
        for device in devices:
            if device.type != "cpu":  # pragma: no cover - tests/gpu
                torch.accelerator.synchronize(device)  # the copies must be complete before training goes on
        self._buffers = dict(used)
        return result


def _buffer(size: int, is_pinned: bool) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=is_pinned)
