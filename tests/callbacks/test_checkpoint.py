import math

import numpy as np
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


def position(content):
    return tuple(content["progress"][name] for name in ("epoch", "batch", "step"))


def test_a_name_without_a_pattern_is_overwritten(tmp_path):
    model = fit(ModelCheckpoint(tmp_path / "last.pt"))
    assert names(tmp_path) == ["last.pt"]
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert position(content) == (3, 0, 3)
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
    text = (
        "ModelCheckpoint('a.pt', 'val_loss', verbose=0, save_best_only=True, save_weights_only=False, mode='auto', "
        "save_freq='epoch', initial_value_threshold=None, keep=None, keep_best=None)"
    )
    assert repr(ModelCheckpoint("a.pt", save_best_only=True)) == text
    assert repr(eval(text)) == text


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


def test_every_so_many_batches_counted_on_from_epoch_to_epoch(tmp_path):
    # 5 batches an epoch: the 15th, 30th and 45th batch end the epochs 3, 6 and 9
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}_{batch}.pt", save_freq=15)
    model.fit(10, (torch.randn(10, 2), torch.randn(10, 1)), batch_size=2, callbacks=[checkpoint], verbose=0)
    assert names(tmp_path) == ["3_5.pt", "6_5.pt", "9_5.pt"]
    assert position(torch.load(tmp_path / "6_5.pt", weights_only=True)) == (5, 5, 30)


def test_a_file_of_every_batch_holds_the_weights_of_that_batch(tmp_path):
    kept = []
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    keep = kt.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: kept.append(model.module.weight.detach().clone())
    )
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}_{batch}_{loss:.3f}.pt", save_freq=1, save_weights_only=True)
    model.fit(2, (X, Y), batch_size=4, callbacks=[keep, checkpoint], verbose=0)
    files = names(tmp_path)
    assert [name[:3] for name in files] == ["1_1", "1_2", "2_1", "2_2"]
    for name, weight in zip(files, kept, strict=True):
        assert torch.equal(torch.load(tmp_path / name, weights_only=True)["weight"], weight)


def test_the_best_of_batches_follows_the_running_value(tmp_path):
    """Mistake 23: Keras calls None there."""
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    y = torch.tensor([[2.0], [1.0], [3.0], [0.0]])
    checkpoint = ModelCheckpoint(tmp_path / "{batch}.pt", "loss", save_best_only=True, save_freq=1)
    with torch.no_grad():
        model.module.weight.zero_()
        model.module.bias.zero_()
    model.fit(1, (torch.zeros(4, 2), y), batch_size=1, shuffle=False, callbacks=[checkpoint], verbose=0)
    assert names(tmp_path) == ["1.pt", "2.pt"]  # running means of 4, 1, 9, 0: 4, 2.5, 4.67, 3.5


@pytest.mark.parametrize("freq", ["bad", 0, 1.5, True])
def test_an_unknown_save_freq_is_an_error(freq):
    with pytest.raises(ValueError, match=r"save_freq is 'epoch' or a number of batches, 1 or more; got"):
        ModelCheckpoint("a.pt", save_freq=freq)


def test_a_batch_in_the_name_of_an_epoch_is_an_error():
    with pytest.raises(ValueError, match=r"asks for 'batch', which goes with save_freq=100"):
        ModelCheckpoint("{batch}.pt")


@pytest.mark.parametrize(
    ("threshold", "values", "written"), [(0.35, [0.5, 0.4, 0.3], [3]), (0.1, [0.5, 0.4, 0.3], []), (None, [0.5], [1])]
)
def test_the_first_best_must_beat_the_threshold(tmp_path, threshold, values, written):
    path = tmp_path / "{epoch}.pt"
    fit(
        ModelCheckpoint(path, save_best_only=True, initial_value_threshold=threshold),
        epochs=len(values),
        val_loss=values,
    )
    assert names(tmp_path) == [f"{epoch}.pt" for epoch in written]


