import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kerastorch as kt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def make_data(samples=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def fit(device, **options):
    model = kt.Model(make_net())
    model.compile("cross_entropy", lambda parameters: torch.optim.Adam(parameters, lr=0.01), ["accuracy"], device)
    model.fit(3, DataLoader(TensorDataset(*make_data()), 16, pin_memory=True), make_data(), verbose=0, **options)
    return model


def test_training_on_the_gpu_is_that_on_the_cpu_within_rounding():
    there, here = fit("cuda"), fit("cpu")
    assert there.net[0].weight.device.type == "cuda"
    assert there.history["loss"] == pytest.approx(here.history["loss"], rel=1e-3)
    for value, twin in zip(there.parameters(), here.parameters(), strict=True):
        assert torch.allclose(value.cpu(), twin, atol=1e-3)


def test_auto_takes_the_gpu_and_predictions_come_to_the_cpu():
    model = fit("auto")
    assert model.net[0].weight.is_cuda
    assert model.predict(make_data()[0]).device.type == "cpu"


def test_a_net_that_was_trained_on_the_cpu_trains_on_with_the_state_of_its_optimizer():
    model = fit("cpu")
    optimizer = model.optimizer
    transfer = kt.callbacks.DeviceTransfer("cuda")
    model.fit(1, make_data(), callbacks=[transfer], verbose=0)
    assert model.optimizer is optimizer
    assert optimizer.state[model.net[0].weight]["exp_avg"].is_cuda


def test_no_step_waits_for_the_device():
    class Strict(kt.Callback):
        def on_train_batch_begin(self, batch, logs):
            torch.cuda.set_sync_debug_mode("error" if batch else "default")

        def on_train_batch_end(self, batch, logs):
            if batch == 3:
                torch.cuda.set_sync_debug_mode("default")

    try:
        fit("cuda", callbacks=[Strict()])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_weights_that_were_written_on_the_gpu_load_on_the_cpu(tmp_path):
    model = fit("cuda", callbacks=[kt.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt")])
    model.save_weights(tmp_path / "weights.safetensors")
    for name in ("3.pt", "weights.safetensors"):
        other = kt.Model(make_net())
        other.load_weights(tmp_path / name)
        assert other.net[0].weight.device.type == "cpu"
        assert torch.equal(other.net[0].weight, model.net[0].weight.cpu())
