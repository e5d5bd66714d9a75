import contextlib
import json
import os
import re
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from kerastorch import signals
from kerastorch.errors import DistributedError
from kerastorch.strategy import failure, processes
from kerastorch.strategy.group import Group
from tests.distributed.together import Failed, together

CPU = torch.device("cpu")
GONE = RuntimeError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:2234")
LATE = RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:90] Timed out waiting 1000ms for recv operation")


class Pair:
    """Two processes that are none: both alarms are here, and talk through a store in memory."""

    def __init__(self, monkeypatch):
        store = dist.HashStore()
        monkeypatch.setattr(failure, "_get_default_store", lambda: store)
        monkeypatch.setattr(failure, "LOOK", 0.02)
        monkeypatch.setattr(failure, "REPLY", 0.1)
        monkeypatch.setattr(failure, "GRACE", 0.05)
        monkeypatch.setattr(signals, "_stood_down", [])
        monkeypatch.setattr(sys, "excepthook", lambda *error: self.shown.append(error[1]))
        monkeypatch.setattr(os, "_exit", self._exit)
        monkeypatch.setattr(failure, "_alarms", [])
        monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
        self.shown, self.exits = [], threading.Event()
        self.groups = [SimpleNamespace(rank=rank, size=2, of_main=lambda value: "word") for rank in range(2)]
        self.alarms = []

    def _exit(self, code):
        assert code == 1
        self.exits.set()

    def begin(self):
        self.alarms = [failure.Alarm(group) for group in self.groups]
        for alarm in self.alarms:
            alarm._before = lambda *error: self.shown.append(error[1])
        failure._alarms[:] = self.alarms[:1]
        return self.alarms

    def close(self):
        for alarm in reversed(self.alarms):
            alarm.stop()


@pytest.fixture
def pair(monkeypatch):
    pair = Pair(monkeypatch)
    yield pair
    pair.close()


def test_the_first_that_fails_shows_its_error_and_all_others_end_with_a_line(pair, capfd):
    zero, one = pair.begin()
    assert one.raised() is None
    assert one.fails(ValueError("boom,\n  and more"))
    assert zero.raised() == (1, "ValueError: boom, and more")
    assert not zero.fails(KeyError("mine"))
    told = "kerastorch: process 0 of 2 ends, as process 1 has failed: ValueError: boom, and more\n"
    assert capfd.readouterr().err == told


def test_an_exception_that_nobody_catches_is_shown_by_one_process_only(pair, capfd):
    zero, one = pair.begin()
    first, second = ValueError(), KeyError(1)
    one._on_death(ValueError, first, None)
    zero._on_death(KeyError, second, None)
    assert pair.shown == [first]
    assert "ends, as process 1 has failed: ValueError\n" in capfd.readouterr().err


def test_a_process_that_does_not_end_by_itself_is_ended(pair, capfd):
    _, one = pair.begin()
    one.fails(ValueError("boom"))
    assert pair.exits.wait(5)
    assert capfd.readouterr().err == "kerastorch: process 0 of 2 ends, as process 1 has failed: ValueError: boom\n"
    assert signals._stood_down


def test_a_fork_leaves_alarm_and_errors_alone(pair, monkeypatch):
    zero, one = pair.begin()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    zero._on_death(ValueError, ValueError(), None)
    assert not zero.stop()
    monkeypatch.undo()
    assert len(pair.shown) == 1
    assert one.raised() is None


def test_a_process_with_the_store_lets_others_look_before_it_ends(pair, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(failure, "REPLY", 5)
    zero, one = pair.begin()
    begun = time.monotonic()
    zero._on_death(ValueError, ValueError(), None)
    assert time.monotonic() - begun < 4
    assert zero._store.check(["knows 1"])
    assert one.raised() == (0, "ValueError")


def test_without_a_store_every_process_shows_its_own(pair, monkeypatch):
    zero, one = pair.begin()
    monkeypatch.setattr(zero, "_store", dist.PrefixStore("x", Broken()))
    monkeypatch.setattr(one, "_store", dist.PrefixStore("x", Broken()))
    assert one.fails(ValueError())
    assert zero.fails(ValueError())
    assert zero.awaited() is None
    assert zero.places() == []
    assert zero.ended() == []


class Broken(dist.Store):
    """A store whose process is gone."""

    def _gone(self, *arguments):
        raise RuntimeError("Broken pipe")

    check = get = set = compare_set = _gone


def test_torchrun_shows_the_line_of_the_first(pair, monkeypatch, tmp_path):
    zero, one = pair.begin()
    for number, alarm in enumerate([one, zero, one]):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(min(number, 1))))
        alarm.fails(ValueError("boom"))
    first, second = (json.loads((tmp_path / name).read_text())["message"] for name in "01")
    assert first["message"] == first["extraInfo"]["py_callstack"] == "ValueError: boom"
    assert second["message"] == "process 1 has failed: ValueError: boom"
    assert int(first["extraInfo"]["timestamp"]) < int(second["extraInfo"]["timestamp"])


def test_one_alarm_serves_a_group_and_ends_with_it(pair):
    pair.begin()
    first = failure.alarm(pair.groups[0])
    assert failure.alarm(pair.groups[0]) is first
    assert failure.stop() is False
    assert failure.alarm(pair.groups[0]) is not first
    failure.is_first(ValueError())
    assert failure.stop() is True
    assert failure.is_first(ValueError())  # nobody else can know


