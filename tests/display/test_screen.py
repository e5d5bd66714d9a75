import copy
import io
import logging
import os
import pickle
import sys
import warnings

import pytest

from kerastorch.display import screen as screens
from kerastorch.display.screen import Screen, can_draw

BARS = [[("epoch 1/3", "bold")], [("loss 0.5", "")]]


def test_what_is_printed_goes_above_the_bars(terminal, screen):
    print("one")
    print("two", file=sys.stderr)
    sys.stdout.writelines(["three\n", "four\n"])
    screen.print([("five", "best")])
    assert terminal.screen == ["one", "two", "three", "four", "five", "", "epoch 1/3", "loss 0.5"]
    screen.close()
    assert terminal.screen == ["one", "two", "three", "four", "five", ""]
    assert sys.stdout is terminal


def test_a_line_is_printed_once_it_has_ended(terminal, screen):
    sys.stdout.write("one ")
    assert terminal.screen == ["", "epoch 1/3", "loss 0.5"]
    sys.stdout.write("line\nanother")
    assert terminal.screen == ["one line", "", "epoch 1/3", "loss 0.5"]
    screen.close()
    assert terminal.screen == ["one line", "another", ""]


def test_what_is_written_past_python_is_not_erased(terminal, screen):
    terminal.write("a worker\n")
    screen.draw(BARS)
    assert terminal.screen == ["a worker", "", "epoch 1/3", "loss 0.5"]


def test_what_a_forked_worker_prints_goes_above_the_bars(terminal, screen, monkeypatch):
    process = os.getpid()
    with monkeypatch.context() as worker:
        worker.setattr(os, "getpid", lambda: process + 1)
        print("a worker")
    assert terminal.screen == ["a worker", ""]
    screen.draw(BARS)
    assert terminal.screen == ["a worker", "", "epoch 1/3", "loss 0.5"]


def test_the_cursor_is_never_hidden(terminal, screen):
    screen.close()
    assert "?25" not in terminal.getvalue()


def test_logging_goes_above_the_bars_too(terminal):
    handler = logging.StreamHandler()
    logger = logging.getLogger("test.display")
    logger.addHandler(handler)
    screen = Screen()
    try:
        screen.open()
        screen.draw(BARS)
        logger.warning("careful")
        assert terminal.screen == ["careful", "", "epoch 1/3", "loss 0.5"]
        screen.close()
        assert handler.stream is terminal
    finally:
        logger.removeHandler(handler)


def test_warnings_can_be_read(terminal, screen):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        sys.stderr.write(warnings.formatwarning("look here", UserWarning, "file.py", 1))
    assert "UserWarning: look here" in terminal.screen[0]
    assert terminal.screen[-3:] == ["", "epoch 1/3", "loss 0.5"]


def test_what_keeps_stdout_prints_with_it_later(terminal, screen):
    kept = sys.stdout
    assert kept.isatty()
    screen.close()
    print("later", file=kept, flush=True)
    assert terminal.screen == ["later", ""]


def test_what_somebody_else_put_in_the_place_of_stdout_stays(terminal, monkeypatch):
    screen, another = Screen(), io.StringIO()
    screen.open()
    monkeypatch.setattr("sys.stdout", another)
    screen.close()
    assert sys.stdout is another


def test_a_second_one_draws_nothing(terminal, screen):
    another = Screen()
    another.open()
    assert not another.is_open
    another.draw(BARS)
    another.print([("a line", "bold")])
    assert terminal.screen == ["a line", "", "epoch 1/3", "loss 0.5"]


def test_bars_fit_into_the_terminal(terminal, screen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "6")
    screen.draw([[("x" * 200, "")]] * 20)
    assert terminal.screen == ["", *["x" * 29] * 4]


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color(terminal, monkeypatch, no_color):
    monkeypatch.setenv("NO_COLOR", no_color)
    screen = Screen()
    screen.open()
    screen.print([("best", "best")])
    screen.close()
    assert ("\x1b[1;32m" in terminal.getvalue()) == (not no_color)


def test_training_goes_on_when_the_terminal_was_closed(terminal, screen, monkeypatch):
    def fail(text):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(terminal, "write", fail)
    screen.draw(BARS)
    print("gone")
    screen.print([("gone as well", "")])
    screen.close()
    assert sys.stdout is terminal


def test_stderr_in_a_file_stays_there(terminal, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    screen = Screen()
    screen.open()
    print("an error", file=sys.stderr)
    screen.close()
    assert file.getvalue() == "an error\n"


def test_what_a_narrower_window_wrapped_is_erased(terminal, screen):
    terminal.truncate(0)
    terminal.seek(0)
    terminal.write("above\n\n" + "x" * 40 + "\n" + "x" * 30 + "\n" + "y" * 40 + "\x1b[3A\r")  # as terminals do
    screen.draw(BARS)
    assert terminal.screen == ["above", "", "epoch 1/3", "loss 0.5"]


def test_where_somebody_else_draws_with_rich_lines_go_above(terminal):
    from rich.console import Console
    from rich.live import Live

    screen = Screen()
    with Live("theirs", console=Console(file=terminal, force_terminal=True), auto_refresh=False) as live:
        screen.open()
        assert not screen.is_open
        screen.print([("ours", "best")])
        live.stop()
    assert "ours" in terminal.getvalue()


def test_characters_that_cannot_be_written_do_not_end_training(terminal, screen, monkeypatch):
    monkeypatch.setattr(terminal, "write", lambda text: text.encode())
    screen.draw([[("\ud800", "")]])
    screen.close()
    assert sys.stdout is terminal


def test_bars_need_their_characters(terminal, monkeypatch):
    assert can_draw()
    monkeypatch.setattr(terminal, "encoding", "ascii", raising=False)
    assert not can_draw()


def test_a_screen_is_copied_and_pickled_between_two_uses(terminal):
    screen = Screen()
    screen.open()
    screen.close()
    assert not pickle.loads(pickle.dumps(copy.deepcopy(screen))).is_open


def test_a_handler_that_looks_its_stream_up_each_time_is_left_alone(monkeypatch):
    class LookedUp(logging.StreamHandler):  # as dill has one
        stream = property(lambda self: sys.stderr)

        def __init__(self):
            logging.Handler.__init__(self)

    logger = logging.getLogger("kerastorch.tests.looked_up")
    plain = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logger, "handlers", [LookedUp(), plain])
    after = io.StringIO()
    screens._redirect_logging(sys.stderr, after)
    assert plain.stream is after
