"""The last lines of a terminal, drawn again and again by rich, below all that is printed."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kerastorch.display.text import Line, cut
from kerastorch.isolate import random_state_kept

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"best": "bold green", "bad": "bold red", "running": "cyan", "finished": "green"}


def can_draw() -> bool:
    """Whether stdout is a terminal that understands control codes, and has the characters of a bar."""
    file = getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # None in a program without a console
    if not getattr(file, "isatty", bool)() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    return str(getattr(file, "encoding", None)).lower().startswith("utf")


class Screen:
    """Keeps bars at the bottom of a terminal; what is printed meanwhile goes above them.

    The cursor is never hidden, so that a process that is killed leaves a terminal that works. Where stdout is no
    terminal, or somebody else draws on it with rich, lines are printed as text.

    Attributes:
        colours: Whether it has any.
    """

    def __init__(self) -> None:
        self._console: Console | None = None
        self._files: list[tuple[str, Any, Any]] = []  # names in sys, files, and what stands in for them
        self.colours = False

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines that may be written; the last column of a terminal is left free."""
        columns, lines = shutil.get_terminal_size()
        return os.terminal_size((max(columns - 1, 20), max(lines, 5)))

    @property
    def is_open(self) -> bool:
        """Whether bars are drawn."""
        return self._console is not None

    def open(self) -> None:
        """Take the terminal, if there is one and it is not taken."""
        if self._console is not None or not can_draw() or hasattr(sys.stdout, "rich_proxied_file"):
            return
        with random_state_kept():  # the first import of rich may draw a random number
            from rich.console import Console
            from rich.file_proxy import FileProxy
            from rich.theme import Theme

            from kerastorch.display.bars import Bars
        self._console = console = Console(
            file=sys.stdout,
            force_terminal=True,
            force_jupyter=False,
            soft_wrap=True,  # what others print is not wrapped; the bars fit
            markup=False,
            emoji=False,
            highlight=False,
            theme=Theme(_STYLES),
        )
        self.colours = not console.no_color
        self._bars = Bars()
        console.push_render_hook(self._bars)
        for name, file in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            if getattr(file, "isatty", bool)():
                proxy = FileProxy(console, file)
                self._files.append((name, file, proxy))
                vars(sys)[name] = proxy
                _redirect_logging(file, proxy)

    def draw(self, bars: Sequence[Line]) -> None:
        """Show these lines in place of those that were drawn before."""
        if self._console is None:
            return
        from rich.control import Control

        columns, lines = self.size
        self._bars.lines = [cut(bar, columns) for bar in bars[: lines - 2]]
        with _unless_gone(self._console) as console:
            console.print(Control())

    def print(self, line: Line) -> None:
        """Print a line to stay."""
        if self._console is None:
            say("".join(text for text, _ in line))
            return
        from rich.text import Text

        with _unless_gone(self._console) as console:
            console.print(Text.assemble(*line))

    def close(self) -> None:
        """Take the bars away, and give the terminal back."""
        if self._console is None:
            return
        self.draw([])
        for name, file, proxy in self._files:
            with _unless_gone(self._console):
                proxy.flush()  # a line that was not ended
            if getattr(sys, name) is proxy:  # somebody else may redirect it by now
                vars(sys)[name] = file
            _redirect_logging(proxy, file)
        self._console.pop_render_hook()  # who keeps a proxy prints with it as before
        self._console, self._files = None, []
        del self._bars


def say(text: str) -> None:
    """Print a line, also where its characters cannot be written."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError as error:
        print(text.replace("…", "~").encode(error.encoding, "backslashreplace").decode(error.encoding), flush=True)


def _redirect_logging(before: Any, after: Any) -> None:
    """Let those handlers of logging write to `after` that write to `before`."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):  # a place in the tree of names without a logger has none
            own = vars(handler).get("stream")  # that of dill and of logging.lastResort is looked up each time
            if isinstance(handler, logging.StreamHandler) and own is before:
                handler.setStream(after)


@contextmanager
def _unless_gone(console: Console) -> Iterator[Console]:
    """Write all at once; fall silent where the terminal was closed: training goes on."""
    try:
        with console:
            yield console
    except (OSError, UnicodeError, SystemExit):  # rich ends a program whose pipe is broken
        console.quiet = True
