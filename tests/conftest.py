import copy
import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

import kerastorch as kt
from kerastorch import resume
from kerastorch.run import Resumed

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
        self.content["script"]["began"] = self.run.state.step  # the same model may be used again
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
