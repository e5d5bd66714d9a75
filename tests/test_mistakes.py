"""Mistakes of other libraries that are not repeated here, by their numbers in the list of them."""

import contextlib
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import kerastorch as kt
from kerastorch.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    ExponentialMovingAverage,
    GradientLogger,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from kerastorch.errors import CheckpointError, DataError, NonFiniteError


class Scripted(kt.Callback):
    """Writes values into the logs, and the number of the epoch into every weight."""

    def __init__(self, **values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        logs.update({name: column[epoch] for name, column in self.values.items()})
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(epoch)


class Count(kt.Callback):
    """Counts what happens."""

    def __init__(self):
        self.epochs, self.batches = [], 0

    def on_train_batch_end(self, batch, logs):
        self.batches += 1

    def on_epoch_end(self, epoch, logs):
        self.epochs.append(epoch)


def data(samples=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 2, generator=generator), torch.randn(samples, 1, generator=generator)


def compiled(metrics=None, lr=0.1):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=lr), metrics)
    return model


def fit(epochs, *callbacks, dl_train=None, **options):
    model = compiled()
    model.fit(epochs, dl_train or data(), callbacks=list(callbacks), verbose=0, **options)
    return model


def test_13_nan_is_not_written_as_the_best(tmp_path):
    best = ModelCheckpoint(tmp_path / "best.pt", "score", mode="min", save_best_only=True)
    fit(3, Scripted(score=[2.0, math.nan, 3.0]), best)
    model = compiled()
    model.load_weights(tmp_path / "best.pt")
    assert model.net.bias.item() == 0


def test_21_a_one_shot_iterable_keeps_its_first_batch():
    x, y = data(10)
    seen = []
    keep = LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(keep.run.current.x))
    fit(1, keep, dl_train=iter(zip(x.split(2), y.split(2), strict=True)))
    assert torch.equal(torch.cat(seen), x)


@pytest.mark.parametrize(
    "first",
    [
        {"epochs": 3},
        {"epochs": 5, "initial_epoch": 3},
        {"epochs": 3, "callbacks": [EarlyStopping("loss", min_delta=9)]},
        {"epochs": 3, "callbacks": [LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)]},
    ],
)
def test_22_a_second_plain_fit_trains_all_its_epochs(first):
    model, count = compiled(), Count()
    options = {name: value for name, value in first.items() if name != "epochs"}
    with contextlib.suppress(ZeroDivisionError):
        model.fit(first["epochs"], data(), verbose=0, **options)
    model.fit(2, data(), callbacks=[count], verbose=0)
    assert count.epochs == [0, 1]
    assert len(model.history) == 2


def test_22_a_fit_that_went_on_leaves_nothing_to_the_next(tmp_path):
    class Killed(BaseException):
        pass

    def kill(batch, logs):
        if callback.run.state.epoch == 2:
            raise Killed

    callback, count = LambdaCallback(on_train_batch_begin=kill), Count()
    with pytest.raises(Killed):
        compiled().fit(3, data(), callbacks=[BackupAndRestore(tmp_path), callback], verbose=0)
    model = compiled()
    model.fit(3, data(), callbacks=[BackupAndRestore(tmp_path), count], verbose=0)
    model.fit(2, data(), callbacks=[count], verbose=0)
    assert count.epochs == [2, 0, 1]


@pytest.mark.parametrize("save_freq", [False, True])
def test_26_a_backup_frequency_is_no_bool(tmp_path, save_freq):
    with pytest.raises(ValueError, match="save_freq is 'epoch', a number of batches"):
        BackupAndRestore(tmp_path, save_freq)


def test_24_nan_as_the_first_value_is_not_the_best():
    early = EarlyStopping("score", mode="min", patience=2, restore_best_weights=True)
    model = fit(4, Scripted(score=[math.nan, 3.0, 2.0, 1.0]), early)
    assert len(model.history) == 4
    assert early.best_epoch == 3
    assert model.net.bias.item() == 3


