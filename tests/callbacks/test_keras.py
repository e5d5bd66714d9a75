"""Outcomes that the tests of Keras pin down, of callbacks and the loop together."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import (
    EarlyStopping,
    ExponentialMovingAverage,
    LambdaCallback,
    ModelCheckpoint,
    Profiler,
    TensorBoard,
)

X, Y = torch.randn(8, 2), torch.randn(8, 1)


class Scripted(kt.Callback):
    """Writes values into the logs."""

    def __init__(self, **values):
        self.values = values

    def on_epoch_end(self, epoch, logs):
        logs.update({name: column[epoch] for name, column in self.values.items()})


def make_model(lr=0.1, metrics=None):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=lr), metrics)
    return model


def test_a_metric_that_is_measured_tells_by_its_name_what_is_better():
    model = kt.Model(nn.Linear(2, 3))
    model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, lr=0.0), ["f1"])
    early = EarlyStopping("val_f1", patience=1)
    data = torch.randn(12, 2), torch.arange(12) % 3
    model.fit(5, data, data, callbacks=[early], verbose=0)
    assert (early.monitor.resolve(), early.best_epoch, len(model.history)) == ("max", 0, 2)


@pytest.mark.parametrize(
    ("monitor", "mode", "threshold", "values", "written"),
    [
        ("score", "max", -0.01, [0.0, 0.5], [1, 2]),
        ("score", "max", 1.0, [0.5, 0.9], []),
        ("val_loss", "min", 0.0, [0.5, 0.1], []),
        ("val_loss", "auto", 0.0, [0.5, 0.1], []),
        ("val_auc", "auto", 1.0, [0.5, 0.9], []),
        ("val_auc", "auto", 0.6, [0.5, 0.9], [2]),
        ("val_loss", "min", 0.3, [math.nan, 0.2], [2]),
    ],
)
def test_the_threshold_is_beaten_in_the_direction_of_the_value(tmp_path, monitor, mode, threshold, values, written):
    checkpoint = ModelCheckpoint(
        tmp_path / "{epoch}.pt", monitor, save_best_only=True, mode=mode, initial_value_threshold=threshold
    )
    make_model().fit(2, (X, Y), callbacks=[checkpoint, Scripted(**{monitor: values})], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{epoch}.pt" for epoch in written]


def test_weights_alone_every_so_many_batches_go_on_in_the_next_fit(tmp_path):
    model = make_model()
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}_{batch}.pt", save_freq=7, save_weights_only=True)
    for _ in range(2):  # of 5 batches each
        model.fit(1, (torch.randn(10, 2), torch.randn(10, 1)), batch_size=2, callbacks=[checkpoint], verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["1_2.pt"]
    assert set(torch.load(tmp_path / "1_2.pt", weights_only=True)) == {"weight", "bias"}


def test_functions_of_every_verb_are_called_with_batches_from_zero():
    calls = []
    names = ["train_begin", "train_end", "test_begin", "test_end", "predict_begin", "predict_end"]
    hooks = {f"on_{name}": lambda logs, name=name: calls.append(name) for name in names}
    for verb in ("train", "test", "predict"):
        for end in ("begin", "end"):
            name = f"{verb}_batch_{end}"
            hooks[f"on_{name}"] = lambda batch, logs, name=name: calls.append((name, batch))
    callback, model = LambdaCallback(**hooks), make_model()

    def of(verb):
        batches = [(f"{verb}_batch_{end}", batch) for batch in (0, 1) for end in ("begin", "end")]
        return [f"{verb}_begin", *batches, f"{verb}_end"]

    model.fit(1, (X, Y), batch_size=4, callbacks=[callback], verbose=0)
    assert calls == of("train")
    calls.clear()
    model.evaluate((X, Y), batch_size=4, callbacks=[callback])
    assert calls == of("test")
    calls.clear()
    model.predict(X, batch_size=4, callbacks=[callback])
    assert calls == of("predict")


def test_no_function_at_all_is_a_callback():
    assert len(make_model().fit(2, (X, Y), callbacks=[LambdaCallback()], verbose=0)) == 2


@pytest.mark.parametrize(
    "value", [0.25, 1, np.float32(0.25), np.array(0.25), torch.tensor(0.25), torch.tensor([0.25])[0]]
)
def test_values_of_any_kind_of_a_step_of_ones_own_are_shown(value, capsys):
    class Own(kt.Model):
        def train_step(self, batch):
            return {"loss": value}

    model = Own(nn.Linear(2, 1))
    model.compile()
    model.fit(1, (X, Y), batch_size=4, verbose=2)
    text = capsys.readouterr().out
    assert f"{float(value):.3f}" in text or f"{float(value):g}" in text
    assert model.history["loss"] == [float(value)]


@pytest.mark.parametrize("verbose", [1, 2, "table", "bar"])
def test_data_of_unknown_length_and_one_epoch_are_shown(verbose, capsys):
    make_model().fit(1, ((X[:4], Y[:4]) for _ in range(3)), verbose=verbose, log_step_freq=1)
    assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize("verbose", [1, 2, "table"])
def test_an_evaluation_inside_fit_is_silent(verbose, capsys):
    def text_of(*callbacks):
        make_model(lr=0.0).fit(2, (X, Y), callbacks=list(callbacks), verbose=verbose)
        return [line for line in capsys.readouterr().out.splitlines() if "====" not in line and "seconds" not in line]

    inside = LambdaCallback(on_epoch_end=lambda epoch, logs: inside.model.evaluate((X, Y)))
    assert len(text_of(inside)) == len(text_of())


def test_a_later_evaluation_is_the_last_validation():
    model = make_model()
    history = model.fit(3, (X, Y), (X, Y), callbacks=[ExponentialMovingAverage(0.9)], verbose=0)
    assert model.evaluate((X, Y))["loss"] == history["val_loss"][-1]


def test_the_graph_of_a_net_that_is_lazy_until_its_first_batch(tmp_path):
    pytest.importorskip("tensorboard")
    model = kt.Model(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)))
    model.compile("mse", "sgd")
    model.fit(1, (X, Y), callbacks=[TensorBoard(tmp_path, write_graph=True)], verbose=0)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert EventAccumulator(str(tmp_path / "train")).Reload().Tags()["graph"]


def test_a_callback_may_change_the_weights_between_batches():
    seen = []

    def fill(batch, logs):
        with torch.no_grad():
            for parameter in change.model.parameters():
                parameter.fill_(batch)

    change = LambdaCallback(
        on_train_batch_begin=fill, on_train_batch_end=lambda batch, logs: seen.append(change.model.net.bias.item())
    )
    make_model(lr=0.0).fit(1, (X, Y), batch_size=2, callbacks=[change], verbose=0)
    assert seen == [0.0, 1.0, 2.0, 3.0]


def test_an_endless_generator_validates_by_steps_and_goes_on():
    read = []

    def endless():
        while True:
            read.append(None)
            yield X[:4], Y[:4]

    history = make_model(lr=0.0).fit(3, (X, Y), endless(), validation_steps=2, verbose=0)
    assert len(read) == 6
    assert len(set(history["val_loss"])) == 1


def test_values_of_an_epoch_begin_anew():
    history = make_model(lr=0.0, metrics=["mae"]).fit(3, (X, Y), batch_size=8, verbose=0)
    assert history["loss"] == pytest.approx([history["loss"][0]] * 3)
    assert history["mae"] == pytest.approx([history["mae"][0]] * 3)


def test_a_prediction_and_an_evaluation_can_be_ended_by_a_callback():
    """Keras: model.stop_predicting, model.stop_evaluating. Fails: predict does not look at `interrupted`."""
    seen = []
    stop = LambdaCallback(
        on_predict_batch_end=lambda batch, logs: (seen.append(batch), stop.run.interrupt("enough")),
        on_test_batch_end=lambda batch, logs: (seen.append(batch), stop.run.interrupt("enough")),
    )
    make_model().evaluate((X, Y), batch_size=2, callbacks=[stop])
    assert seen == [0]
    seen.clear()
    assert len(make_model().predict(X, batch_size=2, callbacks=[stop])) == 2
    assert seen == [0]


def test_the_table_names_no_callback_that_the_user_did_not_give():
    profiler = Profiler()
    make_model().fit(1, (X, Y), callbacks=[profiler], verbose=0)
    assert not [name for name in profiler.report.seconds if "LambdaCallback" in name]
