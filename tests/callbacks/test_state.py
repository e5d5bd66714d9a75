"""What callbacks keep in a checkpoint, read from a real file into new objects, is enough to go on exactly."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import kerastorch as kt
from kerastorch.callbacks import (
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)

X, Y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 1)
LOSSES = [9.0, 5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0]


def fit(make, scripted, first, last, path=None, content=None):
    """Train from an epoch to another, from a checkpoint if there is one; return model, callback and rates."""
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.compile("mse", optimizer)
    callback = make(optimizer)
    rates = []
    looks = LambdaCallback(on_train_batch_end=lambda batch, logs: rates.append(optimizer.param_groups[0]["lr"]))
    others = [scripted(val_loss=LOSSES), looks]
    if path is not None:
        others.append(ModelCheckpoint(path))
    if content is not None:
        load = LambdaCallback(on_train_begin=lambda logs: restore(content, model, callback))
        load.stage = "checkpoint"  # the callback has forgotten the last fit, and a new scheduler has set its rate
        others.append(load)
    model.fit(last, (X, Y), batch_size=4, initial_epoch=first, callbacks=[callback, *others], verbose=0)
    return model, callback, rates


def restore(content, model, callback):
    model.load_state_dict(content["model"])
    model.optimizer.load_state_dict(content["optimizer"])
    callback.load_state_dict(content["callbacks"][type(callback).__name__])


MADE = {
    "early stopping": lambda optimizer: EarlyStopping(patience=4, restore_best_weights=True),
    "plateau": lambda optimizer: ReduceLROnPlateau(patience=2, cooldown=2),
    "a function": lambda optimizer: LearningRateScheduler(lambda epoch, lr: lr * 0.9),
    "epochs": lambda optimizer: LearningRateScheduler(lr_scheduler.MultiStepLR(optimizer, [2, 4])),
    "steps": lambda optimizer: LearningRateScheduler(
        partial(lr_scheduler.CosineAnnealingLR, T_max=20), interval="step"
    ),
    "a sequence": lambda optimizer: LearningRateScheduler(
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], [3]
        ),
    ),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_training_in_two_parts_equals_one(tmp_path, scripted, name, stop):
    whole, callback, rates = fit(MADE[name], scripted, 0, 8)
    _, _, before = fit(MADE[name], scripted, 0, stop, tmp_path / "last.pt")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    model, again, after = fit(MADE[name], scripted, stop, 8, content=content)
    assert before + after == rates
    for mine, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
    if isinstance(again, EarlyStopping):
        assert again.best_epoch == callback.best_epoch == 1
        assert again.stopped_epoch == callback.stopped_epoch == 5
