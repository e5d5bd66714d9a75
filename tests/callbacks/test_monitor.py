import math

import pytest
import torch

from kerastorch.callbacks.monitor import Monitor, check_counts
from kerastorch.run import Run


def run(**parts):
    return Run(None, **parts)


@pytest.mark.parametrize(
    ("mode", "name", "direction"),
    [
        ("min", "val_loss", "min"),
        ("max", "val_loss", "max"),
        ("min", "score", "min"),
        ("max", "mse", "max"),
        ("auto", "accuracy", "max"),
        ("auto", "val_acc", "max"),
        ("auto", "mse", "min"),
        ("auto", "hinge", "min"),
        ("auto", "loss", "min"),
        ("auto", "val_f1", "max"),
    ],
)
def test_the_mode_or_the_name_tells_what_is_better(mode, name, direction):
    assert Monitor(name, mode).resolve() == direction


def test_a_name_that_does_not_tell_asks_for_the_mode():
    with pytest.raises(ValueError, match="Say mode='min' or 'max'"):
        Monitor("score", "auto").resolve()


@pytest.mark.parametrize(
    ("value", "best", "better"), [(0.75, 0, True), (0.5, None, True), (0.5, 0, False), (0.2, 0.5, False)]
)
def test_better_is_by_more_than_min_delta(value, best, better):
    monitor = Monitor("accuracy", "max", min_delta=0.5)
    monitor.best = best
    assert monitor.improves({"accuracy": value}) is better
    monitor = Monitor("loss", "min", min_delta=0.5)
    monitor.best = None if best is None else -best
    assert monitor.improves({"loss": -value}) is better


def test_a_value_that_stays_never_is_better_also_below_zero():
    monitor = Monitor("loss", "min", min_delta=0.1)
    assert [monitor.improves({"loss": -10.0}) for _ in range(3)] == [True, False, False]


def test_nan_first_does_not_hide_what_comes_after_it():
    monitor = Monitor("loss", "auto")
    assert [monitor.improves({"loss": value}) for value in (math.nan, 3.0, math.nan, 2.0)] == [False, True, False, True]


def test_the_baseline_is_beaten_by_more_than_min_delta():
    monitor = Monitor("loss", "min", min_delta=0.1, baseline=1.0)
    assert [monitor.beats_baseline(value) for value in (1.0, 0.95, 0.5)] == [False, False, True]
    assert Monitor("loss", "min").beats_baseline(math.inf)


def test_an_epoch_that_was_not_validated_has_no_value_and_that_is_no_fault():
    monitor = Monitor("val_loss", "min")
    validated = run(val_sets={"": None}, validation_freq=2)
    assert monitor.read({"loss": 1.0}, validated, 0) is None
    assert monitor.read({"loss": 1.0, "val_loss": 2}, validated, 1) == 2.0
    with pytest.warns(
        UserWarning, match=r"There is no 'val_loss' to monitor\. Did you mean 'val_los'\? There are loss"
    ):
        assert monitor.read({"loss": 1.0, "val_los": 2.0}, validated, 1) is None


def test_several_numbers_cannot_be_monitored():
    with pytest.warns(UserWarning, match=r"'val_matrix' is not one number, and cannot be monitored\. There are loss\."):
        value = Monitor("val_matrix", "min").read({"loss": 1.0, "val_matrix": torch.zeros(2, 2)}, run(), 0)
    assert value is None


@pytest.mark.parametrize("min_delta", [-0.1, math.nan])
def test_min_delta_is_no_less_than_zero(min_delta):
    with pytest.raises(ValueError, match="min_delta is a number from 0"):
        Monitor("loss", "min", min_delta=min_delta)


@pytest.mark.parametrize("value", [-1, 1.5, "3"])
def test_counts_are_whole_numbers(value):
    with pytest.raises(ValueError, match=f"patience is a whole number from 0; got {value!r}"):
        check_counts(cooldown=0, patience=value)
