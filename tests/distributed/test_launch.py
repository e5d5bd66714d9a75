import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import kerastorch as kt
from kerastorch import jobs
from kerastorch.errors import DistributedError
from kerastorch.strategy.processes import join

CPU = torch.device("cpu")


class Odd(Exception):
    """One that cannot be sent: it wants two arguments."""

    def __init__(self, name, number):
        super().__init__(name)


def sums(number):
    group = join(CPU, 60)
    return {"total": group.total([number, group.rank]), "tensor": torch.ones(2), "threads": torch.get_num_threads()}


def fails(error, where=1):
    group = join(CPU, 60)
    group.total([1.0])
    if group.rank == where:
        raise error
    while True:
        group.total([1.0])


def fork(fn, *args, nproc=2, **options):
    return kt.launch(fn, nproc, args=args, start="fork", **options)


def test_a_function_of_a_module_gets_new_processes():
    found = kt.launch(sums, args=(2.5,))
    assert found["total"] == [5.0, 1.0]
    assert torch.equal(found["tensor"], torch.ones(2))


def test_a_function_inside_another_is_forked():
    number = 3.0
    found = kt.launch(lambda: sums(number), nproc=3)
    assert found["total"] == [9.0, 3.0]
    assert found["threads"] == 1


def test_one_process_is_enough():
    assert fork(sums, 1.0, nproc=1)["total"] == [1.0, 0]


def test_the_error_of_the_first_is_raised_here(capfd):
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"^boom") as caught:
        fork(fails, ValueError("boom"))
    assert time.monotonic() - begun < 10
    assert caught.value.__notes__ == ["kerastorch: in process 1 of 2"]
    trace = str(caught.value.__cause__)
    assert trace.count("Traceback") == 1
    assert "in fails\n    raise error\nValueError: boom\n" in trace
    notes = [] if sys.version_info >= (3, 11) else ["kerastorch: in process 0 of 2", "kerastorch: in process 1 of 2"]
    ends = "kerastorch: process 0 of 2 ends, as process 1 has failed: ValueError: boom"
    assert sorted(capfd.readouterr().err.splitlines()) == [*notes, ends]  # Python 3.10 prints notes by themselves


def test_an_error_that_cannot_be_sent_is_told():
    with pytest.raises(DistributedError, match=r"^Process 0 of 2 has failed:\nTraceback(.|\n)*Odd: one\n"):
        fork(fails, Odd("one", 2), 0)


def test_an_exit_code_is_handed_on():
    with pytest.raises(SystemExit) as caught:
        fork(fails, SystemExit(3))
    assert caught.value.code == 3


def test_all_may_end_with_exit_code_0():
    assert fork(sys.exit) is None


def killed():
    if join(CPU, 60).rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_killed_process_is_named_and_others_that_sleep_are_ended():
    begun = time.monotonic()
    with pytest.raises(DistributedError, match=r"^Process 1 of 2 was killed by SIGKILL\. SIGKILL comes mostly"):
        fork(killed)
    assert time.monotonic() - begun < 10


def deaf():
    if join(CPU, 60).rank == 1:
        os._exit(7)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def test_a_process_that_ignores_sigterm_is_killed():
    with pytest.raises(DistributedError, match="Process 1 of 2 has ended with exit code 7, and without an exception"):
        fork(deaf)


def ends_early():
    if join(CPU, 60).rank == 1:
        time.sleep(60)


def test_processes_must_end_together():
    with pytest.raises(DistributedError, match=r"Process 0 of 2 has ended, others went on for more than 0\.5 seconds"):
        fork(ends_early, timeout=0.5)


def fails_at_first(folder):
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    group = join(CPU, 60)
    assert group.everyone(attempt) == [attempt] * 2
    (folder / f"{attempt} {group.rank}").touch()
    group.total([1.0])
    if attempt < 4 and group.rank == attempt % 2:
        raise ValueError(f"attempt {attempt}")
    return group.total([1.0]), attempt


def test_restarts_one_after_the_other(tmp_path, capfd):
    assert fork(fails_at_first, tmp_path, max_restarts=4) == ([2.0], 4)
    assert len(list(tmp_path.iterdir())) == 10
    assert "kerastorch: ValueError: attempt 0; attempt 2 of 5 begins.\n" in capfd.readouterr().err


