import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import TensorBoard

X, Y = torch.randn(40, 2), torch.randn(40, 1)


def fit(callback, *, validated=True, epochs=3, **options):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam", ["mae"])
    model.fit(epochs, (X, Y), (X, Y) if validated else None, callbacks=[callback], verbose=0, batch_size=10, **options)
    return model


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_curves_are_those_of_the_history(tmp_path):
    model = fit(TensorBoard(tmp_path))
    train, validation = read(tmp_path / "train"), read(tmp_path / "validation")
    assert set(train) == {"epoch_loss", "epoch_mae", "epoch_lr", "epoch_seconds", "epoch_samples_per_second"}
    assert set(validation) == {"epoch_loss", "epoch_mae"}
    assert [step for step, _ in train["epoch_loss"]] == [0, 1, 2]
    assert [value for _, value in train["epoch_loss"]] == pytest.approx(model.history["loss"], rel=1e-6)
    assert [value for _, value in validation["epoch_mae"]] == pytest.approx(model.history["val_mae"], rel=1e-6)


@pytest.mark.parametrize(
    ("update_freq", "log_step_freq", "steps"),
    [(None, 3, [3, 6, 9, 12]), (None, None, None), (5, 3, [5, 10]), (0, 3, None)],
)
def test_curves_per_step(tmp_path, update_freq, log_step_freq, steps):
    fit(TensorBoard(tmp_path, update_freq=update_freq), log_step_freq=log_step_freq)
    train = read(tmp_path / "train")
    if steps is None:
        assert "batch_loss" not in train
    else:
        assert [step for step, _ in train["batch_loss"]] == [step for step, _ in train["batch_mae"]] == steps


def test_without_validation_there_is_no_file_for_it(tmp_path):
    fit(TensorBoard(tmp_path), validated=False)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_two_fits_write_into_one_folder(tmp_path):
    callback = TensorBoard(tmp_path)
    fit(callback, epochs=1)
    fit(callback, epochs=2)
    assert [step for step, _ in read(tmp_path / "train")["epoch_loss"]] == [0, 0, 1]


def test_after_an_error_what_was_written_is_there(tmp_path):
    def fail(epoch, logs):
        if epoch == 1:
            raise ZeroDivisionError

    callback, failing = TensorBoard(tmp_path), kt.callbacks.LambdaCallback(on_epoch_end=fail)
    failing.stage = "display"
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    with pytest.raises(ZeroDivisionError):
        model.fit(3, (X, Y), callbacks=[callback, failing], verbose=0)
    assert len(read(tmp_path / "train")["epoch_loss"]) == 2
    assert not callback._writers


def test_without_the_package_it_says_what_to_install_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        ImportError, match=r"The TensorBoard callback needs the package 'tensorboard'\. Type: pip install"
    ):
        TensorBoard("logs")


def test_repr_is_the_call():
    assert repr(TensorBoard("logs", update_freq=10)) == "TensorBoard('logs', update_freq=10)"