@pytest.mark.parametrize("seeded", [False, True])
def test_27_the_order_of_arrays_follows_the_seed_and_not_the_epoch_alone(seeded):
    def orders(seed):
        seen = []
        x = torch.arange(32.0)[:, None].repeat(1, 2)
        keep = LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(keep.run.current.x[:, 0]))
        model = compiled(lr=0.0)
        torch.manual_seed(seed)
        options = {"seed": seed} if seeded else {}
        model.fit(2, (x, x[:, :1]), callbacks=[keep], batch_size=32, verbose=0, **options)
        return [tuple(order.tolist()) for order in seen]

    assert orders(1) == orders(1)
    assert len({*orders(1), *orders(2)}) == 4


def test_30_predict_of_nothing_is_a_clear_error_and_modes_are_kept():
    model = compiled()
    model.net.train()
    joined = model.predict(data()[0], batch_size=5)
    model.eval()
    assert torch.equal(joined, model.net(data()[0]).detach())
    model.net.train()
    with pytest.raises(DataError, match="dl gave no batch at all"):
        model.predict(iter([]))
    assert model.net.training


def test_34_columns_of_a_rare_validation_are_as_long_as_the_others():
    model = fit(4, dl_val=data(), validation_freq=2)
    columns = model.history.history
    assert {len(column) for column in columns.values()} == {4}
    assert [value is None or math.isnan(value) for value in columns["val_loss"]] == [True, False, True, False]


def test_36_nan_ends_training_in_the_middle_of_the_epoch_with_one_message(capsys):
    x, y = data()
    y[4] = math.nan
    count, tested = Count(), []
    watch = LambdaCallback(on_test_begin=tested.append)
    fit(3, TerminateOnNaN(), count, watch, dl_train=(x, y), dl_val=data(), batch_size=2, shuffle=False)
    assert (count.batches, count.epochs, tested) == (3, [], [])
    assert capsys.readouterr().err.count("nan") == 1


def test_36_nan_is_an_error_before_it_spoils_the_net():
    x, y = data()
    y[4] = math.nan
    model = compiled()
    with pytest.raises(
        NonFiniteError, match=r"loss is nan in batch 3 of epoch 1 .*: the targets of the batch hold nan"
    ):
        model.fit(3, (x, y), data(), batch_size=2, shuffle=False, verbose=0)
    assert all(value.isfinite().all() for value in model.net.state_dict().values())


def test_38_gradients_that_a_callback_clips_are_those_of_the_step():
    norms = []

    class Clip(kt.Callback):
        def on_optimizer_step_begin(self, step):
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
            self.before = [parameter.detach().clone() for parameter in self.model.parameters()]
            assert step == len(norms)

        def on_train_batch_end(self, batch, logs):
            changes = [new.detach() - old for new, old in zip(self.model.parameters(), self.before, strict=True)]
            norms.append(math.sqrt(sum(float(change.square().sum()) for change in changes)))

    model = compiled(lr=1.0)
    model.fit(2, data(), callbacks=[Clip()], batch_size=4, verbose=0)
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)


def test_39_a_new_file_that_is_appended_to_has_a_header_and_mode_is_no_second_value(tmp_path):
    fit(1, CSVLogger(tmp_path / "log.csv", append=True))
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,")
    assert len(lines) == 2
    assert fit(2, ReduceLROnPlateau("loss", mode="min")).history["lr"] == [0.1, 0.1]


def test_40_an_epoch_of_some_steps_goes_on_where_the_last_one_ended():
    x, y = data(12)
    seen = []
    keep = LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(keep.run.current.x))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 2)
    fit(3, keep, dl_train=loader, steps_per_epoch=2)
    assert torch.equal(torch.cat(seen), x)


def test_40_a_generator_that_is_exhausted_gives_no_epoch_of_nan(capsys):
    batches = zip(*(part.split(2) for part in data()), strict=True)  # 6 of them
    model = fit(3, dl_train=batches, steps_per_epoch=3)
    assert len(model.history) == 2
    assert all(math.isfinite(value) for value in model.history["loss"])
    assert "the end of dl_train" in capsys.readouterr().err


