"""What people look at while they train, chosen by `verbose`."""

from __future__ import annotations

import sys
from typing import Literal

from kerastorch.display.bar import ProgressBar
from kerastorch.display.lines import EpochLines
from kerastorch.display.table import TableLog
from kerastorch.hooks import Callback

Verbose = Literal["auto", "bar", "table", 0, 1, 2]

__all__ = ["EpochLines", "ProgressBar", "TableLog", "Verbose", "display"]


def display(verbose: Verbose) -> list[Callback]:
    """Return the callback that shows progress, if one is wanted.

    Args:
        verbose: 0 for nothing; `"table"` for the text of torchkeras; 2 for one line per epoch; `"auto"`, `"bar"` and 1
            for a progress bar on a terminal, which elsewhere is `"table"`.

    Raises:
        ValueError: Another value.
    """
    if verbose not in ("auto", "bar", "table", 0, 1, 2):
        raise ValueError(f"verbose is 'auto', 'bar', 'table', 0, 1 or 2; got {verbose!r}.")
    if not verbose:
        return []
    if verbose == 2:
        return [EpochLines()]
    on_terminal = sys.stdout is not None and sys.stdout.isatty()  # a program without a console has no stdout
    return [ProgressBar()] if verbose != "table" and on_terminal else [TableLog()]
