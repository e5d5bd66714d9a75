import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, LearningRateScheduler, ReduceLROnPlateau

X, Y = torch.randn(8, 2), torch.randn(8, 1)


def make_model(lr=0.1):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=lr))
    return model


@pytest.fixture
def fit(scripted):
    def fit(callback, values, *others, model=None, name="val_loss"):
        model = model or make_model()
        script = scripted(**{name: values})
        model.fit(len(values), (X, Y), callbacks=[script, callback, *others], verbose=0)
        return model

    return fit


def rate(model):
    return model.optimizer.param_groups[0]["lr"]


def test_after_an_epoch_that_is_no_better_it_is_a_tenth(fit):
    assert rate(fit(ReduceLROnPlateau(patience=1, min_delta=0), [1.0, 0.5])) == 0.1
    assert rate(fit(ReduceLROnPlateau(patience=1, min_delta=10), [1.0, 0.5])) == pytest.approx(0.01)


def test_the_history_holds_what_an_epoch_was_trained_with(fit):
    model = fit(ReduceLROnPlateau(patience=2), [1.0] * 6)
    assert model.history["lr"] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_it_does_not_go_below_min_lr_nor_up_to_it(fit):
    callback = ReduceLROnPlateau(patience=1, min_lr=0.005)
    assert fit(callback, [1.0] * 5).history["lr"] == pytest.approx([0.1, 0.1, 0.01, 0.005, 0.005])
    assert fit(callback, [1.0] * 3, model=make_model(0.001)).history["lr"] == [0.001] * 3


def test_in_the_cooldown_nothing_is_counted(fit):
    model = fit(ReduceLROnPlateau(patience=1, cooldown=2), [1.0] * 5)
    assert model.history["lr"] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    model = fit(ReduceLROnPlateau(patience=2, cooldown=2), [1.0] * 7)
    assert model.history["lr"] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("options", [{"cooldown": 0}, {"cooldown": 2}, {"patience": 3, "cooldown": 1, "factor": 0.5}])
def test_it_lowers_where_the_scheduler_of_torch_does(fit, options):
    options = {"patience": 2, "factor": 0.1, **options}
    values = [5.0, 4.0, 4.1, 4.2, 4.0, 3.0, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5, 2.0, 2.5, 2.5, 2.5, 2.5]
    model = fit(ReduceLROnPlateau(min_delta=1e-3, **options), values)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    options["patience"] -= 1  # torch lowers at the first epoch beyond its patience, and counts again after its cooldown
    options["cooldown"] = max(options["cooldown"] - 1, 0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold=1e-3, threshold_mode="abs", **options)
    expected = []
    for value in values:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    assert model.history["lr"] == pytest.approx(expected)


def test_higher_is_better_where_the_name_or_the_mode_says_so(fit):
    values = [0.1, 0.2, 0.3]
    assert rate(fit(ReduceLROnPlateau("val_accuracy", patience=1), values, name="val_accuracy")) == 0.1
    assert rate(fit(ReduceLROnPlateau("score", patience=1, mode="max"), values, name="score")) == 0.1
    assert rate(fit(ReduceLROnPlateau("score", patience=1, mode="min"), values, name="score")) < 0.01


def test_nan_never_is_better(fit):
    model = fit(ReduceLROnPlateau(patience=1), [math.nan, 1.0, math.nan, 0.5])
    assert model.history["lr"] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_every_fit_begins_anew(fit):
    callback = ReduceLROnPlateau(patience=2, cooldown=3)
    model = fit(callback, [0.1, 0.1, 0.1])
    assert rate(model) == pytest.approx(0.01)
    assert callback.cooling == 3
    fit(callback, [5.0, 4.0], model=model)
    assert rate(model) == pytest.approx(0.01)
    assert (callback.monitor.best, callback.wait, callback.cooling) == (4.0, 0, 0)


def test_an_epoch_without_validation_is_none(scripted):
    model = make_model()
    script = scripted(val_loss=[None, 1.0, None, 1.0, None, 1.0])
    model.fit(6, (X, Y), (X, Y), callbacks=[script, ReduceLROnPlateau(patience=2)], validation_freq=2, verbose=0)
    assert model.history["lr"] == [0.1] * 6
    assert rate(model) == pytest.approx(0.01)


