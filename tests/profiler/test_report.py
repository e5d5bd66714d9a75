import random
import sys

import pytest

from kerastorch.profiler import Part, Report, by_name

SECONDS = {"waiting for data": 8.2, "callback Slow": 1.0, "forward": 0.75, "tiny": 0.0004, "other": 0.0496}
TEXT = """\
Where the time went: 10.00 s, 1,000 steps
waiting for data     8.20 s   82.0 %
callback Slow        1.00 s   10.0 %
forward            750.0 ms    7.5 %
other               50.0 ms    0.5 %
Do something.
A note.
"""


@pytest.fixture
def report():
    return Report(SECONDS, 1000, "Do something.", ("A note.",))


def test_piped_it_is_plain_text(report, capsys):
    report.table()
    assert capsys.readouterr().out == TEXT
    assert f"{report}\n" == TEXT


def test_without_a_stdout_nothing_is_printed(report, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    report.table()


@pytest.mark.parametrize("columns", [100, 40])
def test_on_a_terminal_it_is_drawn(report, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    state = random.getstate()
    report.table()
    assert random.getstate() == state
    drawn = capsys.readouterr().out
    assert "\x1b[1m" in drawn
    for text in ("Where the time went: 10.00 s", "waiting for data", "82.0 %", "Do something.", "A note."):
        assert text in drawn
    assert "tiny" not in drawn


def test_brackets_in_a_name_are_no_markup(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Report({"callback [red]": 1.0, "other": 0.0}, 0, "See [bold].").table()
    drawn = capsys.readouterr().out
    assert "callback [red]" in drawn
    assert "See [bold]." in drawn


def test_shares(report):
    assert report.total == pytest.approx(10)
    assert report.share("forward") == pytest.approx(0.075)
    assert report.share("backward") == 0
    assert Report({}, 0, "").share("forward") == 0


def test_a_run_without_steps_or_with_one():
    assert str(Report({"other": 0.0}, 0, "Nothing.")).splitlines()[0] == "Where the time went: 0.0 ms"
    assert str(Report({"other": 0.0}, 1, "Nothing.")).splitlines()[0] == "Where the time went: 0.0 ms, 1 step"


def test_parts_of_one_name_are_added_up_and_other_comes_last():
    seconds = {Part("other"): 5.0, Part("a", "x"): 1.0, Part("b"): 1.5, Part("a", "y"): 1.0, Part("never"): 0.0}
    assert list(by_name(seconds).items()) == [("a", 2.0), ("b", 1.5), ("other", 5.0)]
