import copy
import math
import time

import pytest
import torch
from torch import nn

from kerastorch import state as state_module
from kerastorch.data import Batch
from kerastorch.metrics import MetricSet
from kerastorch.state import TrainState


def a_state(**parts):
    net = nn.Linear(2, 1)
    return TrainState(net, torch.optim.Adam(net.parameters(), lr=0.25), MetricSet({}), **parts)


def see(state, samples):
    state.metrics.update([("loss", torch.tensor(1.0), 1)], None, Batch(0, None, size=samples))


def test_counters_count_what_is_finished():
    state = a_state()
    assert (state.epoch, state.batch, state.step) == (0, 0, 0)
    state.batch, state.step = 3, 3
    state.finish_epoch({"loss": 1.0})
    assert (state.epoch, state.batch, state.step) == (1, 0, 3)
    state.batch = 3
    state.finish_epoch({"loss": 0.5})
    assert state.history.epoch == [0, 1]
    assert state.history["loss"] == [1.0, 0.5]


def test_a_fit_begins_a_history_and_goes_on_counting_steps():
    state = a_state(step=7)
    state.finish_epoch({"loss": 1.0})
    state.batch = 2
    first = state.history
    state.begin_fit(5)
    assert (state.epoch, state.batch, state.step) == (5, 0, 7)
    assert len(state.history) == 0
    assert len(first) == 1
    state.finish_epoch({"loss": 2.0})
    assert state.history.epoch == [5]


def test_two_states_share_no_history():
    one, other = a_state(), a_state()
    one.finish_epoch({"loss": 1.0})
    assert len(other.history) == 0


def test_an_epoch_begins_without_sums():
    state = a_state()
    see(state, 4)
    state.begin_epoch()
    assert state.metrics.samples == 0
    assert len(state.metrics) == 0


def test_the_speed_is_that_of_training_and_the_seconds_those_of_the_epoch(monkeypatch):
    clock = iter([10.0, 12.0, 17.0, 100.0, 100.0, 101.0])
    monkeypatch.setattr(state_module, "perf_counter", lambda: next(clock))
    state = a_state()
    state.begin_epoch()
    see(state, 4)
    see(state, 6)
    state.note_speed()
    assert state.figures() == {"lr": 0.25, "seconds": 7.0, "samples_per_second": 5.0}
    state.begin_epoch()
    state.note_speed()
    assert state.figures() == {"lr": 0.25, "seconds": 1.0, "samples_per_second": 0.0}


def test_an_epoch_of_no_time_has_a_speed(monkeypatch):
    monkeypatch.setattr(state_module, "perf_counter", lambda: 1.0)
    state = a_state()
    state.begin_epoch()
    see(state, 4)
    state.note_speed()
    assert 4 < state.figures()["samples_per_second"] < math.inf


def test_seconds_are_seconds():
    state = a_state()
    state.begin_epoch()
    time.sleep(0.01)
    assert 0.01 <= state.figures()["seconds"] < 5


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_the_learning_rate_is_that_of_the_moment(rate):
    state = a_state()
    state.optimizer.param_groups[0]["lr"] = rate
    assert type(state.figures()["lr"]) is float
    assert state.figures()["lr"] == 0.5


def test_a_net_without_an_optimizer_has_no_learning_rate():
    state = TrainState(nn.Linear(1, 1), None, MetricSet({}))
    assert list(state.figures()) == ["seconds", "samples_per_second"]
    assert state.state_dict()["optimizer"] is None


def test_a_checkpoint_holds_everything_that_training_changes():
    state = a_state(epoch=2, batch=3, step=11)
    state.module(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    state.history.append(0, {"loss": 1.0})
    found = state.state_dict()
    assert set(found) == {
        *("model", "buffers", "optimizer", "optimizers", "parts", "gradients"),
        *("progress", "metrics", "callbacks", "history"),
    }
    assert list(found["model"]) == ["weight", "bias"]
    assert torch.equal(found["model"]["weight"], state.module.weight)
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.25
    assert set(found["optimizer"]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert found["gradients"] == {}, "the next batch begins with none"
    assert found["progress"].pop("seconds") > 0
    assert found["progress"] == {"epoch": 2, "batch": 3, "step": 11, "began": 0}
    assert found["history"] == {"epoch": [0], "rows": [{"loss": 1.0}]}


def test_the_history_in_a_checkpoint_is_a_copy():
    state = a_state()
    state.finish_epoch({"loss": 1.0})
    found = state.state_dict()
    before = copy.deepcopy(found["history"])
    state.history.rows[0]["event"] = 1.0
    state.finish_epoch({"loss": 2.0})
    assert found["history"] == before


def test_a_checkpoint_can_be_loaded_without_executing_code(tmp_path):
    state = a_state()
    state.finish_epoch({"loss": 1.0})
    torch.save(state.state_dict(), tmp_path / "state.pt")
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    assert found["progress"] == {"epoch": 1, "batch": 0, "step": 0, "began": 0, "seconds": 0.0}
    assert found["history"]["rows"] == [{"loss": 1.0}]
