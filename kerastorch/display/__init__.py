"""What people look at while they train, chosen by `verbose`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from kerastorch.display.bar import ProgressBar
from kerastorch.display.jupyter import in_notebook
from kerastorch.display.lines import EpochLines
from kerastorch.display.live import LivePlot
from kerastorch.display.notebook import NotebookProgress
from kerastorch.display.table import TableLog
from kerastorch.hooks import Callback

Verbose = Literal["auto", "bar", "table", 0, 1, 2]

__all__ = ["EpochLines", "LivePlot", "NotebookProgress", "ProgressBar", "TableLog", "Verbose", "display"]


def display(verbose: Verbose, given: Sequence[Callback] = ()) -> list[Callback]:
    """Return the callbacks that show progress, if that is wanted.

    Args:
        verbose: 0 for nothing; `"table"` for the text of torchkeras; 2 for one line per epoch; `"auto"`, `"bar"` and 1
            for a progress bar on a terminal, and a bar, a table and curves in a notebook, which elsewhere is `"table"`.
        given: The callbacks of the user; a LivePlot among them takes the place of ours.

    Raises:
        ValueError: Another value.
    """
    if verbose not in ("auto", "bar", "table", 0, 1, 2):
        raise ValueError(f"verbose is 'auto', 'bar', 'table', 0, 1 or 2; got {verbose!r}.")
    if not verbose:
        return []
    if verbose == 2:
        return [EpochLines()]
    if verbose != "table" and in_notebook():
        has_curves = any(isinstance(callback, LivePlot) for callback in given) or find_spec("matplotlib") is None
        return [NotebookProgress()] if has_curves else [NotebookProgress(), LivePlot(every="auto")]
    on_terminal = sys.stdout is not None and sys.stdout.isatty()  # a program without a console has no stdout
    return [ProgressBar()] if verbose != "table" and on_terminal else [TableLog()]
