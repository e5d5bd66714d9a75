import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint

X, Y = torch.randn(8, 2), torch.randn(8, 1)


def make_model():
    model = kt.Model(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    return model


@pytest.fixture
def fit(scripted):
    def fit(callback, values, *others, name="val_loss", model=None):
        model = model or make_model()
        callbacks = [scripted(**{name: values}), callback, *others]
        model.fit(len(values), (X, Y), callbacks=callbacks, verbose=0)
        return model

    return fit


def weights_are_of(model, epoch):
    return all(torch.equal(value, torch.full_like(value, epoch)) for value in model.parameters())


@pytest.mark.parametrize(
    ("mode", "name", "values", "epochs"),
    [
        ("auto", "val_loss", [3.0, 2.0, 2.5, 1.0], 3),
        ("auto", "val_accuracy", [0.1, 0.3, 0.2, 0.5], 3),
        ("max", "val_loss", [1.0, 2.0, 1.5, 3.0], 3),
        ("min", "score", [1.0, 2.0, 0.5, 0.1], 2),
        ("auto", "val_loss", [3.0, 2.0, 1.0, 0.5], 4),
    ],
)
def test_it_stops_when_the_value_gets_worse(fit, mode, name, values, epochs):
    callback = EarlyStopping(name, mode=mode)
    model = fit(callback, values, name=name)
    assert len(model.history) == epochs
    assert callback.stopped_epoch == (epochs - 1 if epochs < 4 else None)


@pytest.mark.parametrize("patience", range(6))
def test_patience_counts_the_epochs_since_the_best(fit, patience):
    callback = EarlyStopping(patience=patience)
    model = fit(callback, [10.0, 9.0, 8.0, 9.0, 8.9, 8.8, 8.7, 8.6, 8.5])
    assert callback.stopped_epoch == max(patience, 1) + 2
    assert len(model.history) == callback.stopped_epoch + 1
    assert (callback.best_epoch, callback.monitor.best, callback.wait) == (2, 8.0, max(patience, 1))


def test_a_step_below_min_delta_is_no_better(fit):
    assert len(fit(EarlyStopping(min_delta=0.5, patience=2), [3.0, 2.0, 1.9, 1.8, 0.1]).history) == 4


def test_the_reason_says_which_epoch_was_the_best(fit, capsys):
    callback = EarlyStopping(patience=2, restore_best_weights=True, verbose=1)
    fit(callback, [3.0, 1.0, 2.0, 2.0, 2.0])
    assert callback.run.stop_reason == "EarlyStopping (no val_loss was better than 1.000 in epoch 2)"
    assert capsys.readouterr().out.splitlines() == [
        "The weights are those of epoch 2, the best.",
    ]


def test_every_fit_begins_anew(fit):
    callback = EarlyStopping(patience=2, restore_best_weights=True)
    model = fit(callback, [0.1, 0.2, 0.3, 0.4])
    assert len(model.history) == 3
    fit(callback, [5.0, 4.0, 4.5, 3.0], model=model)
    assert len(model.history) == 4
    assert (callback.best_epoch, callback.monitor.best, callback.wait, callback.stopped_epoch) == (3, 3.0, 0, None)
    callback.on_train_begin({})
    assert (callback.best_epoch, callback.monitor.best, callback.wait, callback.stopped_epoch) == (None, None, 0, None)
    assert callback.best_weights is None


def test_an_epoch_without_validation_is_none(scripted):
    model = make_model()
    callback = EarlyStopping(patience=2)
    script = scripted(val_loss=[None, 1.0, None, 2.0, None, 3.0, None, 4.0])
    model.fit(8, (X, Y), (X, Y), callbacks=[script, callback], validation_freq=2, verbose=0)
    assert callback.stopped_epoch == 5


def test_without_the_value_it_warns_and_does_not_stop(fit):
    with pytest.warns(UserWarning, match=r"There is no 'val_acc' to monitor\. There are loss, lr"):
        model = fit(EarlyStopping("val_acc", restore_best_weights=True), [1.0, 2.0, 3.0], name="score")
    assert len(model.history) == 3
    assert weights_are_of(model, 2)


@pytest.mark.parametrize(
    ("values", "patience", "epochs"),
    [
        ([math.nan, 3.0, 2.0, 2.5, 1.0], 1, 4),
        ([3.0, math.nan, 2.0, math.nan, math.nan, 1.0], 2, 5),
    ],
)
def test_nan_never_is_the_best_but_uses_up_patience(fit, values, patience, epochs):
    callback = EarlyStopping(patience=patience, restore_best_weights=True)
    model = fit(callback, values)
    assert len(model.history) == epochs
    assert weights_are_of(model, 2)


def test_nothing_but_nan_stops_and_says_that_nothing_is_restored(fit):
    callback = EarlyStopping(patience=2, restore_best_weights=True)
    with pytest.warns(UserWarning, match="No 'val_loss' was a number, so there are no best weights"):
        model = fit(callback, [math.nan] * 5)
    assert len(model.history) == 2
    assert callback.run.stop_reason == "EarlyStopping (no val_loss was a number)"
    assert weights_are_of(model, 1)


@pytest.mark.parametrize(("baseline", "patience"), [(0.5, 3), (0.75, 3)])
def test_with_a_baseline_it_waits_for_its_patience(fit, baseline, patience):
    values = [0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    model = fit(EarlyStopping("accuracy", patience=patience, baseline=1.0), values, name="accuracy")
    assert len(model.history) == patience
    model = fit(EarlyStopping("accuracy", patience=patience, baseline=baseline), values, name="accuracy")
    assert len(model.history) == patience + 1


def test_a_baseline_that_is_never_met_stops_and_gives_the_best_weights_all_the_same(fit):
    callback = EarlyStopping(patience=5, baseline=0.5, restore_best_weights=True)
    model = fit(callback, [0.9, 0.8, 0.7, 0.71, 0.72, 0.73])
    assert len(model.history) == 5
    assert weights_are_of(model, 2)


def test_when_it_stops_the_weights_are_those_of_the_best_epoch(fit):
    model = fit(EarlyStopping(patience=2, restore_best_weights=True), [0.3, 0.2, 0.1, 0.2, 0.3, 0.0])
    assert len(model.history) == 5
    assert weights_are_of(model, 2)
    assert weights_are_of(fit(EarlyStopping(patience=2), [0.3, 0.2, 0.1, 0.2, 0.3, 0.0]), 4)


def test_after_the_last_epoch_too(fit):
    assert weights_are_of(fit(EarlyStopping(patience=9, restore_best_weights=True), [0.3, 0.1, 0.2]), 1)


def test_and_when_another_callback_stops(fit):
    early = EarlyStopping(patience=9, restore_best_weights=True)
    other = LambdaCallback(on_epoch_end=lambda epoch, logs: early.run.stop("enough") if epoch == 3 else None)
    model = fit(early, [0.3, 0.2, 0.1, 0.2, 0.3, 0.0], other)
    assert len(model.history) == 4
    assert weights_are_of(model, 2)


def test_and_at_ctrl_c(fit, capsys):
    early = EarlyStopping(patience=9, restore_best_weights=True)
    press = LambdaCallback(on_epoch_begin=lambda epoch, logs: early.run.interrupt("Ctrl-C") if epoch == 2 else None)
    model = fit(early, [0.1, 0.2, 0.3, 0.4], press)
    assert len(model.history) == 2
    assert weights_are_of(model, 0)
    assert "Ctrl-C" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_and_after_an_error(fit, error):
    def fail(epoch, logs):
        if epoch == 2:
            raise error

    model = make_model()
    with pytest.raises(error):
        fit(
            EarlyStopping(patience=9, restore_best_weights=True),
            [0.1, 0.2, 0.3],
            LambdaCallback(on_epoch_end=fail),
            model=model,
        )
    assert weights_are_of(model, 0)


def test_an_evaluation_that_fails_restores_nothing(fit):
    early = EarlyStopping(patience=9, restore_best_weights=True)

    def evaluate(epoch, logs):
        if epoch == 1:
            with pytest.raises(ZeroDivisionError):
                early.model.evaluate((X, Y), callbacks=[early, LambdaCallback(on_test_begin=lambda logs: 1 / 0)])
            assert weights_are_of(early.model, 1)

    assert weights_are_of(fit(early, [0.1, 0.2, 0.3], LambdaCallback(on_epoch_end=evaluate)), 0)


def test_buffers_come_back_with_the_weights(fit):
    seen = []
    model = make_model()
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.net[1].running_mean.clone()))
    fit(EarlyStopping(patience=9, restore_best_weights=True), [0.2, 0.1, 0.3], keep, model=model)
    assert torch.equal(model.net[1].running_mean, seen[1])
    assert not torch.equal(model.net[1].running_mean, seen[2])
    assert model.net[1].num_batches_tracked == 2


