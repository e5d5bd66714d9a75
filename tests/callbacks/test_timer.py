import math
import time
from datetime import timedelta

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import timer as timer_module
from kerastorch.callbacks.timer import Timer, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests put forward."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(timer_module, "monotonic", clock)
    return clock


class Takes(kt.Callback):
    """Lets time pass."""

    def __init__(self, clock, *, batch=0.0, validation=0.0):
        self.clock, self.batch, self.validation = clock, batch, validation
        self.batches = 0

    def on_train_batch_begin(self, batch, logs):
        self.clock.now += self.batch
        self.batches += 1

    def on_test_batch_begin(self, batch, logs):
        self.clock.now += self.validation


def fit(epochs, *callbacks, verbose=0, validate=True):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    data = (torch.zeros(8, 2), torch.zeros(8, 1))
    options = {"batch_size": 2, "verbose": verbose, "callbacks": list(callbacks)}
    return model.fit(epochs, data, data if validate else None, **options)


def test_it_ends_after_the_batch_and_the_epoch_is_validated(clock, capsys):
    takes = Takes(clock, batch=600)
    history = fit(5, Timer("1h"), takes, verbose=2)
    assert takes.batches == 6
    assert history.epoch == [0, 1]
    assert not math.isnan(history["val_loss"][1])
    assert "Stopped by Timer (max_time of 1:00:00 is over) after epoch 2." in capsys.readouterr().out


def test_time_that_is_over_during_a_validation_ends_training(clock):
    takes = Takes(clock, batch=1, validation=100)
    history = fit(5, Timer(50), takes)
    assert history.epoch == [0]
    assert takes.batches == 4


def test_every_fit_has_the_whole_time(clock):
    timer, takes = Timer(timedelta(seconds=60)), Takes(clock, batch=10)
    for _ in range(2):
        takes.batches = 0
        assert len(fit(5, timer, takes)) == 2
        assert takes.batches == 6


def test_without_a_limit_it_measures(clock):
    timer = Timer()
    assert timer.seconds == 0
    assert math.isnan(timer.seconds_per_epoch)
    fit(3, timer, Takes(clock, batch=1, validation=0.5))
    clock.now += 1000
    assert timer.seconds == 3 * (4 + 2)
    assert timer.seconds_per_epoch == 6
    assert timer.validation_seconds == 6
    fit(1, timer, Takes(clock, batch=2), validate=False)
    assert (timer.seconds, timer.seconds_per_epoch, timer.validation_seconds) == (8, 8, 0)


def test_the_clock_can_be_read_meanwhile_and_stops_at_an_error(clock):
    timer, seen = Timer(), []

    class Fails(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            seen.append(timer.seconds)
            if batch == 2:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(1, timer, Takes(clock, batch=1), Fails())
    clock.now += 1000
    assert seen == [1, 2, 3]
    assert timer.seconds == 3


def test_an_evaluation_is_no_training(clock):
    model, timer = kt.Model(nn.Linear(2, 1)), Timer(1)
    model.compile("mse", "sgd")
    takes = Takes(clock, validation=100)
    model.evaluate((torch.zeros(8, 2), torch.zeros(8, 1)), callbacks=[timer, takes])
    assert (timer.validation_seconds, timer.seconds) == (0, 0)
    with pytest.raises(Exception, match="shape"):
        model.predict(torch.zeros(8, 3), callbacks=[timer])
    assert timer.seconds == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90), (0.5, 0.5), ("90min", 5400), ("12h", 43200), ("1d2h", 93600), ("1d 2h 30min 5s", 95405),
        ("1.5 hours", 5400), ("2 days", 172800), ("5m", 300), (" 10 SEC ", 10), ("55:00", 3300),
        ("3:55:00", 14100), ("1-12", 129600), ("1-2:30", 95400),
        ("2-00:00:05", 172805), (timedelta(hours=2), 7200),
    ],
)  # fmt: skip
def test_times_are_read(given, seconds):
    assert Timer(given)._limit == seconds


@pytest.mark.parametrize(
    "given", ["", "soon", "12", "1:2:3:4", "1-", "-1:30", "1h 30:00", "5 weeks", "-5min", "3h later"]
)
def test_texts_that_cannot_be_read_are_refused(given):
    with pytest.raises(ValueError, match=r"cannot be read\. Type '90min', '12h'"):
        Timer(given)


@pytest.mark.parametrize("given", [0, -1, "0h", math.inf, math.nan, timedelta(0)])
def test_there_must_be_time(given):
    with pytest.raises(ValueError, match="max_time is above 0"):
        Timer(given)


@pytest.mark.parametrize("given", [True, [90]])
def test_other_things_are_refused(given):
    with pytest.raises(TypeError, match="max_time is seconds, a text such as '90min'"):
        Timer(given)


def test_repr_is_the_call():
    assert repr(Timer("90min")) == "Timer('90min')"
    assert repr(Timer()) == "Timer(None)"


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (0.04, 3.21, 75, 100000)] == [
        "0.0 s",
        "3.2 s",
        "0:01:15",
        "1 day, 3:46:40",
    ]


def test_a_look_at_the_clock_costs_next_to_nothing():
    timer, times = Timer("12h"), []
    timer.on_train_begin({})
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10000):
            timer.on_train_batch_end(0, {})
        times.append((time.perf_counter() - began) / 10000)
    assert min(times) < 5e-6  # 0.1 us, but machines are shared and lines counted


class Backup(kt.Callback):
    def on_train_begin(self, logs):
        self.run.peers["backup"].append(self)


def test_with_a_backup_it_ends_in_the_middle_of_an_epoch(clock):
    takes, backup = Takes(clock, batch=600), Backup()
    history = fit(5, Timer("1:00:00"), takes, backup)
    assert (takes.batches, history.epoch) == (6, [0])
    assert backup.run.interrupted
    assert (backup.run.state.epoch, backup.run.state.batch) == (1, 2)


def test_with_a_backup_it_ends_in_the_middle_of_a_validation(clock):
    takes, backup = Takes(clock, batch=1, validation=100), Backup()
    history = fit(5, Timer(150), takes, backup)
    assert (takes.batches, history.epoch, clock.now) == (4, [], 1204)
    assert (backup.run.state.epoch, backup.run.state.batch) == (0, 4)


def test_time_that_is_over_with_the_last_epoch_stops_nothing(clock, capsys):
    timer = Timer(100)
    fit(1, timer, Takes(clock, validation=100), verbose=2)
    assert timer.run.stop_reason is None


def test_an_epoch_that_goes_on_in_its_middle_is_not_measured(clock, killing):
    def training(*callbacks):
        fit(3, Takes(clock, batch=1), *callbacks, validate=False)

    killed, timer = killing.Kill(1, 2), Timer()
    with pytest.raises(killing.Killed):
        training(killed)
    training(timer, *killing.going_on(killed))
    assert (timer.seconds, timer.seconds_per_epoch) == (6, 4)
