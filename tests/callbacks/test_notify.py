import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import notify as notify_module
from kerastorch.callbacks.notify import Notify


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A second passes between two looks."""
    times = iter(range(0, 10**6, 75))
    monkeypatch.setattr(notify_module, "monotonic", lambda: next(times))


def fit(epochs, *callbacks, verbose=0, validate=False):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    data = (torch.zeros(8, 2), torch.zeros(8, 1))
    return model.fit(epochs, data, data if validate else None, batch_size=4, verbose=verbose, callbacks=list(callbacks))


def test_the_end_is_told(scripted):
    told = []
    fit(3, scripted(val_loss=[0.5, 0.25, 0.75]), Notify(told.append))
    assert told == ["Training has ended: 3 epochs in 0:01:15, best val_loss 0.250 in epoch 2."]


@pytest.mark.parametrize(("losses", "best"), [([0.5], ", best loss 0.500 in epoch 1"), ([math.nan], "")])
def test_without_validation_it_is_the_loss_and_nan_is_never_best(losses, best, scripted):
    told = []
    fit(1, scripted(loss=losses), Notify(told.append))
    assert told == [f"Training has ended: 1 epoch in 0:01:15{best}."]


def test_why_training_ended_early_is_told(scripted):
    told = []
    fit(5, scripted(val_loss=[0.5, 0.6, 0.7]), kt.callbacks.EarlyStopping(patience=2), Notify(told.append))
    assert told == [
        "Training has ended: 3 epochs in 0:01:15, best val_loss 0.500 in epoch 1, "
        "stopped by EarlyStopping (no val_loss was better than 0.500 in epoch 1)."
    ]


def test_an_error_is_told_in_one_line(scripted):
    class Fails(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.run.state.epoch == 1:
                raise RuntimeError("out of\n  memory")

    told = []
    with pytest.raises(RuntimeError):
        fit(3, scripted(loss=[0.5]), Fails(), Notify(told.append))
    assert told == [
        "Training has failed in epoch 2: RuntimeError: out of memory (1 epoch in 0:01:15, best loss 0.500 in epoch 1)"
    ]


def test_an_error_without_text_and_before_the_first_epoch():
    class Fails(kt.Callback):
        def on_epoch_begin(self, epoch, logs):
            raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        fit(3, Fails(), Notify(told.append))
    assert told == ["Training has failed in epoch 1: KeyboardInterrupt (0 epochs in 0:01:15)"]


def test_some_epochs_are_told(scripted):
    told = []
    losses = scripted(loss=[0.5, 0.25, 0.125, 0.1], lr=[0.01] * 4)
    fit(4, losses, Notify(told.append, every=2))
    assert told == [
        "Epoch 2 of 4 after 0:01:15: loss 0.250, lr 0.010.",
        "Epoch 4 of 4 after 0:02:30: loss 0.100, lr 0.010.",
        "Training has ended: 4 epochs in 0:03:45, best loss 0.100 in epoch 4.",
    ]


def test_a_function_that_fails_is_one_warning_for_each_fit():
    calls = []

    def fails(text):
        calls.append(text)
        raise ConnectionError("no route")

    notify = Notify(fails, every=1)
    for _ in range(2):
        calls.clear()
        with pytest.warns(
            UserWarning, match=r"Notify could not tell 'Epoch 1 of 3.*no route.*Training goes on"
        ) as caught:
            assert len(fit(3, notify)) == 3
        assert len(caught) == 1
        assert len(calls) == 4


def test_an_evaluation_that_fails_is_no_training():
    told, model = [], kt.Model(nn.Linear(2, 1))
    with pytest.raises(RuntimeError):
        model.predict(torch.zeros(8, 3), callbacks=[Notify(told.append)])
    assert told == []


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"Notify takes a function of one text, such as print; got 'a@b\.org'"):
        Notify("a@b.org")
    for every in (0, -1, 0.5):
        with pytest.raises(ValueError, match="every is a number of epochs, 1 or more"):
            Notify(print, every=every)


def test_repr_is_the_call():
    assert repr(Notify(print, every=5)) == "Notify(print, every=5)"


def test_the_time_of_a_killed_run_counts(killing, monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr("kerastorch.callbacks.notify.monotonic", lambda: now[0])

    def training(*callbacks):
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", "sgd")
        tick = kt.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: now.__setitem__(0, now[0] + 60))
        data = torch.ones(4, 2), torch.ones(4, 1)
        model.fit(3, data, callbacks=[tick, Notify(told.append), *callbacks], verbose=0, shuffle=False)

    killed = killing.Kill(1, None)
    with pytest.raises(killing.Killed):
        training(killed)
    now[0] += 1000
    training(*killing.going_on(killed))
    assert told[-1].startswith("Training has ended: 3 epochs in 0:03:00, best loss")
