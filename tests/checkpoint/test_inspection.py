import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import checkpoint


def trained(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    model = kt.Model(net)
    model.compile("mse", "adam")
    data = (torch.randn(12, 4), torch.randn(12, 4))
    path = tmp_path / "a.pt"
    model.fit(2, data, data, batch_size=4, verbose=0, callbacks=[kt.callbacks.ModelCheckpoint(path)])
    return model, path


def test_a_training_state_is_told_without_the_net(tmp_path):
    model, path = trained(tmp_path)
    information = kt.checkpoint.inspect(str(path))
    assert information.is_whole
    assert (information.kind, information.size) == ("training state", path.stat().st_size)
    assert (information.epoch, information.batch, information.step) == (2, 0, 6)
    assert information.metrics["val_loss"] == model.history["val_loss"][-1]
    assert information.tensors == len(model.state_dict())
    assert information.parameters == sum(p.numel() for p in model.parameters()) + 4 + 4 + 1  # BatchNorm's buffers
    versions = {"kerastorch": kt.__version__, "torch": str(torch.__version__), "format": "2"}
    assert information.versions.items() > versions.items()
    lines = str(information).splitlines()
    assert lines[0] == str(path)
    assert lines[1:5] == [
        "  kind        training state",
        "  state       whole",
        f"  size        {path.stat().st_size:,} bytes",
        "  net         41 parameters in 9 tensors",
    ]
    assert lines[5:7] == ['  inputs      ["float32", [4]]', "  progress    2 epochs, 6 steps"]
    assert lines[7].startswith("  last epoch  loss ")
    assert lines[8].startswith(f"  written by  kerastorch {kt.__version__}, torch {torch.__version__}, python 3.")
    assert lines[8].endswith(", format 2")
    assert repr(information).startswith(f"CheckpointInfo(path={path!r}, size=")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_classes_and_inputs_are_told(suffix, tmp_path):
    model = kt.Model(nn.Linear(4, 30))
    model.predict(torch.randn(2, 4))
    model.save(tmp_path / f"a.{suffix}", classes=[f"class {number}" for number in range(30)])
    information = checkpoint.inspect(tmp_path / f"a.{suffix}")
    assert information.inputs == ["float32", [4]]
    assert information.classes == tuple(f"class {number}" for number in range(30))
    names = ", ".join(information.classes)[:80]
    assert f'  inputs      ["float32", [4]]\n  classes     30: {names}...' in str(information)


def test_an_epoch_that_was_begun_is_told(tmp_path):
    content = {"model": {}, "progress": {"epoch": 1, "batch": 7, "step": 17}, "history": {"epoch": [], "rows": []}}
    checkpoint.save(content, tmp_path / "a.pt")
    information = checkpoint.inspect(tmp_path / "a.pt")
    assert information.metrics == {}
    assert "  progress    1 epoch and 7 batches, 17 steps" in str(information)


def test_values_that_are_no_numbers_are_told(tmp_path):
    row = {"loss": math.nan, "matrix": [[1, 2]], "count": 3}
    checkpoint.save(
        {"model": {}, "progress": {"epoch": 1, "batch": 0, "step": 1}, "history": {"rows": [row]}}, tmp_path / "a.pt"
    )
    assert "loss nan, matrix [[1, 2]], count 3" in str(checkpoint.inspect(tmp_path / "a.pt"))
    checkpoint.save({"model": {}, "progress": {"epoch": 1}}, tmp_path / "b.pt")
    assert "progress    1 epoch\n" in str(checkpoint.inspect(tmp_path / "b.pt"))


@pytest.mark.parametrize(("suffix", "kind"), [("pt", "weights"), ("safetensors", "safetensors weights")])
def test_weights_are_told(tmp_path, suffix, kind):
    weights = nn.Linear(3, 2).state_dict() | {"empty": torch.zeros(0)}
    checkpoint.save_weights(weights, tmp_path / f"a.{suffix}")
    information = checkpoint.inspect(tmp_path / f"a.{suffix}")
    assert (information.kind, information.tensors, information.parameters) == (kind, 3, 8)
    assert "progress" not in str(information)
    assert "written by" not in str(information)


def test_what_is_neither_is_unknown(tmp_path):
    torch.save({"a": 1}, tmp_path / "a.pt")
    information = checkpoint.inspect(tmp_path / "a.pt")
    assert (information.kind, information.is_whole, information.tensors) == ("unknown", True, 0)


def test_a_damaged_file_is_told_not_raised(tmp_path):
    _, path = trained(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    information = checkpoint.inspect(path)
    assert not information.is_whole
    assert "has changed since it was written" in information.damage
    assert "  state       DAMAGED: is damaged or no checkpoint (" not in str(information)
    assert "  state       DAMAGED: " in str(information)
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'a\.pt'"):
        checkpoint.inspect(tmp_path / "b.pt")


def test_a_file_that_is_gone_meanwhile_is_told(tmp_path, monkeypatch):
    _, path = trained(tmp_path)

    def gone(*arguments, **options):
        path.unlink()
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(torch, "load", gone)
    information = checkpoint.inspect(path)
    assert (information.size, information.damage) == (0, "could not be read: Stale file handle")
