import io
import re
import sys

import pytest

from kerastorch.display.screen import Screen

BARS = [[("epoch 1/3", "bold")], [("loss 0.5", "")]]


class Terminal(io.StringIO):
    """What a terminal shows of what is written: as much of it as the bars use."""

    encoding = "utf-8"

    def isatty(self):
        return True

    @property
    def screen(self):
        rows, row, column = [[]], 0, 0
        written = re.sub(r"\x1b\[(\?25[hl]|[\d;]*m)", "", self.getvalue())  # the cursor is seen or not; colours
        for code, letter, character in re.findall(r"(\x1b\[(J|\d+A))|(.)", written, re.DOTALL):
            if letter == "J":
                del rows[row + 1 :], rows[row][column:]
            elif code:
                row -= int(letter[:-1])
            elif character == "\r":
                column = 0
            elif character == "\n":
                row, column = row + 1, 0
                rows += [[]] * (row == len(rows))
            else:
                rows[row] += " " * (column + 1 - len(rows[row]))
                rows[row][column] = character
                column += 1
        lines = ["".join(row).rstrip() for row in rows]
        while len(lines) > row + 1 and not lines[-1]:
            lines.pop()  # below the cursor
        return lines


@pytest.fixture
def terminal(monkeypatch):
    """Put a terminal of 80 columns in the place of stdout and stderr."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    return Terminal()


@pytest.fixture
def screen(terminal):
    """Draw two bars on it."""
    return Screen()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    terminal, screen = map(pyfuncitem.funcargs.get, ("terminal", "screen"))
    if terminal is None:
        return (yield)
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = terminal  # not in the fixture: pytest captures each phase of a test anew
    try:
        if screen is not None:
            screen.open()
            screen.draw(BARS)
        return (yield)
    finally:
        if screen is not None:
            screen.close()
        sys.stdout, sys.stderr = before


@pytest.fixture
def notebook(monkeypatch):
    """Pretend to be in a notebook; return what is shown, by place."""
    places = []

    class Handle:
        def __init__(self):
            self.shown = []
            places.append(self)

        def display(self, content, *, metadata, raw):
            assert not self.shown
            self.shown.append(content)

        def update(self, content, *, metadata, raw):
            assert self.shown
            self.shown.append(content)

    monkeypatch.setattr("IPython.display.DisplayHandle", Handle)
    monkeypatch.setattr("kerastorch.display.jupyter.in_notebook", lambda: True)
    monkeypatch.setattr("kerastorch.display.live.in_notebook", lambda: True)
    return places