def test_41_the_best_is_forgotten_between_fits_and_a_missing_value_is_said_with_those_there_are():
    early = EarlyStopping("score", mode="min", restore_best_weights=True, patience=9)
    model = compiled()
    model.fit(2, data(), callbacks=[Scripted(score=[1.0, 0.0]), early], verbose=0)
    model.fit(3, data(), callbacks=[Scripted(score=[7.0, 6.0, 8.0]), early], verbose=0)
    assert early.best_epoch == 1
    assert early.monitor.best == 6.0
    with pytest.warns(UserWarning, match=r"There is no 'val_los' to monitor\. There are loss, lr"):
        fit(1, EarlyStopping("val_los", mode="min"), dl_train=data())


def test_41_parameters_without_a_gradient_are_no_trouble():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x):
            return self.used(x)

    model = kt.Model(Net())
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    assert len(model.fit(2, data(), callbacks=[TerminateOnNaN(diagnose=True)], verbose=0)) == 2


def test_43_every_callback_and_the_history_have_the_epoch_that_stops():
    count = Count()
    model = fit(9, EarlyStopping("score", mode="min", patience=2), Scripted(score=[1.0] * 9), count)
    assert count.epochs == model.history.epoch == [0, 1, 2]
    assert model.history["score"] == [1.0] * 3


@pytest.mark.parametrize(("mode", "value"), [("min", -10.0), ("max", -10.0), ("min", 0.0)])
def test_44_a_negative_value_that_stays_is_no_improvement(mode, value):
    early = EarlyStopping("score", min_delta=1e-4, mode=mode, patience=2)
    model = fit(9, Scripted(score=[value] * 9), early)
    assert len(model.history) == 3
    assert early.best_epoch == 0


def test_45_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"best\.pt could not be written"):
        fit(1, ModelCheckpoint(tmp_path / "file" / "best.pt"))


def test_46_a_scheduler_of_steps_goes_on_in_the_next_fit():
    model, steps = compiled(), []
    scheduler = LearningRateScheduler(partial(StepLR, step_size=10, gamma=0.5), interval="step")
    rate = LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(rate.run.state.optimizer))
    for _ in range(2):
        model.fit(4, data(), callbacks=[scheduler, rate], batch_size=2, verbose=0)
    assert len(steps) == 48
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)  # as after 48 steps, not 24 or 27
    assert scheduler.scheduler.last_epoch == 48


