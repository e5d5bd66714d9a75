import pytest
import torch
from torch import nn

from kerastorch.data import Batch, adapt
from kerastorch.errors import DataError
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.state import TrainState


def make_run(**parts):
    return Run(TrainState(nn.Linear(1, 1), None, MetricSet({})), **parts)


DATA = adapt(torch.zeros(4, 1), name="dl_val")


def test_the_first_reason_to_stop_stays():
    run = make_run()
    run.stop("one")
    run.stop("two")
    assert run.stop_reason == "one"
    assert not run.interrupted


def test_an_interrupt_ends_the_epoch_too():
    run = make_run()
    run.interrupt("Ctrl-C")
    assert run.interrupted
    assert run.stop_reason == "Ctrl-C"


@pytest.mark.parametrize(("freq", "expected"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2])])
def test_validation_comes_after_every_so_many_epochs(freq, expected):
    run = make_run(val_sets={"": DATA}, validation_freq=freq)
    assert [epoch for epoch in range(4) if run.validates(epoch)] == expected


def test_without_data_there_is_no_validation():
    assert not make_run().validates(0)


def test_steps_that_a_run_does_not_have_raise():
    for name in ("train_step", "evaluate_step", "predict_step"):
        with pytest.raises(RuntimeError, match="no such step"):
            getattr(make_run(), name)(Batch(0, None))


def test_the_end_of_the_data_is_an_error_only_before_the_first_epoch():
    run = make_run()
    with pytest.raises(DataError, match="dl_val gave no batch at all"):
        run.run_dry(DATA)
    run.state.finish_epoch({"loss": 1.0})
    with pytest.raises(DataError, match="dl_val gave no batch at all"):  # an evaluation, after training
        run.run_dry(DATA)
    run.train_data = DATA
    run.run_dry(DATA)
    assert run.interrupted
    assert run.farewell() == "Stopped by the end of dl_val after epoch 1. The history keeps 1 finished epoch."


def test_what_is_logged_before_loggers_listen_is_kept_for_them():
    run, written = make_run(), []
    run.early = []
    run.log({"a": 1})
    run.writers.append(lambda step, values: written.append((step, values)))
    run.state.step = 3
    run.log_early()
    run.log({"b": 2})
    assert written == [(3, {"a": 1}), (3, {"b": 2})]


def test_it_says_what_is_to_be_shown(capsys):
    make_run(verbose=True).say("one")
    make_run(verbose=False).say("two")
    assert capsys.readouterr().out == "one\n"
