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
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from kerastorch.errors import CheckpointError, DataError


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
