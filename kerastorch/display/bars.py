"""Bars below all that a console of rich prints."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import ConsoleRenderable, RenderHook
from rich.control import Control
from rich.segment import ControlType, Segment, Segments
from rich.text import Text

from kerastorch.display.text import Line

_ERASE = Segments([Segment("\r\x1b[J", None, [(ControlType.CARRIAGE_RETURN,)])])  # from here to the end of the screen


class Bars(RenderHook):
    """Erases the bars before anything is printed, and draws them again after it.

    In between the cursor rests on an empty line above them. `rich.live.Live` leaves it below, where what is written
    past Python (by a worker, a library in C, the echo of Ctrl-C) is erased with the bars, and leaves old ones behind;
    and so does a window that became narrower.

    Attributes:
        lines: What to draw.
    """

    def __init__(self) -> None:
        self.lines: Sequence[Line] = ()
        self._process = os.getpid()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is to be printed, with the bars; a worker that was forked leaves them to us."""
        if not self.lines or os.getpid() != self._process:
            return [_ERASE, *renderables]
        bars = Text(end="")
        for line in self.lines:
            bars.append_text(Text.assemble("\n", *line))
        back = Control((ControlType.CURSOR_UP, len(self.lines)), ControlType.CARRIAGE_RETURN)
        return [_ERASE, *renderables, bars, back]
