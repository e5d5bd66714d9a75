import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import kerastorch as kt
from kerastorch.callbacks import EarlyStopping, LambdaCallback, LearningRateScheduler

GENERATOR = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 2, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(5)]


def make_model(lr=0.1):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=lr))
    return model


def fit(schedule, *others, epochs=3, model=None, **options):
    model = model or make_model()
    callback = schedule if isinstance(schedule, LearningRateScheduler) else LearningRateScheduler(schedule, **options)
    model.fit(epochs, DATA, callbacks=[callback, *others], verbose=0)
    return model


def rate(model):
    return model.optimizer.param_groups[0]["lr"]


def by_hand(make_scheduler, interval, *, epochs=3):
    """Train as a loop would; return the weight, the rates of the last step of each epoch, and the scheduler."""
    net = make_model().net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler, rates = make_scheduler(optimizer), []
    for _ in range(epochs):
        for x, y in DATA:
            loss = nn.functional.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            used = optimizer.param_groups[0]["lr"]
            if interval == "step":
                scheduler.step()
        if interval == "epoch":
            scheduler.step()
        rates.append(used)
    return net.weight, rates, scheduler


@pytest.mark.parametrize(
    "schedule",
    [
        lambda epoch: 0.1 / (epoch + 1),
        lambda epoch, lr: 0.1 / (epoch + 1),
        lambda epoch, scale=0.1: scale / (epoch + 1),
        functools.partial(lambda scale, epoch: scale / (epoch + 1), 0.1),
        lambda *arguments: 0.1 / (arguments[0] + 1) if len(arguments) == 2 else None,
        lambda epoch: torch.tensor(0.1, dtype=torch.float64) / (epoch + 1),
        lambda epoch: np.float64(0.1) / (epoch + 1),
    ],
)
def test_a_function_gives_the_rate_of_each_epoch(schedule):
    model = fit(schedule)
    assert model.history["lr"] == pytest.approx([0.1, 0.05, 0.1 / 3])
    assert rate(model) == pytest.approx(0.1 / 3)
    assert type(model.history["lr"][0]) is float


@pytest.mark.parametrize("schedule", [lambda epoch, lr: lr / 2, lambda epoch, learning_rate=None: learning_rate / 2])
def test_a_function_may_start_from_the_present_rate(schedule):
    assert fit(schedule, epochs=2).history["lr"] == pytest.approx([0.05, 0.025])


def test_something_built_in_takes_the_epoch():
    assert fit(int, epochs=2).history["lr"] == [0.0, 1.0]


def test_a_whole_number_is_a_rate_too():
    assert fit(lambda epoch: 0 if epoch else 1, epochs=2).history["lr"] == [1.0, 0.0]


def test_other_groups_keep_their_ratio_also_after_zero():
    model = kt.Model(nn.Linear(2, 1))
    groups = [{"params": [model.net.weight], "lr": 0.1}, {"params": [model.net.bias], "lr": 0.5}]
    model.compile("mse", torch.optim.SGD(groups))
    seen = []
    note = LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append([group["lr"] for group in model.optimizer.param_groups])
    )
    callback = LearningRateScheduler(lambda epoch: [0.2, 0.0, 0.1][epoch])
    fit(callback, note, model=model)
    assert seen == [pytest.approx(pair) for pair in ([0.2, 1.0], [0.0, 0.0], [0.1, 0.5])]
    assert callback.ratios == pytest.approx([1.0, 5.0])


def test_an_error_inside_the_function_is_not_hidden():
    def schedule(epoch, lr):
        return lr + "wrong"

    with pytest.raises(TypeError, match="unsupported operand"):
        fit(schedule)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "must return the learning rate, a number; for epoch 0 it returned None"),
        ([0.1], TypeError, "must return the learning rate"),
        (math.nan, ValueError, "A learning rate is a number from 0; for epoch 0 the schedule returned nan"),
        (-0.1, ValueError, "A learning rate is a number from 0"),
    ],
)
def test_what_is_no_rate_is_an_error(value, error, message):
    with pytest.raises(error, match=message):
        fit(lambda epoch: value)