VALUES = [0.5, 0.2, 0.9, math.nan, 0.3, 0.8]


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"keep": 2}, [5, 6]),
        ({"keep_best": 2}, [2, 5]),
        ({"keep_best": 9}, [1, 2, 3, 5, 6]),
        ({"keep": 1, "keep_best": 2}, [2, 5, 6]),
        ({"keep": 2, "keep_best": 1}, [2, 5, 6]),
        ({"keep": 2, "save_best_only": True}, [1, 2]),
        ({"keep": 1, "save_best_only": True}, [2]),
        ({"keep_best": 2, "mode": "max"}, [3, 6]),
    ],
)
def test_the_last_and_the_best_are_kept(tmp_path, limits, kept):
    (tmp_path / "mine.pt").write_text("not of this training")
    fit(ModelCheckpoint(tmp_path / "{epoch}.pt", **limits), epochs=6, val_loss=VALUES)
    assert names(tmp_path) == sorted([*(f"{epoch}.pt" for epoch in kept), "mine.pt"])


def test_what_is_not_among_the_best_is_not_written(tmp_path):
    written = []

    class Looks(kt.Callback):
        stage = "display"

        def on_epoch_end(self, epoch, logs):
            written.append(names(tmp_path))

    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    best = ModelCheckpoint(tmp_path / "{epoch}.pt", keep_best=1)
    model.fit(4, (X, Y), callbacks=[Looks(), best, Scripted(val_loss=[0.3, 0.5, 0.2, 0.4])], verbose=0)
    assert written == [["1.pt"], ["1.pt"], ["3.pt"], ["3.pt"]]


def test_a_name_that_comes_again_is_written_over_not_deleted(tmp_path):
    fit(ModelCheckpoint(tmp_path / "{val_loss:.0f}.pt", keep=2), epochs=4, val_loss=[1.0, 2.0, 1.0, 1.0])
    assert names(tmp_path) == ["1.pt", "2.pt"]
    assert torch.load(tmp_path / "1.pt", weights_only=True)["progress"]["epoch"] == 4


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    import kerastorch.checkpoint

    real, calls = kerastorch.checkpoint.save_together, []

    def full_disk(content, path, group):
        calls.append(path)
        if len(calls) == 2:
            raise kt.errors.CheckpointError("no space")
        real(content, path, group)

    monkeypatch.setattr(kerastorch.checkpoint, "save_together", full_disk)
    with pytest.raises(kt.errors.CheckpointError, match="no space"):
        fit(ModelCheckpoint(tmp_path / "{epoch}.pt", keep=1), val_loss=[1.0, 1.0, 1.0])
    assert names(tmp_path) == ["1.pt"]


def test_limits_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match=r"With keep, each file needs a name of its own: type \{epoch\} in 'a.pt'"):
        ModelCheckpoint("a.pt", keep=2)
    with pytest.raises(ValueError, match="keep_best is a number of files, 1 or more; got 0"):
        ModelCheckpoint("{epoch}.pt", keep_best=0)
    with pytest.raises(ValueError, match="leave it out with keep_best"):
        ModelCheckpoint("{epoch}.pt", keep_best=2, save_best_only=True)
    with pytest.raises(ValueError, match="Say mode='min' or 'max'"):
        ModelCheckpoint("{epoch}.pt", "score", keep_best=2)


def test_verbose_says_what_is_written_and_why(tmp_path, capsys):
    fit(ModelCheckpoint(tmp_path / "best.pt", save_best_only=True, verbose=1), val_loss=[0.5, 0.25, 0.3])
    fit(ModelCheckpoint(tmp_path / "last.pt", verbose=1), epochs=1, val_loss=[0.5])
    fit(ModelCheckpoint(tmp_path / "{epoch}_2.pt", verbose=1, keep_best=1), epochs=2, val_loss=[0.5, 0.6])
    assert capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines() == [
        "Epoch 1: val_loss 0.500, the best before was nothing; saved to best.pt.",
        "Epoch 2: val_loss 0.250, the best before was 0.500; saved to best.pt.",
        "Epoch 3: val_loss 0.300 did not improve from 0.250.",
        "Epoch 1: saved to last.pt.",
        "Epoch 1: val_loss 0.500, the best before was nothing; saved to 1_2.pt.",
        "Epoch 2: val_loss 0.600 did not reach the 1 best.",
    ]


