"""A file that takes its place when it is whole and on the disk."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from kerastorch.errors import CheckpointError

if os.name != "nt":  # pragma: no branch
    import fcntl

_TEMPORARY = re.compile(r"\..+\.(?P<process>[1-9]\d*)\.tmp")
_written: set[Path] = set()  # the temporary files of this process
_changes = threading.Condition()


@contextlib.contextmanager
def replaced(path: Path, needed: int) -> Iterator[BinaryIO]:
    """Open a file beside the wanted one, to write and to read, which takes its place when all is on the disk.

    Args:
        path: The wanted one; missing directories are made.
        needed: How many bytes it will have. Without as much space nothing is begun.

    Raises:
        CheckpointError: It cannot be written; what was there is unchanged.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _claimed(temporary), _explained(path, needed):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_space(path, needed)
            with temporary.open("w+b") as file:
                _lock(file)
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_directory(path.parent)  # without it, the new name is lost with the power
        finally:
            with contextlib.suppress(OSError):  # it took its place, or was never made
                temporary.unlink()


def sweep(directory: str | Path) -> list[Path]:
    """Delete what processes that were killed while they wrote have left in a directory, and return the paths.

    Only the temporary files of `save` and `save_weights` are looked at. One that a live process writes is left alone,
    also where that process runs on another machine and the file system knows locks.
    """
    try:
        found = [path.absolute() for path in Path(directory).expanduser().iterdir()]
    except OSError:  # there is none, or it cannot be read
        return []
    abandoned = [path for path in sorted(found) if _is_abandoned(path)]
    removed = []
    for path in abandoned:
        with contextlib.suppress(OSError):  # another process was faster, or nobody may
            path.unlink()
            removed.append(path)
    return removed


@contextlib.contextmanager
def _claimed(temporary: Path) -> Iterator[None]:
    """Wait until no other thread writes this file."""
    with _changes:
        _changes.wait_for(lambda: temporary not in _written)
        _written.add(temporary)
    try:
        yield
    finally:
        with _changes:
            _written.discard(temporary)
            _changes.notify_all()


@contextlib.contextmanager
def _explained(path: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError) as error:
        free = _free(path)
        space = "" if free is None else f" {needed:,} bytes are needed, {free:,} are free."
        raise CheckpointError(
            f"{path} could not be written: {_reason(error)}.{space} What was there is unchanged."
        ) from error


def _reason(error: BaseException) -> str:
    # torch's own text says nothing; the reason of the system is the OSError behind it
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error)


def _check_space(path: Path, needed: int) -> None:
    free = _free(path)
    if free is not None and free < needed:
        raise CheckpointError(
            f"{path} could not be written: no space left on the device. {needed:,} bytes are needed, {free:,} are "
            "free. What was there is unchanged."
        )


def _free(path: Path) -> int | None:
    """Return the free bytes of the file system; None where it does not tell."""
    existing = next((parent for parent in path.parents if parent.exists()), None)
    if existing is None:  # pragma: no cover - a drive that is gone
        return None
    try:
        usage = shutil.disk_usage(existing)
    except OSError:
        return None
    return usage.free if usage.total else None


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # pragma: no cover - directories cannot be opened there
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed, and be it by the end of the process; False where another has locked it."""
    if os.name != "nt":  # pragma: no branch
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _is_abandoned(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or path.is_symlink() or not path.is_file():
        return False
    process = int(match["process"])
    if process == os.getpid():  # in a container every process may have the number of the one before
        return path not in _written
    if _is_alive(process):
        return False
    try:
        with path.open("r+b") as file:  # NFS locks only what may be written
            return _lock(file)
    except OSError:
        return False


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # pragma: no cover - there, asking would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
