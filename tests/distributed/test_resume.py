"""A training that was stopped goes on in another number of processes, with the weights that it would have had."""

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import shards
from tests.distributed.together import needs_fsdp, together


class Stops(kt.Callback):
    """Ends the training in the middle of its second epoch."""

    def on_train_batch_end(self, batch, logs):
        if (self.run.state.epoch, batch) == (1, 1):
            self.run.interrupt("the test")


def train(directory, strategy, *, stops=False, callbacks=(), epochs=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(100, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (100,), generator=generator)
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double())
    model.compile("cross_entropy", "adamw", ["accuracy"], device="cpu", strategy=strategy)
    backup = [] if directory is None else [kt.callbacks.BackupAndRestore(directory)]
    more = [kt.callbacks.ExponentialMovingAverage(0.9)] if callbacks else []
    history = model.fit(
        epochs,
        (x, y),
        (x, y),
        global_batch_size=24,
        seed=3,
        verbose=0,
        callbacks=[*backup, *more, *([Stops()] if stops else [])],
    )
    state = model.state_dict()
    weights = {name: (v.full_tensor() if shards.is_shard(v) else v).detach().clone() for name, v in state.items()}
    return weights, {name: history[name] for name in history.rows[0] if "second" not in name} if history.rows else {}


def several(size, directory, strategy, **more):
    if size == 1:
        return train(directory, strategy, **more)
    found = together(size, _train, directory, strategy, more)
    assert all(torch.equal(found[0][0][name], each[0][name]) for each in found for name in each[0])
    return found[0]


def _train(directory, strategy, more):
    return train(directory, strategy, **more)


@pytest.mark.filterwarnings("ignore:.*processes was")
@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=needs_fsdp)])
def test_a_stopped_training_goes_on_in_another_number_of_processes(strategy, before, after, averages, tmp_path):
    several(before, tmp_path / "b", strategy, stops=True, callbacks=averages)
    weights, history = several(after, tmp_path / "b", strategy, callbacks=averages)
    wanted, expected = several(1, None, None, callbacks=averages)
    assert list(history) == list(expected)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, abs=1e-9), name
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9)
