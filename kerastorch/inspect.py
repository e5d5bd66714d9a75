"""Show what is in checkpoints: `python -m kerastorch.inspect FILE_OR_DIRECTORY...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kerastorch import checkpoint

_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is in each file; return 1 if one is missing or damaged, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m kerastorch.inspect", description="Show what is in checkpoints. Exit code 1: one is not whole."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a directory of files")
    is_good = True
    for path in parser.parse_args(arguments).paths:
        found = list(_files(path))
        if not found:
            print(f"There is no checkpoint in {path}.")
            is_good = False
        for file in found:
            is_good &= _show(file)
    return 0 if is_good else 1


def _files(path: Path) -> Iterator[Path]:
    path = path.expanduser()
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.iterdir() if _is_checkpoint(file))


def _is_checkpoint(path: Path) -> bool:
    return path.suffix in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _show(path: Path) -> bool:
    try:
        information = checkpoint.inspect(path)
    except FileNotFoundError as error:
        print(error)
        return False
    print(information)
    return information.is_whole


if __name__ == "__main__":  # pragma: no cover - run by a test in a process of its own
    sys.exit(main())