def test_49_an_error_in_a_metric_is_not_swallowed():
    def metric(y_pred, y_true):
        return {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        compiled({"mine": metric}).fit(1, data(), verbose=0)


def test_23_the_best_of_batches_is_kept(tmp_path):
    best = ModelCheckpoint(tmp_path / "best.pt", "loss", save_best_only=True, save_freq=2)
    fit(2, best, batch_size=2)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["progress"]["batch"] in (2, 4, 6)
    assert math.isfinite(best.monitor.best)


@pytest.mark.parametrize("ends", [False, True])
def test_25_predict_replaces_no_weights_and_averages_survive_an_early_end(ends):
    def weights(model):
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    averages, before = ExponentialMovingAverage(0.5), []
    stop = LambdaCallback(on_epoch_end=lambda epoch, logs: stop.run.stop("enough") if ends else None)
    keep = LambdaCallback(on_train_batch_end=lambda batch, logs: before.append(weights(keep.model)))
    model = compiled()
    model.fit(5 if ends else 2, data(), callbacks=[averages, stop, keep], batch_size=4, verbose=0)
    assert len(model.history) == (1 if ends else 2)
    kept = weights(model)
    assert not torch.equal(kept, before[-1])  # the averages, not the weights of the last step
    model.predict(data()[0], callbacks=[averages])
    model.evaluate(data(), callbacks=[averages])
    assert torch.equal(weights(model), kept)


def test_25_predict_inside_fit_leaves_the_nets_own_weights():
    seen = []
    averages = ExponentialMovingAverage(0.5, swap_at_end=False)

    def predict(batch, logs):
        before = inside.model.net.weight.detach().clone()
        inside.model.predict(data()[0], callbacks=[averages])
        seen.append(torch.equal(before, inside.model.net.weight))

    inside = LambdaCallback(on_train_batch_end=predict)
    fit(1, averages, inside, batch_size=4)
    assert seen == [True] * 3


def test_38_a_clipped_norm_is_seen_by_callbacks_behind_it_also_in_a_step_of_ones_own():
    steps, norms = [], []

    class Own(kt.Model):
        def train_step(self, batch):
            return super().train_step(batch)

    class Clip(kt.Callback):
        def on_optimizer_step_begin(self, step):
            steps.append(step)  # always a number
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)

    class Norm(kt.Callback):
        stage = "monitor"

        def on_optimizer_step_begin(self, step):
            gradients = [parameter.grad.flatten() for parameter in self.model.parameters()]
            norms.append(torch.cat(gradients).norm().item())

    model = Own(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model.fit(2, data(), callbacks=[Norm(), Clip()], batch_size=4, verbose=0)
    assert steps == list(range(6))
    assert norms == pytest.approx([0.1] * 6, rel=1e-3)


def test_41_gradients_are_logged_where_a_parameter_has_none():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x):
            return self.used(x)

    class Writer(kt.Callback):
        stage = "logger"

        def on_train_begin(self, logs):
            self.run.writers.append(lambda step, values: rows.append(dict(values)))

    rows = []
    model = kt.Model(Net())
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    model.fit(1, data(), callbacks=[GradientLogger(1), Writer()], batch_size=4, verbose=0)
    names = set().union(*rows)
    assert len(rows) == 3
    assert "grad_norm/used.weight" in names
    assert not [name for name in names if "unused" in name]


def test_41_a_plateau_and_a_checkpoint_of_another_training_are_forgotten(tmp_path):
    def flat(value):
        return LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=value))

    plateau = ReduceLROnPlateau("score", mode="min", patience=5)
    best = ModelCheckpoint(tmp_path / "{epoch}.pt", "score", mode="min", save_best_only=True)
    fit(1, flat(0.1), plateau, best)
    fit(1, flat(9.0), plateau, best)
    assert plateau.monitor.best == best.monitor.best == 9.0


def test_46_a_schedule_of_epochs_is_told_numbers_from_the_initial_one():
    seen = []
    schedule = kt.callbacks.LearningRateScheduler(lambda epoch: seen.append(epoch) or 0.1)
    model = compiled()
    model.fit(2, data(), callbacks=[schedule], verbose=0)
    model.fit(4, data(), callbacks=[schedule], initial_epoch=2, verbose=0)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [KeyError, AttributeError, IndexError, StopIteration])
@pytest.mark.parametrize("phase", ["train", "val"])
def test_49_no_error_in_a_metric_is_swallowed(error, phase):
    calls = []

    def metric(y_pred, y_true):
        calls.append(len(y_pred))
        if (phase == "train") == (len(y_pred) == 12):
            raise error("boo")
        return (y_pred - y_true).abs().mean()

    model = compiled({"mine": metric})
    with pytest.raises((error, RuntimeError), match=r"boo|StopIteration"):
        model.fit(1, data(12), data(10), batch_size=12, verbose=0)
    assert calls


def test_36_a_nan_in_the_last_batch_has_one_message_and_no_validation(capsys):
    x, y = data()
    y[-1] = math.nan
    tested = []
    watch = LambdaCallback(on_test_begin=tested.append)
    fit(3, TerminateOnNaN(), watch, dl_train=(x, y), dl_val=data(), batch_size=2, shuffle=False)
    assert tested == []
    assert capsys.readouterr().err.count("nan") == 1
