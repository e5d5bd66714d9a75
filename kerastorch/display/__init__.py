"""What people look at while they train, chosen by `verbose`; imported when it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from kerastorch import lazy
from kerastorch.hooks import Callback

if TYPE_CHECKING:
    from kerastorch.display.bar import ProgressBar
    from kerastorch.display.lines import EpochLines
    from kerastorch.display.live import LivePlot
    from kerastorch.display.notebook import NotebookProgress
    from kerastorch.display.table import TableLog

Verbose = Literal["auto", "bar", "table", 0, 1, 2]

__all__ = ["EpochLines", "LivePlot", "NotebookProgress", "ProgressBar", "TableLog", "Verbose", "display"]

__getattr__ = lazy.attributes(
    __name__,
    {
        "EpochLines": ".lines",
        "LivePlot": ".live",
        "NotebookProgress": ".notebook",
        "ProgressBar": ".bar",
        "TableLog": ".table",
    },
)


def display(verbose: Verbose, given: Sequence[Callback] = ()) -> list[Callback]:
    """Return the callbacks that show progress, if that is wanted.

    Args:
        verbose: 0 for nothing; `"table"` for the text of torchkeras; 2 for one line per epoch; `"auto"`, `"bar"` and 1
            for a progress bar on a terminal, and a bar, a table and curves in a notebook, which elsewhere is `"table"`.
        given: The callbacks of the user; where one of them shows progress, another is not added, and a LivePlot among
            them takes the place of ours.

    Raises:
        ValueError: Another value.
    """
    if verbose not in ("auto", "bar", "table", 0, 1, 2):
        raise ValueError(f"verbose is 'auto', 'bar', 'table', 0, 1 or 2; got {verbose!r}.")
    return _shown(verbose, given) if verbose else []


def _shown(verbose: Verbose, given: Sequence[Callback]) -> list[Callback]:
    from kerastorch.display.bar import ProgressBar
    from kerastorch.display.jupyter import in_notebook
    from kerastorch.display.lines import EpochLines
    from kerastorch.display.screen import can_draw
    from kerastorch.display.table import TableLog

    if any(isinstance(callback, (EpochLines, ProgressBar, TableLog)) for callback in given):
        return []
    if verbose == 2:
        return [EpochLines()]
    if verbose == "table":
        return [TableLog()]
    if in_notebook():
        return _in_notebook(given)
    return [ProgressBar()] if can_draw() else [TableLog()]


def _in_notebook(given: Sequence[Callback]) -> list[Callback]:
    from kerastorch.display.live import LivePlot
    from kerastorch.display.notebook import NotebookProgress

    has_curves = any(isinstance(callback, LivePlot) for callback in given) or find_spec("matplotlib") is None
    return [NotebookProgress()] if has_curves else [NotebookProgress(), LivePlot(every="auto")]