def test_a_checkpoint_keeps_what_callbacks_keep(tmp_path):
    class Counts(kt.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs):
            self.epochs += 1

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, state):
            self.epochs = state["epochs"]

    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.pt", keep=2, keep_best=1)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    scripted = Scripted(val_loss=[0.1, 0.2, 0.3, 0.4])
    model.fit(4, (X, Y), callbacks=[Counts(), Counts(), checkpoint, scripted], verbose=0)
    kept = torch.load(tmp_path / "4.pt", weights_only=True)["callbacks"]
    assert kept["Counts"] == kept["Counts 2"] == {"epochs": 4}
    assert list(kept["ModelCheckpoint"]["files"]) == [str(tmp_path / f"{epoch}.pt") for epoch in (1, 3, 4)]
    # another process goes on from there
    second = ModelCheckpoint(tmp_path / "{epoch}.pt", keep=2, keep_best=1)
    resume = kt.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: second.load_state_dict(kept["ModelCheckpoint"])
    )
    model.fit(5, (X, Y), initial_epoch=4, callbacks=[second, resume, Scripted(val_loss=[0.5] * 5)], verbose=0)
    assert names(tmp_path) == ["1.pt", "4.pt", "5.pt"]
    assert model._session.state.extras == {}


def test_a_callback_written_for_keras_works_as_it_is(tmp_path):
    seen = []

    class Ported(kt.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            seen.append("set_model")

        def on_train_begin(self, logs=None):
            seen.append(dict(self.params))

        def on_train_batch_end(self, batch, logs=None):
            logs = logs or {}
            seen.append(round(logs.get("loss"), 6) >= 0)

        def on_epoch_end(self, epoch, logs=None):
            if logs.get("loss") is not None and epoch == 1:
                self.model.stop_training = True

    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    history = model.fit(9, (X, Y), batch_size=4, callbacks=[Ported()], verbose=0)
    assert len(history) == 2
    assert seen == ["set_model", {"epochs": 9, "steps": 2, "verbose": 0}, True, True, True, True]


def test_an_epoch_without_the_values_in_the_name_has_no_file(tmp_path):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}_{val_loss:.1f}.pt")
    model.fit(4, (X, Y), (X, Y), validation_freq=2, callbacks=[checkpoint], verbose=0)
    assert [name[0] for name in names(tmp_path)] == ["2", "4"]


class RunsDry:
    """Data that are there once."""

    left = 1

    def __iter__(self):
        self.left -= 1
        return iter([(X, Y)] if self.left == 0 else [])


def test_validation_data_that_run_dry_do_not_end_training_for_a_name(tmp_path):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}_{val_loss:.1f}.pt")
    with pytest.warns(UserWarning, match="training goes on without validation"):
        model.fit(3, (X, Y), RunsDry(), callbacks=[checkpoint], verbose=0)
    assert [name[0] for name in names(tmp_path)] == ["1"]


def test_the_best_of_an_earlier_fit_is_not_written_over(tmp_path):
    scripted = Scripted(val_loss=[0.5, 0.9, 0.95])
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.pt", keep_best=2)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    model.fit(3, (X, Y), callbacks=[scripted, checkpoint], verbose=0)
    best = torch.load(tmp_path / "1.pt", weights_only=True)["model"]["weight"]
    scripted.values = {"val_loss": [0.6, 2.0, 3.0]}
    model.fit(3, (X, Y), callbacks=[scripted, checkpoint], verbose=0)
    assert names(tmp_path) == ["1-2.pt", "1.pt"]
    assert torch.equal(torch.load(tmp_path / "1.pt", weights_only=True)["model"]["weight"], best)
    scripted.values = {"val_loss": [0.1, 2.0, 3.0]}  # better: it takes the place
    model.fit(3, (X, Y), callbacks=[scripted, checkpoint], verbose=0)
    assert names(tmp_path) == ["1-2.pt", "1.pt"]
    assert not torch.equal(torch.load(tmp_path / "1.pt", weights_only=True)["model"]["weight"], best)


class AddsNumPy(kt.Callback):
    def on_epoch_end(self, epoch, logs):
        logs["val_auc"] = np.float64(0.5 + epoch)
        logs["counts"] = np.arange(3)

    def state_dict(self):
        return {"seen": np.int64(3), "of": (1, {"a": np.ones(2)})}


