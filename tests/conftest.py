import copy
import io
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

import kerastorch as kt
from kerastorch import resume
from kerastorch.roles import Resumed

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in workers of xdist, and in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children would begin with Ctrl-C ignored as well

settings.register_profile("kerastorch", deadline=None)  # machines are shared and noisy
settings.load_profile("kerastorch")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with MNIST and CIFAR-10."""
    folder = os.environ.get("KERASTORCH_DATA")
    if not folder:
        pytest.skip("KERASTORCH_DATA is not set: no MNIST / CIFAR-10 here")
    return Path(folder)


class Killed(BaseException):
    """The process is gone."""


class Kill(kt.Callback):
    """Makes a checkpoint after a batch (or, with batch None, at the end of an epoch), and later kills the training.

    Args:
        epoch: The epoch, from 0.
        batch: How many of its batches are finished; None for all, with their validation.
        later: Batches that are trained on between the checkpoint and the end.
    """

    stage = "display"

    def __init__(self, epoch, batch=None, *, later=0):
        self.epoch, self.batch, self.later = epoch, batch, later
        self.content = None

    def on_train_batch_end(self, batch, logs):
        if self.content is not None:
            self._end()
        elif (self.run.state.epoch, batch + 1) == (self.epoch, self.batch):
            self._keep()

    def on_epoch_end(self, epoch, logs):
        if self.batch is None and epoch == self.epoch:
            self._keep()

    def _keep(self):
        file = io.BytesIO()
        torch.save(resume.content_of(self.run), file)
        file.seek(0)
        self.content = torch.load(file, weights_only=True)
        self.later += 1
        self._end()

    def _end(self):
        self.later -= 1
        if not self.later:
            raise Killed


class GoOn(kt.Callback):
    """Lets a training go on from what a `Kill` has kept, without a file."""

    def __init__(self, killed):
        self.content = copy.deepcopy(killed.content)

    def around(self, hooks):
        state = self.run.state
        self.content["script"]["began"] = state.began if state.is_open else state.step  # the model may be used again
        progress = {name: self.content["progress"][name] for name in ("epoch", "batch", "step")}
        self.run.resumed = Resumed(**progress, source="backup.pt", content=self.content)
        return super().around(hooks)


def going_on(killed):
    """Return the callback that lets a new training go on from what a `Kill` has kept, in a list."""
    return [GoOn(killed)]


@pytest.fixture
def killing():
    """What kills a training, and goes on with it in new objects."""
    return SimpleNamespace(Kill=Kill, Killed=Killed, going_on=going_on)


SERVER = """
import json, os, sys
import torch, kerastorch

for line in sys.stdin:
    name, folder, arguments, output = json.loads(line)
    pid = os.fork()
    if not pid:
        break
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    os._exit(0)  # whoever asks has gone
os.setsid()
os.chdir(folder)
for number, path in enumerate(["/dev/null", *output]):
    os.dup2(os.open(path, os.O_RDWR), number)
sys.argv, __file__ = [name, *arguments], name  # workers that are spawned read the program from there
with open(name) as file:
    program = compile(file.read(), name, "exec")
exec(program)
"""


class Server:
    """A process that has imported torch and kerastorch, and forks one for each program: to import them takes seconds.

    The fork goes on in the main module, as if the program had begun there, and ends like any other interpreter.
    """

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )

    def start(self, *request):
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        return self.number(60)

    def number(self, seconds):
        """Return what it says next: the number of the process, and then its exit code."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"nothing has come for {seconds} s"
        return int(self.process.stdout.readline())


class Program:
    """A program that runs: its process leads a session of its own."""

    def __init__(self, server, text, arguments, here, place):
        program, self._out, self._err = (place / name for name in ("program.py", "out", "err"))
        program.write_text(textwrap.dedent(text))
        self._out.touch()
        self._err.touch()
        self._server, self._code = server, None
        output = [str(self._out), str(self._err)]
        self.pid = server.start(str(program), str(here), [str(value) for value in arguments], output)

    @property
    def is_running(self):
        if self._code is None and select.select([self._server.process.stdout], [], [], 0)[0]:
            self._code = self._server.number(1)
        return self._code is None

    def wait_for(self, beginning, times=1):
        """Wait until so many lines that begin like this have been printed."""
        deadline = time.monotonic() + 60
        while sum(line.startswith(beginning) for line in self._out.read_text().splitlines()) < times:
            assert self.is_running, self._err.read_text()
            assert time.monotonic() < deadline, self._out.read_text()
            time.sleep(0.01)
        return self

    def ended(self, seconds=60):
        """Return its exit code, or the negative number of the signal, and what it has written."""
        if self._code is None:
            self._code = self._server.number(seconds)
        return self._code, self._out.read_text(), self._err.read_text()

    def close(self):
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
            self.ended()


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.fixture
def run_program(server, tmp_path, tmp_path_factory):
    """A function that runs a program, with arguments, in `tmp_path` and a process of its own."""
    programs = []

    def run(text, *arguments):
        programs.append(Program(server, text, arguments, tmp_path, tmp_path_factory.mktemp("program")))
        return programs[-1]

    yield run
    for program in programs:
        program.close()
