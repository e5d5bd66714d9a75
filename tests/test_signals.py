import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.signals import graceful_interrupt

PROGRAM = """
import time, torch
import kerastorch as kt
from torch import nn

def slow_batches():
    while True:
        time.sleep(0.05)
        yield torch.zeros(4, 2), torch.zeros(4, 1)

model = kt.Model(nn.Linear(2, 1))
model.compile("mse", "sgd")
say = kt.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: print("batch", batch, flush=True),
    on_train_end=lambda logs: print("the end of training", flush=True),
    on_exception=lambda error: print("on_exception", type(error).__name__, flush=True),
)
if {stubborn}:
    say.on_optimizer_step_begin = lambda step: time.sleep(30 if step == 5 else 0)
history = model.fit(1000, slow_batches(), steps_per_epoch=3, callbacks=[say], verbose=0)
print("history", len(history), len(model.history), flush=True)
"""


def start(*, stubborn):
    program = textwrap.dedent(PROGRAM.replace("{stubborn}", str(stubborn)))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("batch 1"):
            return process
    raise AssertionError(process.communicate()[1])


def test_the_first_ctrl_c_finishes_the_batch_and_ends_training_as_if_it_were_over():
    process = start(stubborn=False)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "the end of training" in out
    assert re.search(r"Stopped by Ctrl-C (in|after) epoch \d+", err)
    assert "history " in out
    assert "this batch is finished first; press it again to stop at once" in err
    assert "Traceback" not in err


def test_the_second_ctrl_c_stops_at_once():
    process = start(stubborn=True)
    for line in process.stdout:
        if line.startswith("batch 1"):  # of the second epoch: step 5 comes next, and sleeps
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode != 0
    assert "on_exception KeyboardInterrupt" in out
    assert "the end of training" not in out
    assert "KeyboardInterrupt" in err


def fit_and_interrupt(at):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    ring = {at: lambda *arguments: signal.raise_signal(signal.SIGINT)}
    data = torch.zeros(8, 2), torch.zeros(8, 1)
    model.fit(3, data, data, batch_size=4, callbacks=[kt.callbacks.LambdaCallback(**ring)], verbose=0)
    return model


def test_ctrl_c_in_the_middle_of_an_epoch_or_of_a_validation_leaves_no_half_epoch(capfd):
    assert len(fit_and_interrupt("on_train_batch_begin").history) == 0
    assert "Stopped by Ctrl-C in epoch 1 after batch 1. The history keeps 0 finished epochs." in capfd.readouterr().err
    assert len(fit_and_interrupt("on_test_batch_begin").history) == 0
    assert len(fit_and_interrupt("on_epoch_end").history) == 1


def test_workers_that_die_of_the_same_ctrl_c_are_no_error(capfd):
    def batches():
        yield torch.zeros(4, 2), torch.zeros(4, 1)
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    assert len(model.fit(1, batches(), verbose=0)) == 0
    assert "Stopped by Ctrl-C in epoch 1 after batch 1" in capfd.readouterr().err


def test_workers_that_die_by_themselves_are_an_error():
    def batches():
        yield torch.zeros(4, 2), torch.zeros(4, 1)
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        model.fit(1, batches(), verbose=0)


def test_the_handler_that_was_there_comes_back():
    before = signal.getsignal(signal.SIGINT)
    fit_and_interrupt("on_train_batch_begin")
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), graceful_interrupt(lambda: None):
        assert signal.getsignal(signal.SIGINT) is not before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_user_is_left_alone():
    before = signal.getsignal(signal.SIGINT)
    own = signal.SIG_IGN
    signal.signal(signal.SIGINT, own)
    try:
        with graceful_interrupt(lambda: None):
            assert signal.getsignal(signal.SIGINT) == own
    finally:
        signal.signal(signal.SIGINT, before)


def test_fit_works_in_a_thread():
    done = []

    def work():
        with graceful_interrupt(lambda: None):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_a_forked_worker_leaves_ctrl_c_to_the_process_that_trains(monkeypatch, capfd):
    calls = []
    with graceful_interrupt(lambda: calls.append(1)):
        monkeypatch.setattr("kerastorch.signals.os.getpid", lambda: -1)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.undo()
        assert capfd.readouterr().err == ""
        assert calls == []
        signal.raise_signal(signal.SIGINT)
    assert calls == [1]
