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

MARKER = "state.pt"  # a directory without it is no checkpoint
_TEMPORARY = re.compile(r"\..+\.(?P<process>[1-9]\d*)\.tmp")
_PARTS = re.compile(r"state\.pt|.*\.(distcp|metadata|part|draft)")
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
    with _claimed(temporary), explained(path, needed):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_space(path, needed)
            with temporary.open("w+b") as file:
                _lock(file)
                yield file
                file.flush()
                os.fsync(file.fileno())
            _take_place(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # it took its place, or was never made
                temporary.unlink()


@contextlib.contextmanager
def replaced_directory(path: Path, needed: int, token: str) -> Iterator[tuple[Path, BinaryIO]]:
    """Make a directory beside the wanted one, which takes its place when all is on the disk.

    Args:
        path: The wanted one.
        needed: How many bytes will be in it.
        token: What no other directory was called by: nothing that another process left is mistaken for a part of it.

    Yields:
        The directory; and a file in it, `MARKER`, to write when all else is there.

    Raises:
        CheckpointError: It cannot be written; what was there is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{token}.{os.getpid()}.tmp")
    with _claimed(temporary), explained(path, needed):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_space(path, needed)
            temporary.mkdir()
            with (temporary / MARKER).open("w+b") as file:
                _lock(file)
                yield temporary, file
                file.flush()
                os.fsync(file.fileno())
            _sync_directory(temporary)
            _take_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_directory(path: Path) -> bool:
    """Whether a path is a checkpoint that is a directory, or has parts of one."""
    return path.is_dir() and any(path.glob("*.distcp"))


def there(path: Path) -> Path:
    """Return where a checkpoint is: a directory that was being replaced when the process was killed waits aside."""
    return path if path.exists() or not _aside(path).exists() else _aside(path)


def remove(path: Path) -> None:
    """Delete a checkpoint, if it is there; of a directory nothing is left under its name at any moment."""
    if not is_directory(path):
        path.unlink(missing_ok=True)
        return
    gone = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.rename(gone)
    shutil.rmtree(gone)


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
            shutil.rmtree(path) if path.is_dir() else path.unlink()
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
def explained(path: Path, needed: int) -> Iterator[None]:
    """Say what could not be written, and why."""
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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.before")


def _take_place(temporary: Path, path: Path) -> None:
    if is_directory(path) or (temporary.is_dir() and path.is_file()):  # which no system exchanges in one go
        remove(_aside(path))
        path.replace(_aside(path))
        temporary.replace(path)
        remove(_aside(path))
    else:
        temporary.replace(path)
    _sync_directory(path.parent)  # without it, the new name is lost with the power


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
    if match is None or path.is_symlink() or not (path.is_file() or _is_ours(path)):
        return False
    process = int(match["process"])
    if process == os.getpid():  # in a container every process may have the number of the one before
        return path not in _written
    if _is_alive(process):
        return False
    try:
        with (path / MARKER if path.is_dir() else path).open("r+b") as file:  # NFS locks only what may be written
            return _lock(file)
    except FileNotFoundError:  # what is left of a directory
        return True
    except OSError:
        return False


def _is_ours(directory: Path) -> bool:
    """Whether there is nothing in a directory but what `replaced_directory` and torch put into it."""
    names = [file.name for file in directory.iterdir()] if directory.is_dir() else []
    return bool(names) and all(_PARTS.fullmatch(name) for name in names)


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
