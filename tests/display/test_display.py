import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.display import EpochLines, ProgressBar, TableLog, display
from kerastorch.display.lines import shown

ESCAPE = "\x1b"


def fit(verbose, *, epochs=2, validated=True, **options):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 3))
    model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, lr=0.0), ["accuracy"])
    x, y = torch.randn(40, 2), torch.arange(40) % 3
    model.fit(epochs, (x, y), (x, y) if validated else None, verbose=verbose, batch_size=10, **options)
    return model


@pytest.mark.parametrize("verbose", ["auto", "bar", "table", 1])
def test_piped_output_is_the_text_of_torchkeras_without_control_codes(capsys, verbose):
    model = fit(verbose, log_step_freq=2)
    text = capsys.readouterr().out
    assert ESCAPE not in text
    assert "\r" not in text
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    loss, accuracy = model.history["loss"][0], model.history["accuracy"][0]
    row = f"|   {{}}   | {loss:.3f} |  {accuracy:.3f}   |  {loss:.3f}   |    {accuracy:.3f}     |"
    bar = "=" * 80 + "TIME"
    border = "+-------+-------+----------+----------+--------------+"
    assert re.sub(r"\{'step'.*\}", "STEP", text).splitlines() == [
        "Start Training ...",
        "",
        bar,
        *(
            line
            for epoch in (1, 2)
            for line in (
                "STEP",
                "STEP",
                "",
                border,
                "| epoch |  loss | accuracy | val_loss | val_accuracy |",
                border,
                row.format(epoch),
                border,
                "",
                bar,
            )
        ),
        "Finished Training...",
    ]
    steps = re.findall(r"\{'step': (\d+), 'loss': (\d\.\d+), 'accuracy': (\d\.\d+)\}", text)
    assert [step for step, _, _ in steps] == ["2", "4", "2", "4"]
    assert float(steps[1][1]) == pytest.approx(loss, abs=5e-4)


def test_without_log_step_freq_there_are_no_lines_of_steps(capsys):
    fit("table")
    assert "step" not in capsys.readouterr().out


def test_small_values_do_not_become_zero(capsys):
    model = kt.Model(nn.Linear(1, 1))
    nn.init.constant_(model.module.weight, 0.01)
    nn.init.zeros_(model.module.bias)
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model.fit(1, (torch.ones(4, 1), torch.zeros(4, 1)), verbose="table", log_step_freq=1)
    text = capsys.readouterr().out
    assert "{'step': 1, 'loss': 0.0001}" in text
    assert "|   1   | 0.0001 |" in text


def test_one_line_per_epoch(capsys):
    model = fit(2)
    lines = capsys.readouterr().out.splitlines()
    loss, accuracy = model.history["loss"][0], model.history["accuracy"][0]
    expected = f"loss: {loss:.3f} - accuracy: {accuracy:.3f} - val_loss: {loss:.3f} - val_accuracy: {accuracy:.3f}"
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"Epoch {number}/2 - \d+\.\ds - {re.escape(expected)}", line)


def test_silence(capfd):
    fit(0)
    assert capfd.readouterr() == ("", "")


def test_evaluate_and_predict_are_silent_unless_asked(capfd):
    model = fit(0)
    x, y = torch.randn(4, 2), torch.zeros(4).long()
    model.evaluate((x, y))
    model.predict(x)
    assert capfd.readouterr() == ("", "")


def test_verbose_chooses():
    assert display(0) == []
    assert [type(callback) for callback in display(2)] == [EpochLines]
    assert [type(callback) for callback in display("table")] == [TableLog]
    with pytest.raises(ValueError, match="verbose is 'auto', 'bar', 'table', 0, 1 or 2; got 3"):
        display(3)


def test_rates_and_times_are_not_shown():
    assert shown({"loss": 1.0, "lr": 0.1, "seconds": 2.0, "samples_per_second": 3.0, "val_loss": 2.0}) == {
        "loss": 1.0,
        "val_loss": 2.0,
    }


PROGRAM = """
import time, torch, random
import kerastorch as kt
from torch import nn
torch.manual_seed(0)
random.seed(0)
model = kt.Model(nn.Linear(2, 3))
model.compile("cross_entropy", "adam", ["accuracy"])
x, y = torch.randn(30, 2), torch.arange(30) % 3
slow = kt.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: time.sleep(0.12), on_test_batch_end=lambda batch, logs: time.sleep(0.12)
)
before = random.getstate()
model.fit(2, (x, y), (x, y), callbacks=[slow], batch_size=10, validation_freq=2)
assert random.getstate() == before
model.evaluate((x, y), batch_size=10, verbose=1, callbacks=[slow])
model.predict(x, batch_size=10, verbose=1)
try:
    fail = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
    model.fit(1, (x, y), callbacks=[fail])
except ZeroDivisionError:
    print("after the error")
"""


def run_on_a_terminal(program):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "30"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    return process.wait(), b"".join(pieces).decode()


def test_on_a_terminal_there_is_a_bar_and_one_row_per_epoch():
    status, text = run_on_a_terminal(PROGRAM)
    assert status == 0, text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    for piece in (
        "epoch 1/2",
        "epoch 2/2",
        "validation",
        "evaluate",
        "predict",
        "/s",
        "3/3",
        "loss ",
        "accuracy ",
    ):
        assert piece in plain, piece
    rows = [line.strip() for line in plain.splitlines() if re.match(r"\s*(epoch\s+loss|\d/2)\s", line)]
    assert rows[0].split() == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert rows[1].split()[0] == "1/2"
    assert rows[1].split()[3:5] == ["-", "-"]  # not validated
    assert float(rows[2].split()[3]) > 0
    assert "after the error" in plain
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor comes back, after an error too


def test_the_bar_reads_the_running_values_at_most_ten_times_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("kerastorch.display.bar.monotonic", lambda: now[0])
    bar = ProgressBar()
    updates = []

    class Progress:
        def update(self, task, **values):
            updates.append(values["completed"])

    bar._progress = Progress()
    for batch in range(100):
        now[0] += 0.01
        bar.on_train_batch_end(batch, {"loss": 1.0})
    assert 10 <= len(updates) <= 11


def test_the_bar_takes_itself_away_and_leaves_rows(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    model = fit("auto", validation_freq=2)
    x, y = torch.randn(40, 2), torch.arange(40) % 3
    model.evaluate((x, y), verbose=1, batch_size=10)
    model.predict(x, verbose=1, batch_size=10)
    stop = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.fit(1, (x, y), callbacks=[stop])
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    rows = [line.split() for line in plain.splitlines() if re.match(r"\s*(epoch\s+loss|\d/2)\s", line)]
    assert rows[0] == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert [row[0] for row in rows[1:]] == ["1/2", "2/2"]
    assert rows[1][3:5] == ["-", "-"]
    assert len(rows[2]) == 6


@pytest.mark.parametrize("verbose", [2, "table", "bar"])
def test_a_matrix_is_kept_but_not_shown(verbose, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: verbose == "bar", raising=False)
    model = kt.Model(nn.Linear(3, 2))
    model.compile("cross_entropy", "sgd", ["accuracy", "confusion_matrix", kt.metrics.Recall(average=None, on="val")])
    data = (torch.randn(8, 3), torch.arange(8) % 2)
    history = model.fit(2, data, data, verbose=verbose)
    shown = capsys.readouterr().out
    assert "val_accuracy" in shown
    assert "confusion_matrix" not in shown
    assert "recall" not in shown
    assert history["val_confusion_matrix"][1].shape == (2, 2)
    assert history["val_recall"][1].shape == (2,)
