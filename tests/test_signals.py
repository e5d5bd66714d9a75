import functools
import os
import re
import signal
import sys
import threading
import time

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import signals
from kerastorch.signals import child_deaths_deferred, fetching, preemptible

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


def test_the_first_ctrl_c_finishes_the_batch_and_ends_training_as_if_it_were_over(run_program):
    program = run_program(PROGRAM.replace("{stubborn}", "False")).wait_for("batch 1")
    os.kill(program.pid, signal.SIGINT)
    code, out, err = program.ended()
    assert code == 0, err
    assert "the end of training" in out
    assert re.search(r"Stopped by Ctrl-C (in|after) epoch \d+", err)
    assert "history " in out
    assert "Ctrl-C: this step will be finished first; press it again to stop at once" in err
    assert "Traceback" not in err


def test_the_second_ctrl_c_stops_at_once(run_program):
    program = run_program(PROGRAM.replace("{stubborn}", "True"))
    program.wait_for("batch 1", 2)  # of the second epoch: step 5 comes next, and sleeps
    time.sleep(0.3)
    os.kill(program.pid, signal.SIGINT)
    time.sleep(0.3)
    assert program.is_running
    os.kill(program.pid, signal.SIGINT)
    code, out, err = program.ended(10)
    assert code != 0
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


NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1


def present():
    return [signal.getsignal(number) for number in (*NUMBERS, signal.SIGCHLD)]


def test_the_handlers_that_were_there_come_back():
    fit_and_interrupt("on_train_batch_begin")  # torch sets one for SIGCHLD, which stays
    before = present()
    fit_and_interrupt("on_train_batch_begin")
    assert present() == before
    with pytest.raises(ZeroDivisionError), preemptible(print), child_deaths_deferred():
        assert not set(present()) & set(before)
        raise ZeroDivisionError
    assert present() == before


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_of_any_kind_takes_a_note_and_the_second_stops_at_once(number, capfd):
    before, numbers = present(), []
    error = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(error) as caught, preemptible(numbers.append):
        signal.raise_signal(signal.SIGTERM)
        assert numbers == [signal.SIGTERM]
        signal.raise_signal(number)
    assert numbers == [signal.SIGTERM]
    assert present() == before
    assert capfd.readouterr().err == "\nSIGTERM: this step will be finished and saved; send it again to stop at once.\n"
    if number != signal.SIGINT:
        assert caught.value.code == 128 + number