@pytest.mark.parametrize("schedule", [0.1, "cosine", None])
def test_what_is_no_schedule_is_an_error(schedule):
    with pytest.raises(TypeError, match=r"schedule is a function f\(epoch, lr\) or f\(epoch\), or a scheduler"):
        LearningRateScheduler(schedule)


SCHEDULERS = [
    functools.partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    functools.partial(lr_scheduler.CosineAnnealingLR, T_max=20),
    functools.partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=15),
    functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (step + 1)),
]


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("make_scheduler", SCHEDULERS, ids=["step", "cosine", "cycle", "lambda"])
def test_a_scheduler_of_torch_does_what_it_does_in_a_loop_written_by_hand(make_scheduler, interval):
    weight, rates, expected = by_hand(make_scheduler, interval)
    model = make_model()
    given = make_scheduler(model.optimizer)
    fit(given, model=model, interval=interval)
    built = LearningRateScheduler(make_scheduler, interval=interval)
    for trained, scheduler in ((model, given), (fit(built), built.scheduler)):
        assert torch.equal(trained.net.weight, weight)
        assert trained.history["lr"] == rates
        assert scheduler.last_epoch == expected.last_epoch
        assert rate(trained) == expected.optimizer.param_groups[0]["lr"]


def test_the_order_of_callbacks_does_not_change_what_is_logged():
    seen = []
    before = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["lr"]))
    model = make_model()
    callback = LearningRateScheduler(SCHEDULERS[0], interval="step")
    model.fit(3, DATA, callbacks=[before, callback, before], verbose=0)
    assert seen[::2] == seen[1::2] == model.history["lr"]


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_second_fit_goes_on(interval):
    weight, rates, expected = by_hand(SCHEDULERS[1], interval, epochs=5)
    callback = LearningRateScheduler(SCHEDULERS[1], interval=interval)
    model = fit(callback, epochs=2)
    fit(callback, model=model, epochs=3)
    assert torch.equal(model.net.weight, weight)
    assert model.history["lr"] == rates[2:]
    assert callback.scheduler.last_epoch == expected.last_epoch


def test_for_a_new_optimizer_a_new_scheduler_is_built():
    callback = LearningRateScheduler(SCHEDULERS[0])
    model = fit(callback, epochs=4)
    first = callback.scheduler
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    fit(callback, model=model, epochs=1)
    assert callback.scheduler is not first
    assert callback.scheduler.last_epoch == 1


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_each_step_of_the_optimizer_is_followed_by_one_whatever_ends_training(error, first, capsys):
    callback = LearningRateScheduler(SCHEDULERS[1], interval="step")

    def end(batch, logs):
        if batch == 2:
            if error:
                raise error
            callback.run.interrupt("Ctrl-C")

    model, ends = make_model(), LambdaCallback(on_train_batch_end=end)
    callbacks = [ends, callback] if first else [callback, ends]
    if error:
        with pytest.raises(error):
            model.fit(1, DATA, callbacks=callbacks, verbose=0)
    else:
        model.fit(1, DATA, callbacks=callbacks, verbose=0)
    assert callback.scheduler.last_epoch == 3
    model.fit(1, DATA, callbacks=[callback], verbose=0)
    assert callback.scheduler.last_epoch == 8


def test_an_evaluation_that_fails_in_between_changes_nothing():
    callback = LearningRateScheduler(SCHEDULERS[1], interval="step")
    model = make_model()

    def evaluate(epoch, logs):
        with pytest.raises(ZeroDivisionError):
            model.evaluate(DATA, callbacks=[callback, LambdaCallback(on_test_begin=lambda logs: 1 / 0)])

    fit(callback, LambdaCallback(on_epoch_begin=evaluate, on_epoch_end=evaluate), model=model)
    weight, rates, scheduler = by_hand(SCHEDULERS[1], "step")
    assert torch.equal(model.net.weight, weight)
    assert model.history["lr"] == rates
    assert callback.scheduler.last_epoch == scheduler.last_epoch


def test_one_that_is_made_for_too_few_steps_says_so_once():
    callback = LearningRateScheduler(
        functools.partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=7), interval="step"
    )
    with pytest.raises(ValueError, match="Tried to step 8 times"):
        fit(callback)
    assert callback.scheduler.last_epoch <= 8


