"""Killed anywhere, and gone on with in new objects: each callback does what it had done without.

tests/test_resume.py does the same through files, for the plain form of the most used of them.
"""

from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torchvision.transforms import v2

import kerastorch as kt
from kerastorch import callbacks as cb

EPOCHS, BATCHES = 6, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(BATCHES * 4, 1, 8, 8, generator=GENERATOR)
Y = torch.arange(BATCHES * 4) % 3
TIMES = ("seconds", "samples_per_second")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Scores(kt.Callback):
    """Writes values into the logs that become better and worse again."""

    def on_epoch_end(self, epoch, logs):
        logs["val_score_loss"] = [5.0, 3.0, 4.0, 3.5, 4.0, 2.0][epoch]


MADE = {
    "early stopping": lambda: [cb.EarlyStopping("val_score_loss", patience=3, restore_best_weights=True)],
    "plateau": lambda: [cb.ReduceLROnPlateau("val_score_loss", patience=2, cooldown=2)],
    "plateau of torch": lambda: [
        cb.LearningRateScheduler(partial(lr_scheduler.ReduceLROnPlateau, patience=0), monitor="val_score_loss")
    ],
    "function": lambda: [cb.LearningRateScheduler(lambda epoch, lr: lr * 0.8)],
    "function of the epoch": lambda: [cb.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))],
    "steps": lambda: [
        cb.LearningRateScheduler(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=25), interval="step")
    ],
    "a sequence of steps": lambda: [
        cb.LearningRateScheduler(
            lambda optimizer: lr_scheduler.SequentialLR(
                optimizer,
                [lr_scheduler.LinearLR(optimizer, total_iters=5), lr_scheduler.ExponentialLR(optimizer, 0.9)],
                [5],
            ),
            interval="step",
        )
    ],
    "warm-up": lambda: [cb.WarmupCosine(12)],
    "EMA": lambda: [cb.ExponentialMovingAverage(0.9, start=3, update_every=2, warmup=True)],
    "SWA": lambda: [cb.StochasticWeightAveraging(0.5)],
    "SWA with a rate": lambda: [cb.StochasticWeightAveraging(2, lr=0.01, anneal_epochs=2)],
    "freeze": lambda: [cb.Freeze("body", until_epoch=3)],
    "cutmix": lambda: [cb.CutMix(1.0)],
    "transform": lambda: [cb.BatchTransform(v2.RandomHorizontalFlip())],
    "watchers": lambda: [
        cb.GradientLogger(2, ratios=True),
        cb.LearningRateMonitor(1),
        cb.TerminateOnNaN(),
        cb.Timer("1h"),
        cb.Notify(str, every=1),
        cb.ProgbarLogger(),
        cb.CSVLogger("log.csv"),
        cb.JSONLogger("log.jsonl", update_freq=2),
        cb.ModelCheckpoint("{epoch}.pt", "val_score_loss", save_best_only=True),
    ],
    "profiler": lambda: [cb.Profiler()],
}


PLANS = ("steps", "a sequence of steps", "warm-up", "EMA", "SWA", "SWA with a rate")


def fit(made, *others):
    torch.manual_seed(0)
    model = kt.Model(Net())
    model.compile("cross_entropy", partial(torch.optim.SGD, lr=0.1, momentum=0.9), ["accuracy"])
    try:
        model.fit(EPOCHS, (X, Y), (X, Y), callbacks=[*made, Scores(), *others], verbose=0, batch_size=4, shuffle=False)
    except BaseException as error:
        if type(error).__name__ != "Killed":
            raise
    return model


@cache
def whole(name):
    return fit(MADE[name]())


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def without_times(history):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history.rows]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.filterwarnings("ignore:GradientLogger finds no logger")
@pytest.mark.parametrize(
    ("name", "place"),
    [(name, place) for name in MADE for place in [(2, 3), (2, None), (3, 4)]]
    + [(name, place) for name in PLANS for place in [(0, 1), (5, None)]],
)
def test_killed_and_gone_on_with_is_as_if_not(name, place, killing):
    expected, killed = whole(name), killing.Kill(*place)
    fit(MADE[name](), killed)
    if killed.content is None:
        assert name == "early stopping"  # it has ended before
        return
    model = fit(MADE[name](), *killing.going_on(killed))
    assert without_times(model.history) == without_times(expected.history)
    assert model.history.epoch == expected.history.epoch
    assert same(dict(model.state_dict()), dict(expected.state_dict()))
    assert same(model.optimizer.state_dict(), expected.optimizer.state_dict())
