import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.jit.contest import Contest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SAMPLES = 2048
X = torch.randn(SAMPLES, 32, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


class Strict(kt.Callback):
    """Makes it an error to wait for the device, once the step is recorded."""

    def on_train_batch_begin(self, batch, logs):
        torch.cuda.set_sync_debug_mode("error" if self.run.state.epoch and batch > 8 else "default")

    def on_train_batch_end(self, batch, logs):
        torch.cuda.set_sync_debug_mode("default")


def fitted(jit, *callbacks):
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)))
    model.compile("cross_entropy", "adam", ["accuracy"], device="cuda", jit_compile=jit)
    model.fit(3, (X, Y), batch_size=64, seed=1, callbacks=[*callbacks], verbose=0)
    return model


def test_a_recorded_step_gives_what_the_ordinary_one_gives(monkeypatch):
    ordinary = fitted(False)
    monkeypatch.setattr(Contest, "winner", property(lambda contest: 1))
    jitted = fitted(True)
    assert jitted._session._compiled.refusal is None
    for name, tensor in ordinary.state_dict().items():
        torch.testing.assert_close(jitted.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert jitted.history.history["loss"] == pytest.approx(ordinary.history.history["loss"], rel=1e-3)


def test_a_recorded_step_does_not_wait_for_the_device(monkeypatch):
    monkeypatch.setattr(Contest, "winner", property(lambda contest: 1))
    fitted(True, Strict())