def test_the_copy_is_apart_from_the_net_on_the_cpu_and_let_go_at_the_end(fit):
    copies = []
    early = EarlyStopping(patience=9, restore_best_weights=True)
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: copies.append(early.best_weights))
    keep.stage = "display"
    fit(early, [0.2, 0.3], keep)
    assert copies[0] is copies[1]
    assert {value.device.type for value in copies[0].values()} == {"cpu"}
    assert not any(value.requires_grad for value in copies[0].values())
    assert early.best_weights is None


def test_state_that_is_no_tensor_comes_back(scripted):
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)
            self.calls = [0]

        def forward(self, x):
            self.calls[0] += 1
            return super().forward(x)

        def get_extra_state(self):
            return self.calls

        def set_extra_state(self, state):
            self.calls = state

    model = kt.Model(Counting())
    model.compile("mse", "sgd")
    early = EarlyStopping(patience=9, restore_best_weights=True)
    model.fit(3, (X, Y), callbacks=[scripted(val_loss=[0.2, 0.1, 0.3]), early], verbose=0)
    assert model.net.calls == [2]


@pytest.mark.parametrize(("start", "patience", "epochs"), [(3, 3, 7), (3, 0, 5), (0, 2, 3)])
def test_epochs_before_the_start_do_not_count(fit, start, patience, epochs):
    callback = EarlyStopping("accuracy", patience=patience, start_from_epoch=start, restore_best_weights=True)
    model = fit(callback, [0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6], name="accuracy")
    assert len(model.history) == epochs
    assert callback.best_epoch == start
    assert weights_are_of(model, start)


