"""Every byte of a file is vouched for, at the price of a few kilobytes.

torch's files are zip archives: every record has a CRC-32 of its data. Nothing vouches for the rest: headers, padding,
the table at the end. So the rest has a digest of its own, in the comment that an archive may have at its very end,
where `torch.load` and `unzip` pass over it. See https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.
"""

from __future__ import annotations

import struct
import zipfile
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

_MARK = b"kerastorch seal "
_DIGITS = 32
_COMMENT = len(_MARK) + _DIGITS
_END = b"PK\x05\x06"
_END_SIZE = 22  # with a comment of no bytes, whose length are the last two
_START = b"PK\x03\x04"


def close(file: BinaryIO) -> None:
    """Put a seal on an archive that was just written."""
    end = file.seek(0, 2) - 2
    comment = _MARK + _digest(file, end)
    file.seek(end)
    file.write(struct.pack("<H", len(comment)) + comment)


def trouble(path: Path) -> str | None:
    """Return what is wrong with a file: `"its end is missing"`; None if nothing is, or nobody can tell.

    A file that `torch.save` wrote has no seal; of it only the data are checked. One that is no archive is not checked.
    """
    with path.open("rb") as file:
        size, tail = _tail(file)
        if not size:
            return "it is empty"
        if not _is_seal(tail) and not _is_archive(file):
            return None
        if not _is_seal(tail) and not (tail[-_END_SIZE:].startswith(_END) and tail.endswith(b"\0\0")):
            return "its end is missing or has changed"
        try:
            if _is_seal(tail) and not tail.endswith(_digest(file, size - _COMMENT - 2)):
                return "it has changed since it was written"
            return _broken_record(file)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, RuntimeError) as error:
            return f"it has changed since it was written ({error})"


def is_sealed(path: Path) -> bool:
    """Whether a file has a seal, intact or not."""
    with path.open("rb") as file:
        return _is_seal(_tail(file)[1])


def is_archive(path: Path) -> bool:
    """Whether a file begins as torch's archives do; the legacy format of torch does not."""
    with path.open("rb") as file:
        return _is_archive(file)


def _tail(file: BinaryIO) -> tuple[int, bytes]:
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_SIZE - _COMMENT))
    return size, file.read()


def _is_seal(tail: bytes) -> bool:
    return tail[_END_SIZE - 2 : -_DIGITS] == struct.pack("<H", _COMMENT) + _MARK


def _is_archive(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(_START)) == _START


def _broken_record(file: BinaryIO) -> str | None:
    with zipfile.ZipFile(file) as archive:
        if not any(record.CRC for record in archive.infolist()):
            return None  # torch was told to do without
        broken = archive.testzip()
    return None if broken is None else f"the part {broken} has changed since it was written"


def _digest(file: BinaryIO, end: int) -> bytes:
    """Return the digest of all before `end` that is not the data of a record."""
    with zipfile.ZipFile(file) as archive:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
    digest = blake2b(digest_size=_DIGITS // 2)
    position = 0
    for record in records:
        # the header in front of the data: 30 bytes, of which the last 4 say how long the rest of it is
        file.seek(record.header_offset + 26)
        begin = record.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        digest.update(_part(file, position, begin))
        position = begin + record.compress_size
    digest.update(_part(file, position, end))
    return digest.hexdigest().encode()


def _part(file: BinaryIO, begin: int, end: int) -> bytes:
    if end < begin:
        raise ValueError("its parts overlap")
    file.seek(begin)
    return file.read(end - begin)
