import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import ModelCheckpoint
from kerastorch.callbacks.monitor import Monitor

X, Y = torch.randn(8, 2), torch.randn(8, 1)


class Scripted(kt.Callback):
    """Writes values into the logs, in place of a real validation."""

    def __init__(self, **values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        for name, column in self.values.items():
            logs[name] = column[epoch]


def fit(checkpoint, epochs=3, **values):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    model.fit(epochs, (X, Y), callbacks=[Scripted(**values), checkpoint], verbose=0)
    return model


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_per_epoch_with_epochs_from_one_and_values_in_its_name(tmp_path):
    fit(ModelCheckpoint(tmp_path / "new" / "e{epoch:02d}_{val_loss:.2f}.pt"), val_loss=[0.5, 0.25, 0.75])
    assert names(tmp_path) == ["e01_0.50.pt", "e02_0.25.pt", "e03_0.75.pt"]


def test_a_name_without_a_pattern_is_overwritten(tmp_path):
    model = fit(ModelCheckpoint(tmp_path / "last.pt"))
    assert names(tmp_path) == ["last.pt"]
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["progress"] == {"epoch": 3, "batch": 0, "step": 3}
    assert content["history"]["epoch"] == [0, 1, 2]
    assert torch.equal(content["model"]["weight"], model.module.weight)
    assert content["optimizer"]["state"][0]["step"] == 3


def test_weights_alone(tmp_path):
    fit(ModelCheckpoint(tmp_path / "last.pt", save_weights_only=True))
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)) == {"weight", "bias"}
    for name in ("last.pt", "last.safetensors"):
        model = fit(ModelCheckpoint(tmp_path / name, save_weights_only=True))
        other = kt.Model(nn.Linear(2, 1))
        assert not torch.equal(other.module.weight, model.module.weight)
        other.load_weights(tmp_path / name)
        assert torch.equal(other.module.weight, model.module.weight)


def test_full_files_load_as_weights(tmp_path):
    model = fit(ModelCheckpoint(tmp_path / "last.pt"))
    other = kt.Model(nn.Linear(2, 1))
    other.load_weights(tmp_path / "last.pt")
    assert torch.equal(other.module.weight, model.module.weight)


@pytest.mark.parametrize(
    ("monitor", "mode", "values", "kept"),
    [
        ("val_loss", "auto", [3.0, 1.0, 2.0, 1.0], [1, 2]),
        ("val_accuracy", "auto", [0.3, 0.1, 0.5, 0.5], [1, 3]),
        ("val_loss", "max", [3.0, 1.0, 4.0, 2.0], [1, 3]),
        ("score", "min", [3.0, 4.0, 2.0, 2.5], [1, 3]),
        ("val_loss", "auto", [math.nan, 2.0, math.nan, 1.0], [2, 4]),
        ("val_loss", "auto", [math.inf, 2.0, 3.0, 1.0], [1, 2, 4]),
    ],
)
def test_only_the_best_is_kept_and_nan_never_is(tmp_path, monitor, mode, values, kept):
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.pt", monitor, save_best_only=True, mode=mode)
    fit(checkpoint, epochs=4, **{monitor: values})
    assert names(tmp_path) == [f"{epoch}.pt" for epoch in kept]


def test_without_the_value_to_monitor_every_epoch_is_kept_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"There is no 'val_los' to monitor\. Did you mean 'val_loss'\?"):
        fit(
            ModelCheckpoint(tmp_path / "{epoch}.pt", "val_los", save_best_only=True, mode="min"),
            epochs=2,
            val_loss=[1.0, 2.0],
        )
    assert names(tmp_path) == ["1.pt", "2.pt"]


def test_an_epoch_without_validation_never_is_the_best(tmp_path):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.pt", save_best_only=True)
    model.fit(3, (X, Y), (X, Y), callbacks=[checkpoint], verbose=0, validation_freq=2)
    assert names(tmp_path) == ["2.pt"]


def test_the_best_of_another_model_does_not_count(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "best.pt", save_best_only=True)
    fit(checkpoint, val_loss=[0.1, 0.2, 0.3])
    second = fit(checkpoint, val_loss=[0.5, 0.4, 0.6])
    assert torch.load(tmp_path / "best.pt", weights_only=True)["progress"]["epoch"] == 2
    second.fit(1, (X, Y), callbacks=[Scripted(val_loss=[0.45]), checkpoint], verbose=0)  # the same training goes on
    assert checkpoint.monitor.best == 0.4


def test_a_name_that_the_logs_do_not_have_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"asks for 'val_acuracy'.*Did you mean 'val_accuracy'\?"):
        fit(ModelCheckpoint(tmp_path / "{val_acuracy}.pt"), val_accuracy=[1.0, 1.0, 1.0])


def test_a_mode_that_is_unknown_or_cannot_be_told_is_explained(tmp_path):
    with pytest.raises(ValueError, match="mode is 'auto', 'min' or 'max'; got 'best'"):
        ModelCheckpoint(tmp_path / "a.pt", mode="best")
    with pytest.raises(ValueError, match="Say mode='min' or 'max'"):
        ModelCheckpoint(tmp_path / "a.pt", "score", save_best_only=True)


@pytest.mark.parametrize("pattern", ["{}.pt", "{epoch.pt"])
def test_a_broken_pattern_is_an_error_before_training(pattern):
    with pytest.raises(ValueError, match=r"empty pattern|expected '}'"):
        ModelCheckpoint(pattern)


def test_a_checkpoint_that_fails_raises(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(kt.errors.CheckpointError, match="could not be written"):
        fit(ModelCheckpoint(tmp_path / "file" / "a.pt"))


def test_repr_is_the_call():
    text = "ModelCheckpoint('a.pt', 'val_loss', save_best_only=True, save_weights_only=False, mode='auto')"
    assert repr(ModelCheckpoint("a.pt", save_best_only=True)) == text


def test_a_monitor_remembers_the_best():
    monitor = Monitor("loss", "auto")
    assert [monitor.improves({"loss": value}) for value in (2.0, 2.0, 1.0, math.nan)] == [True, False, True, False]
    assert monitor.best == 1.0


def test_a_matrix_cannot_be_the_best(tmp_path):
    model = kt.Model(torch.nn.Linear(3, 2))
    model.compile("cross_entropy", "sgd", ["confusion_matrix"])
    checkpoint = kt.callbacks.ModelCheckpoint(tmp_path / "best.pt", "confusion_matrix", save_best_only=True, mode="max")
    with pytest.warns(UserWarning, match="'confusion_matrix' is not one number, and cannot be monitored"):
        model.fit(1, (torch.randn(8, 3), torch.arange(8) % 2), callbacks=[checkpoint], verbose=0)
    assert (tmp_path / "best.pt").exists()
