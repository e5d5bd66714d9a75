"""Lines of a text file, each of which is there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def add(path: Path, lines: str, *, anew: bool = False) -> None:
    """Add lines to a file, all or none; whatever kills the process, they are on their way to the disk afterwards.

    Args:
        path: The file.
        lines: The text, with its line ends.
        anew: Overwrite the file.

    Raises:
        OSError: They cannot be written, as on a full disk.
    """
    rest = memoryview(lines.encode())
    with path.open("wb" if anew else "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END) if file.seekable() else 0
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            with suppress(OSError):  # a device, or a pipe
                file.truncate(end)  # the next line must not go on where this one ends
            raise


def size(path: Path) -> int:
    """Return how many bytes a file has; 0 for what is no file."""
    return path.stat().st_size if path.is_file() else 0


def mend(path: Path, is_whole: Callable[[bytes], bool]) -> None:
    """End the last line of a file where only its line end is missing; take it away where it is torn."""
    if not path.is_file():
        return  # a device, or a pipe
    text = path.read_bytes()
    start = text.rfind(b"\n") + 1
    if start == len(text):
        return
    if is_whole(text[start:]):
        add(path, "\n")
    else:
        os.truncate(path, start)


def go_on(path: Path, start: int, lines: str) -> None:
    """Let a file have these lines from a place on, and nothing behind them; as far as it has them, it is only cut.

    Args:
        path: The file; what is no file is left alone.
        start: The place, in bytes; where the file is shorter, its end.
        lines: The text, with its line ends.
    """
    if not path.is_file():
        return  # a device, or a pipe
    wanted, there = lines.encode(), path.read_bytes()
    pairs = zip(wanted, there[start:], strict=False)
    same = next((place for place, (mine, other) in enumerate(pairs) if mine != other), None)
    if same is None:  # one of them is how the other begins
        same = min(len(wanted), max(len(there) - start, 0))
    os.truncate(path, min(start, len(there)) + same)
    if same < len(wanted):
        add(path, wanted[same:].decode())
