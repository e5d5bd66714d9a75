"""Pieces of text with a style: how wide they are, what fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Style = Literal["", "bold", "dim", "best", "bad", "running", "finished"]
Line = list[tuple[str, Style]]


def width(text: str) -> int:
    """Return how many columns a text takes; those of Chinese take two each."""
    from rich.cells import cell_len

    return cell_len(text)


def columns_of(line: Line) -> int:
    """Return how many columns a line takes."""
    return sum(width(text) for text, _ in line)


def shortened(text: str, columns: int) -> str:
    """Cut a long text in its middle: names tend to differ at both ends."""
    if width(text) <= columns:
        return text
    tail = (columns - 1) // 2
    while tail > 0 and width(text[-tail:]) > tail:
        tail -= 1
    ending = text[len(text) - tail :]
    return fitting(text, columns - 1 - width(ending)) + "…" + ending


def fitting(text: str, columns: int) -> str:
    """Return the beginning of a text that is not too wide."""
    if width(text) <= columns:
        return text
    from rich.cells import chop_cells

    return chop_cells(text, columns)[0] if columns > 0 else ""


def right(text: str, columns: int) -> str:
    """Move a text to the right of its column."""
    return " " * (columns - width(text)) + text


def cut(line: Line, columns: int) -> Line:
    """Return the beginning of a line that is not too wide."""
    kept: Line = []
    for text, style in line:
        piece = fitting(text, columns)
        columns -= width(piece)
        kept.append((piece, style))
    return kept


def flowing(items: Sequence[Line], columns: int) -> list[Line]:
    """Set items one after the other, with two spaces between them, in lines that are not too wide."""
    lines: list[Line] = []
    for item in items:
        if lines and columns_of(lines[-1]) + 2 + columns_of(item) <= columns:
            lines[-1] += [("  ", ""), *item]
        else:
            lines.append(cut(item, columns))
    return lines
