from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, LearningRateMonitor, LearningRateScheduler


class Writer(kt.Callback):
    """A logger that keeps what it is given."""

    stage = "logger"

    def __init__(self):
        self.written = []

    def on_train_begin(self, logs):
        self.run.writers.append(lambda step, values: self.written.append((step, dict(values))))


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def fit(optimizer, *callbacks, epochs=2, kind=kt.Model):
    net = make()
    model, writer = kind(net), Writer()
    model.compile("mse", optimizer(net))
    data = (torch.ones(8, 2), torch.zeros(8, 1))
    history = model.fit(epochs, data, batch_size=2, verbose=0, callbacks=[*callbacks, writer])
    return history, writer.written


def one(net):
    return torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)


def two(net, first=None, second=None):
    groups = [{"params": net[0].parameters()}, {"params": net[1].parameters(), "lr": 0.5}]
    for group, name in zip(groups, (first, second), strict=True):
        group.update({} if name is None else {"name": name})
    return torch.optim.AdamW(groups, lr=0.25, betas=(0.8, 0.99))


halved = partial(LearningRateScheduler, lambda epoch, lr: 0.5**epoch * 0.1)


def test_one_rate_goes_to_the_loggers_as_lr():
    history, written = fit(one, LearningRateMonitor(), halved())
    assert written == [(4, {"lr": 0.1}), (8, {"lr": 0.05})]
    assert history["lr"] == [0.1, 0.05]
    assert [name for name in history if name.startswith("lr")] == ["lr"]


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ((None, None), ["lr_0", "lr_1"]),
        (("backbone", "head"), ["lr_backbone", "lr_head"]),
        ((None, "head"), ["lr_0", "lr_head"]),
        (("a", "a"), ["lr_0", "lr_1"]),
    ],
)
def test_several_groups_have_a_column_each(names, columns):
    history, written = fit(partial(two, first=names[0], second=names[1]), LearningRateMonitor())
    assert [history[name] for name in columns] == [[0.25] * 2, [0.5] * 2]
    assert [name for name in history if name.startswith("lr_")] == columns
    assert written == [(step, dict(zip(columns, (0.25, 0.5), strict=True))) for step in (4, 8)]


@pytest.mark.parametrize("place", [0, 1])
def test_an_epoch_has_the_rate_it_was_trained_with(place):
    schedule = LearningRateScheduler(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5))
    callbacks = [schedule]
    callbacks.insert(place, LearningRateMonitor())
    history, written = fit(two, *callbacks)
    assert history["lr"] == history["lr_0"] == [0.25, 0.125]
    assert [values["lr_1"] for _, values in written] == [0.5, 0.25]


def test_steps_have_the_rate_they_were_made_with():
    used = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            used.append((self.param_groups[0]["lr"], self.param_groups[0]["momentum"]))
            return super().step(closure)

    schedule = LearningRateScheduler(partial(OneCycleLR, max_lr=0.1, total_steps=9), interval="step")
    monitor = LearningRateMonitor(3, momentum=True)
    _, written = fit(lambda net: Watched(net.parameters(), 0.1, momentum=0.9), monitor, schedule)
    assert written == [(step, {"lr": used[step - 1][0], "momentum": used[step - 1][1]}) for step in (3, 6)]


def test_momentum_is_the_first_beta_where_there_are_betas():
    history, written = fit(two, LearningRateMonitor(momentum=True), epochs=1)
    assert written == [(4, {"lr_0": 0.25, "lr_1": 0.5, "momentum_0": 0.8, "momentum_1": 0.8})]
    assert history["momentum_1"] == [0.8]
    history, _ = fit(lambda net: torch.optim.Adagrad(net.parameters()), LearningRateMonitor(momentum=True))
    assert "momentum" not in history


def test_a_rate_that_is_a_tensor_is_read_as_it_was():
    rate = torch.tensor(0.25)
    change = LambdaCallback(on_epoch_end=lambda epoch, logs: rate.fill_(0.125))
    _, written = fit(lambda net: torch.optim.Adam(net.parameters(), lr=rate), LearningRateMonitor(), change)
    assert written == [(4, {"lr": 0.25}), (8, {"lr": 0.125})]


def test_an_optimizer_of_the_users_own_is_not_known():
    class Own(kt.Model):
        def train_step(self, batch):
            return {"loss": 1.0}

    history, written = fit(lambda net: None, LearningRateMonitor(momentum=True), LearningRateMonitor(2), kind=Own)
    assert written == []
    assert "lr" not in history


@pytest.mark.parametrize("every", [0, -1, 0.5, "batch", True])
def test_every_is_checked(every):
    with pytest.raises(ValueError, match="every is 'epoch', or a number of steps, 1 or more"):
        LearningRateMonitor(every)


def test_repr_is_the_call():
    assert repr(LearningRateMonitor()) == "LearningRateMonitor('epoch', momentum=False)"
    assert repr(LearningRateMonitor(10, momentum=True)) == "LearningRateMonitor(10, momentum=True)"
