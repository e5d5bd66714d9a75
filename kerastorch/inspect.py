"""Show what is in checkpoints: `python -m kerastorch.inspect FILE_OR_DIRECTORY...`.

With `--consolidate CHECKPOINT OUT` the weights of one, also of a directory that was written under FSDP, become a plain
file, `.safetensors` or torch's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kerastorch import checkpoint
from kerastorch.errors import CheckpointError

_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is in each file, or write weights; return 1 if one is missing or damaged, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m kerastorch.inspect", description="Show what is in checkpoints. Exit code 1: one is not whole."
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a checkpoint, or a directory of them")
    parser.add_argument(
        "--consolidate",
        nargs=2,
        type=Path,
        metavar=("CHECKPOINT", "OUT"),
        help="write its weights to a plain file, such as weights.safetensors or weights.pt",
    )
    given = parser.parse_args(arguments)
    if not given.paths and not given.consolidate:
        parser.error("name a checkpoint, or a directory of them")
    is_good = not given.consolidate or _consolidate(*given.consolidate)
    for path in given.paths:
        found = list(_files(path))
        if not found:
            print(f"There is no checkpoint in {path}.")
            is_good = False
        for file in found:
            is_good &= _show(file)
    return 0 if is_good else 1


def _files(path: Path) -> Iterator[Path]:
    path = path.expanduser()
    if not path.is_dir() or checkpoint.is_directory(path):
        yield path
        return
    yield from sorted(file for file in path.iterdir() if _is_checkpoint(file))


def _is_checkpoint(path: Path) -> bool:
    is_file = path.suffix in _SUFFIXES and path.is_file()
    return not path.name.startswith(".") and (is_file or checkpoint.is_directory(path))


def _consolidate(path: Path, out: Path) -> bool:
    try:
        weights = checkpoint.load_weights(path)
        checkpoint.save_weights(weights, out)
    except (FileNotFoundError, CheckpointError) as error:
        print(error)
        return False
    print(f"{len(weights):,} tensors written to {out}.")
    return True


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
