"""Real processes: what a loop that uses these functions does when it, or its workers, are signalled."""

import os
import pickle
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from kerastorch.data.workers import DeadWorker, dead_worker, fetching, initialiser, shut_down
from kerastorch.signals import child_deaths_deferred

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PROGRAM = """
import sys, time, torch
from torch.utils.data import DataLoader, Dataset
from kerastorch.data.workers import fetching, initialiser, shut_down
from kerastorch.signals import child_deaths_deferred, preemptible

class Slow(Dataset):
    def __init__(self, seconds, size):
        self.seconds, self.size = seconds, size
    def __len__(self):
        return 10**6
    def __getitem__(self, row):
        time.sleep(self.seconds)
        return "x" * self.size if self.size else torch.zeros(3)

def train(workers, context, read, step, size):
    first = []
    loader = DataLoader(
        Slow(read, size), batch_size=4, num_workers=workers, worker_init_fn=initialiser(None),
        multiprocessing_context=context if workers else None,
    )
    iterator = iter(())
    with preemptible(first.append), child_deaths_deferred():
        try:
            with fetching():
                iterator = iter(loader)
            print("begun", flush=True)
            while not first:
                with fetching():
                    next(iterator)
                print("fetched", flush=True)
                until = time.monotonic() + step
                while time.monotonic() < until:
                    pass
                print("stepped", flush=True)
            print("saved", flush=True)
        except RuntimeError:
            if not first:
                raise
            print("saved", flush=True)
        finally:
            shut_down(iterator)
    sys.exit(128 + first[0])

if __name__ == "__main__":
    workers, context, read, step, size = sys.argv[1:]
    train(int(workers), context, float(read), float(step), int(size))
"""


def trial(run_program, *, workers=2, context="fork", read=0.01, step=0.2, size=0):
    """Run a program that trains, in a session of its own, so that what it leaves behind can be found."""
    return run_program(PROGRAM, workers, context, read, step, size)


def workers_of(program):
    return [pid for pid in left_by(program) if parent(pid) == program.pid and b"resource_tracker" not in command(pid)]


def send(number, program, to):
    if to == "main":
        os.kill(program.pid, number)
    elif to == "group":
        os.killpg(program.pid, number)
    else:
        for pid in [*workers_of(program), program.pid]:  # the worst order
            os.kill(pid, number)


def left_by(program):
    return [pid for pid in processes() if pid != program.pid and session(pid) == program.pid]


def leaves_nothing(program, seconds):
    deadline = time.monotonic() + seconds
    while left_by(program) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left_by(program)


def processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def fields(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "0", "0", "0"]
    return state if state[0] != "Z" else ["Z", "0", "0", "0"]


def parent(pid):
    return int(fields(pid)[1])


def session(pid):
    return int(fields(pid)[3])


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize(
    ("number", "to", "read", "step", "workers", "context"),
    [
        (signal.SIGTERM, "every", 0.1, 0.0, 2, "fork"),  # while it waits for data
        (signal.SIGUSR1, "group", 0.01, 0.2, 2, "fork"),  # in the middle of a step
        (signal.SIGINT, "group", 0.01, 0.2, 1, "spawn"),
    ],
)
def test_a_signal_ends_training_in_order_whoever_gets_it(run_program, number, to, read, step, workers, context):
    program = trial(run_program, workers=workers, context=context, read=read, step=step).wait_for("fetched", 2)
    send(number, program, to)
    code, out, err = program.ended()
    assert code == 128 + number, err
    assert out.split()[-1] == "saved"
    assert out.count("saved") == 1
    assert err.strip().count("\n") == 0, err  # the message of ours, and nothing of the workers'
    assert leaves_nothing(program, 5)


def test_the_second_signal_stops_at_once_and_leaves_no_worker(run_program):
    program = trial(run_program, step=30).wait_for("fetched")
    send(signal.SIGTERM, program, "main")
    time.sleep(0.3)
    assert program.is_running
    send(signal.SIGTERM, program, "main")
    code, out, err = program.ended(20)
    assert (code, out.count("saved"), err.count("Traceback")) == (128 + signal.SIGTERM, 0, 0)
    assert leaves_nothing(program, 5)