def test_it_is_stepped_in_the_epoch_that_stops_too(scripted):
    callback = LearningRateScheduler(SCHEDULERS[0])
    make_model().fit(5, DATA, callbacks=[scripted(val_loss=[1.0, 2.0, 3.0]), EarlyStopping(), callback], verbose=0)
    assert callback.scheduler.last_epoch == 2


def test_a_scheduler_of_another_optimizer_is_reported():
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = lr_scheduler.StepLR(other, 1)
    other.step()
    with pytest.warns(UserWarning, match=r"StepLR was made for another optimizer.*StepLR\(model\.optimizer"):
        fit(scheduler, epochs=1)


def test_steps_of_ones_own_are_scheduled_too():
    class Own(kt.Model):
        def train_step(self, batch):
            loss = nn.functional.mse_loss(self(batch.x), batch.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    for schedule, interval in ((lambda epoch, lr: lr / 2, "epoch"), (SCHEDULERS[0], "step")):
        torch.manual_seed(0)
        model = Own(nn.Linear(2, 1))
        model.compile(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        fit(LearningRateScheduler(schedule, interval=interval), model=model)
        if interval == "step":
            weight, rates, _ = by_hand(schedule, interval)
            assert torch.equal(model.net.weight, weight)
            assert model.history["lr"] == rates
        else:
            assert model.history["lr"] == [0.05, 0.025, 0.0125]


def test_an_optimizer_of_ones_own_step_may_be_scheduled():
    class Own(kt.Model):
        def train_step(self, batch):
            self.another.step()
            return {"loss": 0.0}

    model = Own(nn.Linear(2, 1))
    model.another = torch.optim.SGD(model.parameters(), lr=1.0)
    model.compile()
    fit(lr_scheduler.ExponentialLR(model.another, 0.5), model=model)
    assert model.another.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_scheduler_of_torch_that_needs_a_value_is_refused(interval):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau
    for schedule in (plateau, plateau(optimizer)):
        with pytest.raises(
            TypeError, match=r"must be told a value\. Type LearningRateScheduler\(\.\.\., monitor='val_loss'\)"
        ):
            LearningRateScheduler(schedule, interval=interval)
    with pytest.raises(
        TypeError, match=r"must be told a value\. Type LearningRateScheduler\(\.\.\., monitor='val_loss'\)"
    ):
        fit(functools.partial(plateau, patience=3), interval=interval)


def test_what_builds_no_scheduler_is_an_error():
    def build(optimizer):
        return optimizer

    with pytest.raises(TypeError, match="build must return a scheduler"):
        fit(build)


def test_a_function_has_one_rate_per_epoch():
    with pytest.raises(ValueError, match="For one per step: LambdaLR of torch"):
        LearningRateScheduler(lambda step: 0.1, interval="step")
    with pytest.raises(ValueError, match="interval is 'epoch' or 'step'; got 'batch'"):
        LearningRateScheduler(lambda epoch: 0.1, interval="batch")


@pytest.mark.parametrize(
    "schedule", [lambda epoch, lr: lr / 2, functools.partial(lr_scheduler.ExponentialLR, gamma=0.5)]
)
def test_it_says_what_it_does(schedule, capsys):
    fit(schedule, epochs=2, verbose=1)
    first = "0.050" if isinstance(schedule, type(lambda: 0)) else "0.100"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Epoch 1: the learning rate is {first}."
    assert len(lines) == 2


def test_repr_is_the_call():
    def warm_up(epoch):
        return 0.1

    assert (
        repr(LearningRateScheduler(warm_up))
        == "LearningRateScheduler(warm_up, interval='epoch', monitor=None, verbose=0)"
    )
    scheduler = lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), 1)
    assert repr(LearningRateScheduler(scheduler, interval="step")).startswith(
        "LearningRateScheduler(StepLR(...), inter"
    )


