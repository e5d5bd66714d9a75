"""Pictures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kerastorch.errors import needs


def check_path(path: str | Path, purpose: str) -> Path:
    """Return a path that a picture can be written to.

    Raises:
        ValueError: It does not end with the name of a format.
        MissingPackageError: matplotlib is not installed.
    """
    bases = needs("matplotlib.backend_bases", purpose=purpose)
    path, formats = Path(path), bases.FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"A picture ends with .png, .svg or .pdf; got {str(path)!r}. Type {str(path) + '.png'!r}.")
    return path


def write(figure: Any, path: Path) -> None:
    """Write a figure in the format of the name; directories are made. Who reads the file never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=150)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