def test_workers_go_when_the_process_that_trains_was_killed(run_program):
    program = trial(run_program, step=0.5, size=300_000).wait_for(
        "stepped"
    )  # workers that wait for room in their queue
    assert len(workers_of(program)) == 2
    send(signal.SIGKILL, program, "main")
    assert program.ended()[0] == -signal.SIGKILL
    assert leaves_nothing(program, 10)


class Rows(Dataset):
    def __init__(self, read=lambda row: row):
        self.read = read

    def __len__(self):
        return 1000

    def __getitem__(self, row):
        return self.read(row)


def handlers(row):
    kinds = {signal.SIG_IGN: 1, signal.SIG_DFL: 2}
    return torch.tensor([kinds.get(signal.getsignal(number), 3) for number in SIGNALS])


SIGNALS = signal.SIGINT, signal.SIGUSR1, signal.SIGTERM


def default_for_usr1(worker):
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@pytest.fixture
def started():
    iterators = []

    def start(read=lambda row: row, own=None, **options):
        options = {"num_workers": 2, "worker_init_fn": initialiser(own), **options}
        iterators.append(iter(DataLoader(Rows(read), batch_size=4, **options)))
        return iterators[-1]

    yield start
    for iterator in iterators:
        shut_down(iterator)


def test_a_worker_leaves_signals_alone_and_the_users_function_has_the_last_word(started):
    assert next(started(handlers)).unique(dim=0).tolist() == [[1, 1, 3]]
    assert next(started(handlers, default_for_usr1)).unique(dim=0).tolist() == [[1, 2, 3]]


def test_the_initialiser_can_be_pickled():
    assert pickle.loads(pickle.dumps(initialiser(default_for_usr1))).args == (default_for_usr1,)


def catches(worker, number):
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{worker.pid}/status").read_text())[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_after_sigterm_a_worker_goes_on_for_a_while_and_at_the_second_it_ends(started, monkeypatch):
    monkeypatch.setattr("kerastorch.signals.REPRIEVE", 3)
    iterator = started()
    assert [next(iterator)[0].item() for _ in range(2)] == [0, 4]  # one from each: both have begun
    first, second = iterator._workers
    for worker in (first, second):
        os.kill(worker.pid, signal.SIGTERM)
        while catches(worker, signal.SIGTERM):  # on a busy machine two that come together count as one
            time.sleep(0.01)
    assert next(iterator).tolist() == [8, 9, 10, 11]
    assert first.is_alive()
    assert second.is_alive()
    with child_deaths_deferred():
        os.kill(second.pid, signal.SIGTERM)
        second.join(10)
        assert second.exitcode == -signal.SIGTERM
        first.join(10)
        assert first.exitcode == -signal.SIGALRM


def test_a_worker_that_is_killed_raises_where_batches_are_fetched_and_nowhere_else(started):
    with child_deaths_deferred():
        iterator = started()
        with fetching():
            next(iterator)
        os.kill(iterator._workers[1].pid, signal.SIGKILL)
        count, until = 0, time.monotonic() + 0.5
        while time.monotonic() < until:  # a step; torch's handler would raise here
            count += 1
        with pytest.raises(RuntimeError, match="worker") as caught, fetching():
            next(iterator)
        dead = dead_worker(caught.value, iterator)
        assert dead == DeadWorker(1, iterator._workers[1].pid, -signal.SIGKILL)
        assert dead.describe().startswith(f"worker 1 (process {dead.pid}) was killed by SIGKILL. Most often")
        assert dead_worker(ConnectionResetError(), iterator) == dead
        assert dead_worker(EOFError(), iterator) == dead
        assert dead_worker(KeyError("4"), iterator) is None
        shut_down(iterator)


def killed_while_read(row):
    if row == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return row


