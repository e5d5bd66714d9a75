import itertools
import os
import pty
import random
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.display import ProgressBar
from kerastorch.display import bar as module

PROGRAM = """
import time, torch
import kerastorch as kt
from torch import nn
model = kt.Model(nn.Linear(2, 3))
model.compile("cross_entropy", "adam", ["accuracy"])
x, y = torch.randn(30, 2), torch.arange(30) % 3
slow = kt.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: time.sleep(0.12), on_test_batch_end=lambda batch, logs: time.sleep(0.12)
)
model.fit(2, (x, y), (x, y), callbacks=[slow], batch_size=10, validation_freq=2)
fail = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 1 / 0)
try:
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


def test_in_a_program_on_a_terminal():
    status, text = run_on_a_terminal(PROGRAM)
    assert status == 0, text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    for piece in ("epoch 1/2", "epoch 2/2", "validation", "samples/s", "3/3", "loss ", "accuracy ", "after the error"):
        assert piece in plain, piece
    assert "?25" not in text  # the cursor is never hidden


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 3))
    model.compile("cross_entropy", "sgd", ["accuracy"])
    return model


def data(size=40):
    return torch.randn(size, 2), torch.arange(size) % 3


class Watch(kt.Callback):
    """Keeps what a terminal shows at one hook; after the display, since it comes last."""

    stage = "display"

    def __init__(self, terminal, hook):
        self.seen = []
        setattr(self, hook, lambda *arguments: self.seen.append(terminal.screen))


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0.0)


def test_the_bar_of_the_epoch_stays_while_the_validation_runs_below_it(model, terminal, fast):
    watch = Watch(terminal, "on_test_batch_end")
    history = model.fit(2, data(), data(20), batch_size=10, callbacks=[ProgressBar(), watch])
    gap, *rows = watch.seen[0]
    assert gap == ""
    assert len(rows) == 4
    assert re.match(r"epoch 1/2   ━+  4/4  100%  0:00 ", rows[0])
    assert rows[1].split() == ["loss", f"{history['loss'][0]:.3f}", "accuracy", f"{history['accuracy'][0]:.3f}"]
    assert re.match(r"validation  ━+╸?─+  1/2   50%  0:00  0:00 left", rows[2])
    assert re.search(r"loss \d.\d+  accuracy \d.\d+  fit: 0:00 left", rows[3])
    assert re.search(r"2/2  100%", watch.seen[1][3])


def test_what_stays_is_a_table(model, terminal):
    random_state = random.getstate()
    history = model.fit(2, data(), data(20), batch_size=10, validation_freq=2)
    assert random.getstate() == random_state
    header, first, second, end = terminal.screen
    assert header.split() == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "time"]
    assert first.split()[:1] + first.split()[3:5] == ["1/2", "-", "-"]
    assert second.split()[:4:3] == ["2/2", f"{history['val_loss'][1]:.3f}"]
    assert end == ""


def test_several_validation_sets_are_named(model, terminal):
    watch = Watch(terminal, "on_test_begin")
    model.fit(1, data(), {"easy": data(20), "hard": data(20)}, callbacks=[ProgressBar(), watch])
    assert [rows[3].split()[0] for rows in watch.seen] == ["easy", "hard"]
    assert [rows[1].split()[0] for rows in watch.seen] == ["epoch", "epoch"]
    model.evaluate({"easy": data(20), "hard": data(20)}, verbose=1)
    assert [row.split()[:2] for row in terminal.screen[-3:-1]] == [["evaluate", "easy"], ["evaluate", "hard"]]


def test_evaluate_and_predict_leave_a_line(model, terminal):
    logs = model.evaluate(data(), verbose=1, batch_size=10)
    model.predict(data()[0], verbose=1, batch_size=10)
    evaluated, predicted, _ = terminal.screen
    assert evaluated.startswith(f"evaluate  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.3f}  (4 batches, 0:00")
    assert predicted.startswith("predict  (4 batches, 0:00")


def test_a_length_that_was_not_known_is_known_in_the_second_epoch(model, terminal, fast):
    class Batches:
        def __iter__(self):
            return iter([data(10)] * 3)

    watch = Watch(terminal, "on_train_batch_end")
    model.fit(2, Batches(), Batches(), callbacks=[ProgressBar(), watch])
    assert "1 batches" in watch.seen[0][1]
    assert "%" not in watch.seen[0][1]
    assert "1/3   33%" in watch.seen[3][3]


def test_the_bar_reads_the_running_values_at_most_ten_times_a_second(model, terminal, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    reads = []
    bar = ProgressBar()

    class Tick(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            now[0] += 0.01

    monkeypatch.setattr(bar, "_advance", lambda logs, advance=bar._advance: (reads.append(now[0]), advance(logs)))
    model.fit(1, data(1000), batch_size=10, callbacks=[Tick(), bar])
    assert 10 <= len(reads) <= 11
    assert min(later - earlier for earlier, later in itertools.pairwise(reads)) >= 0.1


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_leaves_the_terminal_as_it_was(model, terminal, error):
    def fail(batch, logs):
        if batch == 1:
            raise error

    with pytest.raises(error):
        model.fit(1, data(), batch_size=10, callbacks=[kt.callbacks.LambdaCallback(on_train_batch_end=fail)])
    assert sys.stdout is sys.stderr is terminal
    *notes, line, end = terminal.screen  # Python 3.10 prints the note of an error, before the bar is closed
    assert all(note.startswith("kerastorch: epoch 1, batch 2") for note in notes)
    assert re.match(r"epoch 1/1  loss .*  \(1 of 4 batches, ", line)
    assert end == ""


def test_an_interrupted_epoch_leaves_a_line(model, terminal, fast):
    stop = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stop.run.interrupt("me"))
    model.fit(3, data(), batch_size=10, callbacks=[stop])
    assert terminal.screen[0].startswith("epoch 1/3  loss ")
    assert terminal.screen[-2] == "Stopped by me in epoch 1 after batch 1. The history keeps 0 finished epochs."


def test_evaluate_inside_fit_does_not_disturb(model, terminal):
    bar = ProgressBar()
    again = kt.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: model.evaluate(data(), callbacks=[bar]))
    model.fit(2, data(), batch_size=10, callbacks=[again, bar])
    titles = [row.split()[0] for row in terminal.screen if row]
    assert titles == ["evaluate", "epoch", "1/2", "evaluate", "2/2"]


def test_one_bar_serves_several_fits(model, terminal):
    bar = kt.callbacks.ProgbarLogger()
    assert repr(bar) == "ProgressBar()"
    for _ in range(2):
        model.fit(1, data(), callbacks=[bar])
    assert [row.split()[0] for row in terminal.screen if row] == ["epoch", "1/1"] * 2


def test_without_a_terminal_it_prints_rows(model, capsys):
    model.fit(2, data(), callbacks=[ProgressBar()])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    header, *rows = text.splitlines()
    assert header.split() == ["epoch", "loss", "accuracy", "time"]
    assert [row.split()[0] for row in rows] == ["1/2", "2/2"]
    assert "*" in rows[0]  # the best is marked without colours


def killed_after(killing, model, *place, **options):
    killed = killing.Kill(*place)
    with pytest.raises(killing.Killed):
        model.fit(callbacks=[killed], batch_size=4, shuffle=False, verbose=0, **options)
    return killed


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_has_its_bar(model, terminal, fast, killing, monkeypatch):
    options = {"epochs": 3, "dl_train": data(), "dl_val": data(20)}
    killed = killed_after(killing, model, 1, 6, **options)
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    takes = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: now.__setitem__(0, now[0] + 2))
    began, batches = Watch(terminal, "on_epoch_begin"), Watch(terminal, "on_train_batch_end")
    others = [takes, ProgressBar(), began, batches, *killing.going_on(killed)]
    model.fit(**options, callbacks=others, batch_size=4, shuffle=False)
    text, header, first, gap, title = began.seen[0][:5]
    assert text == "Going on in epoch 2/3 after batch 6 of 10, from backup.pt."
    assert header.split() == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "time"]
    assert (first.split()[0], gap) == ("1/3", "")
    assert re.match(r"epoch 2/3 .*  6/10   60%", title)
    bar = batches.seen[0][4]
    assert re.search(r" 7/10   70%  0:02  0:06 left     2.0 samples/s", bar)
    rows = [line.split()[0] for line in terminal.screen if "/3" in line]
    assert rows == ["Going", "1/3", "2/3", "3/3"]


def test_of_many_epochs_before_the_last_are_shown(model, terminal, killing, monkeypatch):
    monkeypatch.setattr(module, "_BEFORE", 2)
    options = {"epochs": 6, "dl_train": data()}
    killed = killed_after(killing, model, 4, None, **options)
    model.fit(**options, callbacks=[ProgressBar(), *killing.going_on(killed)], batch_size=4, shuffle=False)
    text, note, _, *rows, _ = terminal.screen
    assert text == "Going on in epoch 6/6, from backup.pt."
    assert note == "3 epochs before are in the history."
    assert [row.split()[0] for row in rows] == ["4/6", "5/6", "6/6"]


def test_a_run_that_was_finished_says_so(model, terminal, killing):
    options = {"epochs": 2, "dl_train": data()}
    killed = killed_after(killing, model, 1, None, **options)
    model.fit(**options, callbacks=[ProgressBar(), *killing.going_on(killed)], batch_size=4, shuffle=False)
    assert terminal.screen[0] == "All 2 epochs are finished, says backup.pt."


def test_the_memory_of_an_accelerator(monkeypatch):
    class Backend:
        memory_allocated = staticmethod(lambda device: 2**30)
        max_memory_allocated = staticmethod(lambda device: 5 * 2**29)

    assert module._memory(None) is None
    assert module._memory(torch.device("cpu")) is None
    monkeypatch.setattr(torch, "get_device_module", lambda device: Backend)
    assert module._memory(torch.device("cuda:0")) == "memory: 1.0 GB, at most 2.5 GB"
    monkeypatch.setattr(torch, "get_device_module", lambda device: object())
    assert module._memory(torch.device("mps")) is None