def test_training_that_ends_before_the_start_keeps_its_weights(fit):
    assert weights_are_of(fit(EarlyStopping(start_from_epoch=5, restore_best_weights=True), [0.1, 0.2, 0.3]), 2)


def test_callbacks_after_it_see_the_last_epoch_too(fit, tmp_path):
    model = fit(EarlyStopping(), [0.1, 0.2, 0.3], ModelCheckpoint(tmp_path / "{epoch}.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pt", "2.pt"]
    assert len(model.history) == 2


def test_the_net_trains_on_after_the_best_weights_came_back(scripted):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    early = EarlyStopping(patience=9, restore_best_weights=True)
    model.fit(3, (X, Y), callbacks=[scripted(val_loss=[0.1, 0.2, 0.3]), early], verbose=0)
    assert weights_are_of(model, 0)
    model.fit(1, (X, Y), verbose=0)
    assert not weights_are_of(model, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": -1}, "patience is a whole number from 0"),
        ({"start_from_epoch": 0.5}, "start_from_epoch is a whole number from 0"),
        ({"monitor": "score"}, "Say mode='min' or 'max'"),
        ({"mode": "best"}, "mode is 'auto', 'min' or 'max'"),
        ({"min_delta": -1}, "min_delta is a number from 0"),
    ],
)
def test_what_cannot_be_is_an_error_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


def test_repr_is_the_call():
    callback = EarlyStopping("val_accuracy", patience=3, restore_best_weights=True)
    text = (
        "EarlyStopping('val_accuracy', min_delta=0, patience=3, mode='auto', baseline=None, "
        "restore_best_weights=True, start_from_epoch=0, verbose=None)"
    )
    assert repr(callback) == repr(eval(repr(callback))) == text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_lost_are_never_the_best(fit, value):
    def lose(epoch, logs):
        if epoch == 1:
            model.net[2].bias.data.fill_(value)

    model = make_model()
    callback = EarlyStopping(patience=5, restore_best_weights=True)
    mend = LambdaCallback(on_epoch_end=lose, on_epoch_begin=lambda epoch, logs: model.net[2].bias.data.fill_(0.0))
    fit(callback, [3.0, 1.0, 2.0, 2.5], mend, model=model)
    assert (callback.best_epoch, callback.monitor.best, callback.wait) == (2, 2.0, 1)
    assert weights_are_of(model, 2)


def test_where_nothing_is_restored_only_the_value_counts(scripted):
    model, callback = make_model(), EarlyStopping()
    lose = LambdaCallback(on_epoch_end=lambda epoch, logs: model.net[2].bias.data.fill_(math.nan))
    model.fit(1, (X, Y), callbacks=[scripted(val_loss=[1.0]), lose, callback], verbose=0)
    assert callback.best_epoch == 0


def test_it_is_said_why_weights_are_not_the_best(scripted, capsys):
    model = make_model()
    lose = LambdaCallback(on_epoch_end=lambda epoch, logs: model.net[1].running_var.fill_(math.nan))
    callback = EarlyStopping(restore_best_weights=True)
    with pytest.warns(UserWarning, match="so there are no best weights"):
        model.fit(1, (X, Y), callbacks=[scripted(val_loss=[1.0]), lose, callback], verbose=2)
    assert "The weights of this epoch are not the best: '1.running_var' is not finite." in capsys.readouterr().out