@pytest.mark.parametrize(
    ("read", "code"),
    [(killed_while_read, -9), (lambda row: os._exit(3) if row == 9 else row, 3)],
    ids=["signal", "exit"],
)
def test_a_worker_that_dies_while_it_is_waited_for(started, read, code):
    with child_deaths_deferred():
        iterator = started(read)
        with pytest.raises(RuntimeError, match="worker") as caught:
            while True:
                with fetching():
                    next(iterator)
        dead = dead_worker(caught.value, iterator)
        assert (dead.index, dead.exitcode) == (0, code)


def test_an_exit_code_of_zero_counts_only_if_torch_says_so(started):
    iterator = started(lambda row: os._exit(0))
    worker = iterator._workers[0]
    worker.join(5)
    assert dead_worker(RuntimeError("anything else"), iterator) is None
    dead = dead_worker(RuntimeError(f"DataLoader worker (pid(s) {worker.pid}) exited unexpectedly"), iterator)
    assert dead == DeadWorker(0, worker.pid, 0)
    assert dead.describe() == f"worker 0 (process {worker.pid}) ended with exit code 0"


def no_file(row):
    raise FileNotFoundError("cat.jpg")


def test_an_error_of_the_dataset_is_no_death_and_is_told_without_delay(started):
    iterator = started(no_file)
    with pytest.raises(FileNotFoundError, match=r"cat\.jpg") as caught:
        next(iterator)
    before = time.monotonic()
    assert dead_worker(caught.value, iterator) is None
    assert time.monotonic() - before < 0.5
    assert dead_worker(EOFError(), iter([])) is None
    assert dead_worker(EOFError(), iter(DataLoader(Rows()))) is None


def test_a_pipe_that_breaks_while_all_workers_live_is_waited_for_and_no_death(started, monkeypatch):
    monkeypatch.setattr("kerastorch.data.workers._SHOWS", 0.1)
    before = time.monotonic()
    assert dead_worker(EOFError(), started()) is None
    assert time.monotonic() - before >= 0.1


@pytest.mark.parametrize(
    ("code", "words"),
    [(-7, "SIGBUS. Most often shared memory is too small"), (-11, "SIGSEGV. That is a crash"), (-40, "signal 40")],
)
def test_what_killed_a_worker_is_named(code, words):
    assert DeadWorker(0, 12, code).describe().startswith(f"worker 0 (process 12) was killed by {words}")


def test_a_worker_that_does_not_listen_is_killed(started, monkeypatch):
    monkeypatch.setattr("kerastorch.data.workers._PATIENCE", 0.3)
    iterator = started(lambda row: time.sleep(60))
    time.sleep(0.5)  # both are at it
    before = time.monotonic()
    shut_down(iterator)
    assert time.monotonic() - before < 3
    assert [worker.exitcode for worker in iterator._workers] == [-signal.SIGKILL] * 2
    shut_down(iterator)


def test_workers_that_are_done_or_dead_are_shut_down_too(started, monkeypatch):
    monkeypatch.setattr("kerastorch.data.workers._PATIENCE", 0.3)
    iterator = started()
    next(iterator)
    os.kill(iterator._workers[0].pid, signal.SIGSTOP)
    shut_down(iterator)
    assert not any(worker.is_alive() for worker in iterator._workers)


def test_other_iterators_are_left_alone():
    rest = iter([1, 2])
    shut_down(rest)
    single = iter(DataLoader(Rows()))
    shut_down(single)
    assert (next(rest), next(single).item()) == (1, 0)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


def test_a_stream_that_ended_is_shut_down_and_no_accident():
    with child_deaths_deferred():
        iterator = iter(DataLoader(Stream(), batch_size=4, num_workers=2, worker_init_fn=initialiser()))
        batches = []
        with pytest.raises(StopIteration):
            while True:
                with fetching():
                    batches.append(next(iterator))
        assert len(batches) == 4
        shut_down(iterator)
        assert [worker.exitcode for worker in iterator._workers] == [0, 0]


def test_when_no_thread_can_be_started_workers_are_ended_all_the_same(started, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    iterator = started()
    next(iterator)
    monkeypatch.setattr("kerastorch.data.workers.threading.Thread.start", refuse)
    shut_down(iterator)
    monkeypatch.undo()
    assert not any(worker.is_alive() for worker in iterator._workers)
