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