def test_without_the_value_it_warns_and_lowers_nothing(fit):
    with pytest.warns(UserWarning, match="There is no 'val_loss' to monitor"):
        assert rate(fit(ReduceLROnPlateau(patience=1), [1.0, 1.0, 1.0], name="score")) == 0.1


def test_every_group_is_lowered_and_a_tensor_keeps_being_one():
    model = kt.Model(nn.Linear(2, 1))
    shared = torch.tensor(0.1)
    groups = [{"params": [model.net.weight], "lr": shared}, {"params": [model.net.bias], "lr": 0.5}]
    model.compile("mse", torch.optim.Adam(groups))
    flat = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_loss=1.0))
    model.fit(2, (X, Y), callbacks=[flat, ReduceLROnPlateau(patience=1, factor=0.5)], verbose=0)
    first, second = (group["lr"] for group in model.optimizer.param_groups)
    assert first is shared
    assert float(first) == pytest.approx(0.05)
    assert second == 0.25


def test_one_tensor_in_two_groups_is_lowered_once():
    model = kt.Model(nn.Linear(2, 1))
    groups = [{"params": [model.net.weight]}, {"params": [model.net.bias]}]
    model.compile("mse", torch.optim.Adam(groups, lr=torch.tensor(0.1)))
    flat = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_loss=1.0))
    model.fit(2, (X, Y), callbacks=[flat, ReduceLROnPlateau(patience=1, factor=0.5)], verbose=0)
    assert [float(group["lr"]) for group in model.optimizer.param_groups] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize("first", [False, True])
def test_a_schedule_that_undoes_a_reduction_is_reported(scripted, first):
    callbacks = [ReduceLROnPlateau(patience=1), LearningRateScheduler(lambda epoch: 0.1)]
    callbacks = [scripted(val_loss=[1.0, 1.0, 1.0]), *(callbacks if first else callbacks[::-1])]
    with pytest.warns(UserWarning, match=r"the learning rate to 0\.010, but something else has set it to 0\.1"):
        make_model().fit(3, (X, Y), callbacks=callbacks, verbose=0)


def test_a_schedule_that_lowers_further_goes_together_with_it(scripted):
    halved = LearningRateScheduler(lambda epoch, lr: lr / 2)
    model = make_model()
    callbacks = [scripted(val_loss=[1.0, 1.0, 1.0]), ReduceLROnPlateau(patience=1), halved]
    model.fit(3, (X, Y), callbacks=callbacks, verbose=0)
    assert model.history["lr"] == pytest.approx([0.05, 0.025, 0.00125])


def test_it_says_what_it_did(fit, capsys):
    fit(ReduceLROnPlateau(patience=1, verbose=1), [1.0, 1.0])
    assert capsys.readouterr().out == "Epoch 2: the learning rate is lowered to 0.010.\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, "factor is between 0 and 1"),
        ({"factor": 0}, "factor is between 0 and 1"),
        ({"min_lr": -1}, "min_lr is a number from 0"),
        ({"patience": -1}, "patience is a whole number from 0"),
        ({"cooldown": 1.5}, "cooldown is a whole number from 0"),
        ({"monitor": "score"}, "Say mode='min' or 'max'"),
    ],
)
def test_what_cannot_be_is_an_error_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        ReduceLROnPlateau(**options)


def test_repr_is_the_call():
    text = (
        "ReduceLROnPlateau('val_loss', factor=0.5, patience=3, mode='auto', min_delta=0.0001, cooldown=0, min_lr=0.0, "
        "verbose=0)"
    )
    assert repr(ReduceLROnPlateau(factor=0.5, patience=3)) == text


def test_a_schedule_that_undoes_a_reduction_and_falls_below_it_in_the_same_epoch_is_reported():
    torch.manual_seed(0)
    model = kt.Model(torch.nn.Linear(2, 1))
    model.compile("mse", torch.optim.SGD(model.parameters(), lr=0.1))
    plateau = ReduceLROnPlateau("loss", factor=0.5, patience=4, min_delta=1e9, cooldown=9)
    with pytest.warns(UserWarning, match="ReduceLROnPlateau has lowered the learning rate to"):
        model.fit(
            8,
            (torch.randn(64, 2), torch.randn(64, 1)),
            batch_size=8,
            callbacks=[plateau, kt.callbacks.WarmupCosine()],
            verbose=0,
        )