def test_an_error_names_its_process(pair):
    pair.begin()
    error = ValueError("boom")
    for _ in range(2):
        assert failure.report(pair.groups[0], error) is error
    assert error.__notes__ == ["kerastorch: in process 0 of 2"]
    alone = ValueError("boom")
    assert failure.report(Group(), alone) is alone
    assert not hasattr(alone, "__notes__")
    stop = KeyboardInterrupt()
    assert failure.report(pair.groups[0], stop) is stop
    assert not hasattr(stop, "__notes__")


def test_a_broken_collective_is_explained_by_who_has_failed(pair):
    _, one = pair.begin()
    one.fails(ValueError("boom"))
    told = failure.report(pair.groups[0], GONE)
    assert type(told) is DistributedError
    assert str(told) == "Process 1 of 2 has failed: ValueError: boom"
    assert told.__cause__ is GONE
    assert signals._stood_down
    assert failure.report(pair.groups[0], told) is told


def test_a_broken_collective_is_explained_by_who_has_ended(pair):
    _, one = pair.begin()
    one.stop()
    assert str(failure.explain(pair.groups[0], GONE)).startswith(
        "Process 1 of 2 has come to its end, and process 0 still waits for it. All processes must make the same calls"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (str(GONE), "One of 2 processes is gone, and has not said why: it was killed, mostly as memory ran out"),
        ("[gloo] op.preamble.length <= op.nbytes. 16 vs 8", "The 2 processes do not do the same: what they sent each"),
        ("NCCL error: unhandled system error", "The 2 processes could not talk to each other: NCCL error: unhandled"),
    ],
)
def test_other_errors_of_collectives(pair, text, told):
    pair.begin()
    assert str(failure.explain(pair.groups[0], RuntimeError(text))).startswith(told)


def test_a_timeout_tells_where_each_process_is(pair):
    pair.begin()
    text = str(failure.explain(pair.groups[0], LATE))
    assert text.startswith("Process 0 of 2 has waited for the others until the time was up.")
    here = r"is at test_failure.py, line \d+, in test_a_timeout_tells_where_each_process_is, within \w+"
    assert re.search(f"process 0 {here}; process 1 {here}. All must", text)
    assert "kt.DDP(timeout=3600)" in text


def test_a_process_that_looks_no_more_does_not_answer(pair):
    _, one = pair.begin()
    one._over.set()
    one._looker.join()
    assert pair.alarms[0].places()[1] == "process 1 does not answer"
    assert failure._place(None) == "is at its end"


def test_errors_of_collectives_without_an_alarm(pair):
    assert str(failure.explain(pair.groups[0], GONE)).startswith("One of 2 processes is gone")
    assert str(failure.explain(pair.groups[0], LATE)).startswith("Process 0 of 2 has waited")


@pytest.mark.parametrize("text", ["mat1 and mat2 shapes cannot be multiplied", "CUDA out of memory"])
def test_what_is_no_collective_stays_what_it_is(pair, text):
    error = RuntimeError(text)
    assert not failure.is_broken(error)
    assert failure.report(pair.groups[0], error) is error


held = []  # to the end of the process, or torch 2.6 may wait for ever, see processes.leave


def one_fails(kind):
    group = processes.join(CPU, 20)
    assert group.total([1.0]) == [2.0]
    if group.rank == 1:
        failure._alarms[0].fails(ValueError("boom"))
        held.append(dist.group.WORLD)
        dist.destroy_process_group()
        raise ValueError("boom")
    begun = time.monotonic()
    calls = {
        "total": lambda: group.total([1.0]),
        "everyone": lambda: group.everyone(1),
        "of_main": lambda: [group.of_main(None) for _ in iter(lambda: group.everyone(0), None)],
        "align": lambda: [group.align([torch.ones(1000)]) for _ in iter(lambda: group.total([0.0]), None)],
    }
    try:
        calls[kind]()
    except DistributedError as error:
        assert time.monotonic() - begun < 5
        raise AssertionError(str(error)) from None


@pytest.mark.parametrize("kind", ["total", "everyone", "of_main", "align"])
def test_real_processes_learn_who_has_failed(kind):
    with pytest.raises(Failed) as caught:
        together(2, one_fails, kind)
    assert caught.value.errors[1].endswith("ValueError: boom\n")
    assert caught.value.errors[0].endswith("AssertionError: Process 1 of 2 has failed: ValueError: boom\n")


def diverge():
    group = processes.join(CPU, 2)
    if group.rank == 1:
        sleep_long()
        return None
    with contextlib.suppress(ZeroDivisionError):
        try:
            group.total([1.0])
        except DistributedError as error:
            return str(error)
    return None


def sleep_long():
    time.sleep(5)


def test_processes_that_diverge_are_found_within_the_time_and_told_where_they_are():
    begun = time.monotonic()
    text = together(2, diverge)[0]
    assert time.monotonic() - begun < 20
    assert text.startswith("Process 0 of 2 has waited for the others until the time was up. They do not do the same")
    assert re.search(r"process 1 is at test_failure.py, line \d+, in sleep_long\. All must", text)


def sigterm_when_broken():
    import signal

    group = processes.join(CPU, 20)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    noted = []
    with signals.preemptible(noted.append):
        failure.explain(group, GONE)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit as error:
            return noted, error.code
    return noted, None


def test_sigterm_ends_a_process_whose_group_is_broken():
    assert together(2, sigterm_when_broken) == [([], 143)] * 2