def test_what_torchrun_hands_on_is_no_second_signal(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    seen = []
    with pytest.raises(SystemExit, match="143"), preemptible(seen.append):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # that of the scheduler came first, now that of torchrun
        assert seen == [signal.SIGTERM]
        monkeypatch.setattr(signals, "ECHO", 0)
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), preemptible(seen.append):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit, match="143"), preemptible(seen.append):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_handler_of_the_user_is_left_alone(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with preemptible(print):
            handlers = [signal.getsignal(each) for each in NUMBERS]
            assert [handler == signal.SIG_IGN for handler in handlers] == [each == number for each in NUMBERS]
    finally:
        signal.signal(number, before)


def test_a_handler_that_is_set_meanwhile_is_kept():
    def own(number, frame):
        pass

    before = signal.getsignal(signal.SIGTERM)
    try:
        with preemptible(print):
            signal.signal(signal.SIGTERM, own)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_is_done_in_a_thread():
    done = []

    def work():
        before = present()
        with preemptible(print), child_deaths_deferred(), fetching():
            done.append(present() == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_what_a_signal_would_have_done_is_done_in_the_end():
    for number, is_saved in [(None, True), (None, False), (signal.SIGINT, False)]:
        signals.obey(number, is_saved=is_saved)
    with pytest.raises(KeyboardInterrupt):
        signals.obey(signal.SIGINT, is_saved=True)
    for is_saved in (True, False):
        with pytest.raises(SystemExit) as caught:
            signals.obey(signal.SIGTERM, is_saved=is_saved)
        assert caught.value.code == 128 + signal.SIGTERM


def test_a_message_that_nobody_can_read_is_no_error(monkeypatch):
    def broken(*arguments):
        raise OSError("the terminal is gone")

    numbers = []
    with preemptible(numbers.append):
        monkeypatch.setattr("kerastorch.signals.os.write", broken)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.undo()
    assert numbers == [signal.SIGTERM]


def in_a_child(act):
    """Return how a forked child ends: its exit code, or the negative number of the signal."""
    pid = os.fork()
    if not pid:
        act()
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on, for processes with threads
def test_a_forked_child_leaves_signals_to_the_process_that_trains_but_can_be_ended(monkeypatch, capfd):
    numbers = []
    with preemptible(numbers.append):
        for number in (signal.SIGINT, signal.SIGUSR1):
            assert in_a_child(functools.partial(signal.raise_signal, number)) == 7
        assert in_a_child(functools.partial(signal.raise_signal, signal.SIGTERM)) == -signal.SIGTERM
        monkeypatch.setattr("kerastorch.signals.get_worker_info", lambda: "a worker of a loader that is not ours")
        assert in_a_child(functools.partial(signal.raise_signal, signal.SIGTERM)) == 7
        assert in_a_child(lambda: [signal.raise_signal(signal.SIGTERM) for _ in range(2)]) == -signal.SIGTERM
        monkeypatch.setattr("kerastorch.signals.REPRIEVE", 1)
        assert in_a_child(lambda: (signal.raise_signal(signal.SIGTERM), time.sleep(5))) == -signal.SIGALRM
    assert (numbers, capfd.readouterr().err) == ([], "")


@pytest.fixture
def deaths(monkeypatch):
    """Calls of a handler in the place of torch's; it raises as long as `deaths.error` is set."""

    class Deaths(list):
        error = None

        def __call__(self, number, frame):
            self.append(number)
            if self.error:
                raise self.error

    calls = Deaths()
    before = signal.signal(signal.SIGCHLD, calls)
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._set_SIGCHLD_handler", lambda: None)
    yield calls
    signal.signal(signal.SIGCHLD, before)


def test_the_death_of_a_child_waits_for_the_next_fetch(deaths):
    with child_deaths_deferred():
        signal.raise_signal(signal.SIGCHLD)
        signal.raise_signal(signal.SIGCHLD)
        assert deaths == []
        with fetching():
            assert deaths == [signal.SIGCHLD]
            signal.raise_signal(signal.SIGCHLD)
            assert len(deaths) == 2
            with child_deaths_deferred(), fetching():
                signal.raise_signal(signal.SIGCHLD)
            signal.raise_signal(signal.SIGCHLD)
            assert len(deaths) == 4
        with fetching():
            assert len(deaths) == 4
        signal.raise_signal(signal.SIGCHLD)
    assert len(deaths) == 5
    assert signal.getsignal(signal.SIGCHLD) is deaths
    with fetching():
        signal.raise_signal(signal.SIGCHLD)
    assert len(deaths) == 6


def test_it_raises_inside_of_fetching_or_on_entering_and_not_at_the_end(deaths):
    deaths.error = RuntimeError("a worker died")
    with child_deaths_deferred():
        with pytest.raises(RuntimeError, match="a worker died"), fetching():
            signal.raise_signal(signal.SIGCHLD)
        signal.raise_signal(signal.SIGCHLD)
        with pytest.raises(RuntimeError, match="a worker died"), fetching():
            raise AssertionError("nothing is fetched")
        with fetching():
            pass
        signal.raise_signal(signal.SIGCHLD)
    assert len(deaths) == 3


def test_a_torch_without_such_a_handler_is_left_as_it_is(deaths, monkeypatch):
    monkeypatch.delattr("torch.utils.data._utils.signal_handling._set_SIGCHLD_handler")
    with child_deaths_deferred(), fetching():
        assert signal.getsignal(signal.SIGCHLD) is deaths
    monkeypatch.undo()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._set_SIGCHLD_handler", lambda: None)
    with child_deaths_deferred():
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def test_windows_has_neither(deaths, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with child_deaths_deferred():
        assert signal.getsignal(signal.SIGCHLD) is deaths
    assert signals._torch_handler() is None