def test_the_last_failure_is_raised(tmp_path):
    with pytest.raises(ValueError, match="attempt 1"):
        fork(fails_at_first, tmp_path, max_restarts=1)


def returns_what_cannot_be_sent():
    join(CPU, 60)
    return lambda: 1


def test_a_result_that_cannot_be_sent():
    with pytest.raises(DistributedError, match=r"cannot be sent to the process that launched it: .*Return numbers"):
        fork(returns_what_cannot_be_sent)


def nested():
    try:
        kt.launch(sums, args=(1.0,))
    except DistributedError as error:
        return str(error)


def test_a_call_inside_a_process_is_refused():
    said = fork(nested, nproc=1)
    assert said.startswith("kt.launch was called in process 0 of 1, which was launched itself.")


def waits(folder):
    folder.joinpath(str(join(CPU, 60).rank)).touch()
    time.sleep(60)


def signalled(number, folder):
    def send():
        deadline = time.monotonic() + 30
        while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    fork(waits, folder)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_reach_all_processes(number, kind, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(kind) as caught:
        signalled(number, tmp_path)
    assert signal.getsignal(number) is before
    assert kind is KeyboardInterrupt or caught.value.code == 143


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"nproc": 0}, ValueError, "nproc must be 1 or more, or 'auto', not 0."),
        ({"nproc": 1.5}, ValueError, "not 1.5."),
        ({"max_restarts": -1}, ValueError, "max_restarts must be 0 or more, not -1."),
        ({"start": "forks"}, ValueError, "Unknown start='forks'. Did you mean 'fork'? There are auto, spawn, fork."),
    ],
)
def test_arguments_are_checked_before_anything_starts(options, kind, text):
    with pytest.raises(kind) as caught:
        kt.launch(sums, **options)
    assert str(caught.value).endswith(text)


def test_auto_means_accelerators(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(DistributedError, match=r"there is none here\. Type kt\.launch\(fn, nproc=2\)"):
        kt.launch(sums, "auto")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert fork(sums, 1.0, nproc="auto")["total"] == [2.0, 1.0]


def test_what_a_new_process_cannot_get_is_told():
    with pytest.raises(DistributedError, match=r"A new process cannot get .*<lambda>, .*Type start='fork'"):
        kt.launch(lambda: 1, start="spawn")
    with pytest.raises(DistributedError, match="A new process cannot get the arguments"):
        kt.launch(sums, args=(lambda: 1,), start="spawn")


def test_a_fork_after_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(DistributedError, match=r"^A new process cannot get .* must be forked\. CUDA is in use"):
        kt.launch(lambda: 1)
    with pytest.raises(DistributedError, match=r"^CUDA is in use in this process, and does not survive a fork"):
        fork(sums)


def test_a_system_that_cannot_fork(monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(DistributedError, match="This system cannot fork"):
        kt.launch(lambda: 1)


SCRIPT = """
import kerastorch as kt

def train():
    return 1

{guard}kt.launch(train)
"""


@pytest.mark.parametrize("guard", ["", "if __name__ == '__main__': "])
def test_a_forgotten_guard_is_told_at_once(guard, tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(guard=guard))
    environment = os.environ | {"PYTHONPATH": str(Path(kt.__file__).parents[1])}
    done = subprocess.run([sys.executable, path], check=False, capture_output=True, text=True, env=environment)
    assert bool(done.returncode) is not bool(guard)
    assert done.stderr.count("Traceback") == (0 if guard else 1)
    assert guard or "Type\nif __name__ == '__main__':\n    kt.launch(...)\nat the end" in done.stderr


def test_a_report_says_whether_its_error_can_be_sent(tmp_path):
    for rank, error in enumerate([ValueError("boom"), Odd("one", 2)]):
        jobs._report(tmp_path, rank, error, is_first=True)
        report = pickle.loads((tmp_path / f"error {rank}").read_bytes())
        assert (report.error is None) is (rank == 1)
        assert str(error) in report.text