def test_numbers_of_numpy_can_be_loaded_again(tmp_path):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", torch.optim.SGD(model.parameters(), lr=np.logspace(-3, -1, 3)[1]))
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.pt", "val_auc", keep_best=1)
    model.fit(2, (X, Y), callbacks=[AddsNumPy(), checkpoint], verbose=0)
    content = torch.load(tmp_path / "2.pt", weights_only=True)
    assert content["history"]["rows"][1]["val_auc"] == 1.5
    assert content["history"]["rows"][1]["counts"].tolist() == [0, 1, 2]
    assert content["optimizer"]["param_groups"][0]["lr"] == 0.01
    assert content["callbacks"]["AddsNumPy"]["seen"] == 3
    assert content["callbacks"]["AddsNumPy"]["of"][1]["a"].tolist() == [1.0, 1.0]
    assert content["callbacks"]["ModelCheckpoint"]["best"] == 1.5
    assert content["model"]._metadata == model.state_dict()._metadata


@pytest.mark.parametrize("value", [frozenset(), lambda: 1, object()])
def test_what_could_not_be_loaded_is_refused_and_named(tmp_path, value):
    class Keeps(kt.Callback):
        def state_dict(self):
            return {"seen": [1, value]}

    with pytest.raises(
        kt.errors.CheckpointError, match=r"^callbacks/Keeps/seen/1 is a \w+, .* could not be loaded again"
    ):
        fit_with(Keeps(), ModelCheckpoint(tmp_path / "a.pt"))
    assert names(tmp_path) == []


def fit_with(*callbacks):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    model.fit(1, (X, Y), callbacks=list(callbacks), verbose=0)


def test_optimizers_of_a_step_of_ones_own_are_kept(tmp_path):
    class Own(kt.Model):
        def __init__(self, net):
            super().__init__(net)
            self.mine = torch.optim.Adam(net.parameters())

        def train_step(self, batch):
            loss = (self(batch.x) - batch.y).square().mean()
            self.mine.zero_grad()
            loss.backward()
            self.mine.step()
            return {"loss": loss}

    model = Own(nn.Linear(2, 1))
    model.compile()
    model.fit(1, (X, Y), callbacks=[ModelCheckpoint(tmp_path / "a.pt")], verbose=0)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["optimizer"] is None
    assert content["optimizers"]["mine"]["state"][0]["step"] == 1


class Loses(kt.Callback):
    """Spoils the net in some epochs, whose values are the best all the same; the net is well again in others."""

    def __init__(self, *epochs, value=math.nan):
        self.epochs = epochs
        self.value = value

    def on_epoch_begin(self, epoch, logs):
        self.model.net.bias.data.fill_(1.0)

    def on_train_batch_end(self, batch, logs):
        if self.run.state.epoch in self.epochs:
            self.model.net.bias.data.fill_(self.value)


def fit_lossy(checkpoint, loses, val_loss):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model.fit(len(val_loss), (X, Y), callbacks=[loses, Scripted(val_loss=val_loss), checkpoint], verbose=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_net_that_is_lost_is_never_the_best_and_no_file_goes_for_it(tmp_path, value):
    best = ModelCheckpoint(tmp_path / "{epoch}.pt", save_best_only=True, keep=1)
    with pytest.warns(UserWarning, match=r"^Epoch 2: not saved, since 'bias' is not finite; what was saved") as caught:
        fit_lossy(best, Loses(1, 2, value=value), [3.0, 1.0, 0.5])
    assert names(tmp_path) == ["1.pt"]
    assert best.monitor.best == 3.0
    assert len([each for each in caught if "not saved" in str(each.message)]) == 1


def test_a_net_that_is_lost_is_not_written_without_a_value_either(tmp_path):
    with pytest.warns(UserWarning, match=r"^Epoch 2: not saved, since 'bias' is not finite"):
        fit_lossy(ModelCheckpoint(tmp_path / "{epoch}.pt", keep=1), Loses(1), [3.0, 1.0])
    assert names(tmp_path) == ["1.pt"]
    with pytest.warns(UserWarning, match=r"^Epoch 1, batch 1: not saved"):
        fit_lossy(ModelCheckpoint(tmp_path / "b{batch}.pt", save_freq=1), Loses(0), [3.0])
    assert names(tmp_path) == ["1.pt"]


def test_of_several_best_none_is_lost(tmp_path):
    best = ModelCheckpoint(tmp_path / "{epoch}.pt", keep_best=2)
    with pytest.warns(UserWarning, match="Epoch 3: not saved"):
        fit_lossy(best, Loses(2), [3.0, 2.0, 1.0, 2.5])
    assert names(tmp_path) == ["2.pt", "4.pt"]