def test_a_group_that_rests_goes_on_resting_and_a_new_one_keeps_its_ratio():
    first, second, third = (torch.nn.Linear(2, 1) for _ in range(3))
    model = kt.Model(torch.nn.ModuleList([first, second, third]))
    model.net.forward = lambda x: first(x) + second(x) + third(x)
    groups = [{"params": first.parameters(), "lr": 0.0}, {"params": second.parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    third.requires_grad_(False)
    model.compile("mse", optimizer)
    seen = []

    class Adds(kt.Callback):
        def on_epoch_begin(self, epoch, logs):
            if epoch == 1:
                third.requires_grad_(True)
                optimizer.add_param_group({"params": third.parameters(), "lr": 0.02})

        def on_train_batch_end(self, batch, logs):
            seen.append([group["lr"] for group in optimizer.param_groups])

    schedule = LearningRateScheduler(lambda epoch, lr: 0.5 * lr)
    model.fit(2, (torch.randn(4, 2), torch.randn(4, 1)), callbacks=[Adds(), schedule], verbose=0)
    assert seen == [[0.0, 0.1], [0.0, 0.05, pytest.approx(0.01)]]


class TwoOptimizers(kt.Model):
    """A step of its own, as that of a GAN."""

    def __init__(self, net):
        super().__init__(net)
        self.mine = torch.optim.SGD(net.parameters(), lr=0.5)

    def train_step(self, batch):
        loss = (self(batch.x) - batch.y).square().mean()
        self.mine.zero_grad()
        loss.backward()
        self.mine.step()
        return {"loss": loss}


def test_a_schedule_that_acts_on_another_optimizer_than_the_models_own_says_so():
    model = TwoOptimizers(torch.nn.Linear(2, 1))
    model.compile()
    data = (torch.randn(4, 2), torch.randn(4, 1))
    with pytest.warns(UserWarning, match=r"acts on model\.optimizer, but this model has optimizers of its own: mine\."):
        model.fit(1, data, callbacks=[LearningRateScheduler(lambda epoch: 0.1)], verbose=0)
    model.compile()
    right = LearningRateScheduler(torch.optim.lr_scheduler.StepLR(model.mine, 1))
    model.fit(2, data, callbacks=[right], verbose=0)
    assert model.mine.param_groups[0]["lr"] == pytest.approx(0.005)


@pytest.mark.parametrize("make", ["object", "factory"])
def test_the_scheduler_of_torch_that_needs_a_value_is_told_it(make):
    losses = [3.0, 2.0, 2.5, 2.5, None, 2.5, 1.0, 1.5]
    model = kt.Model(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.compile("mse", optimizer)
    plateau = functools.partial(lr_scheduler.ReduceLROnPlateau, patience=1, factor=0.5)
    schedule = plateau(optimizer) if make == "object" else plateau
    data = (torch.randn(4, 2), torch.randn(4, 1))
    callback = LearningRateScheduler(schedule, monitor="val_loss")

    class Adds(kt.Callback):  # after the schedule in the list, and all the same before it
        def on_epoch_end(self, epoch, logs):
            if losses[epoch] is not None:
                logs["val_loss"] = losses[epoch]

    with pytest.warns(UserWarning, match="There is no 'val_loss' to monitor"):
        history = model.fit(8, data, callbacks=[callback, Adds()], verbose=0)
    by_hand = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    expected, scheduler = [], plateau(by_hand)
    for value in losses:
        expected.append(by_hand.param_groups[0]["lr"])
        if value is not None:
            scheduler.step(value)
    assert history["lr"] == expected
    assert expected[-1] < 1


def test_a_value_for_a_scheduler_that_takes_none_is_an_error():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for schedule in (lambda epoch: 0.1, lr_scheduler.StepLR(optimizer, 1)):
        with pytest.raises(TypeError, match=r"monitor='loss' is for ReduceLROnPlateau of torch"):
            LearningRateScheduler(schedule, monitor="loss")
    with pytest.raises(ValueError, match=r"monitor is a value of an epoch; leave out interval='step'"):
        LearningRateScheduler(lr_scheduler.ReduceLROnPlateau, monitor="loss", interval="step")
    model = kt.Model(torch.nn.Linear(2, 1))
    model.compile("mse", "sgd")
    callback = LearningRateScheduler(functools.partial(lr_scheduler.StepLR, step_size=1), monitor="loss")
    with pytest.raises(TypeError, match=r"StepLR\(\.\.\.\) is told no value"):
        model.fit(1, (torch.randn(4, 2), torch.randn(4, 1)), callbacks=[callback], verbose=0)
