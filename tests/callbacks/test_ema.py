import contextlib
import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import kerastorch as kt
from kerastorch.callbacks import (
    EarlyStopping,
    ExponentialMovingAverage,
    LambdaCallback,
    ModelCheckpoint,
    StochasticWeightAveraging,
    SwapEMAWeights,
)
from kerastorch.callbacks.averages import Averages

GENERATOR = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 2, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(5)]
VALIDATION = [(torch.randn(4, 2, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(2)]


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.2), nn.Linear(3, 1))


def make_model(net=None):
    model = kt.Model(make_net() if net is None else net)
    model.compile("mse", lambda parameters: torch.optim.Adam(parameters, lr=0.05))
    torch.manual_seed(1)
    return model


def state(module):
    return copy.deepcopy(dict(module.state_dict()))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def by_hand(epochs=3, decay=0.9, wanted=lambda step: True):
    """Return the raw states and those of torch's averaged model after each step, in training with dropout."""
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    torch.manual_seed(1)
    raw, averages = [], []
    for step in range(epochs * len(DATA)):
        x, y = DATA[step % len(DATA)]
        loss = nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if wanted(step):
            averaged.update_parameters(net)
        raw.append(state(net))
        averages.append(state(averaged.module) | {"1.num_batches_tracked": net[1].num_batches_tracked.clone()})
    return raw, averages


class Seen(kt.Callback):
    """Keeps the state of the net at every hook that it is told of."""

    def __init__(self, *hooks, stage="ordinary"):
        self.stage = stage
        self.states = {hook: [] for hook in hooks}
        for hook in hooks:
            setattr(self, hook, lambda *_, hook=hook: self.states[hook].append(state(self.run.state.module)))


def test_it_equals_the_averaged_model_of_torch():
    raw, averages = by_hand()
    model, seen = make_model(), Seen("on_train_batch_end", "on_test_batch_begin")
    model.fit(3, DATA, VALIDATION, callbacks=[ExponentialMovingAverage(0.9), seen], verbose=0)
    assert all(equal(*pair) for pair in zip(seen.states["on_train_batch_end"], raw, strict=True))
    ends = [average for average in averages[4::5] for _ in VALIDATION]
    assert all(equal(*pair) for pair in zip(seen.states["on_test_batch_begin"], ends, strict=True))
    assert equal(state(model), averages[-1])


def test_training_is_the_same_as_without():
    plain, seen_plain = make_model(), Seen("on_train_batch_end")
    plain_history = plain.fit(3, DATA, VALIDATION, callbacks=[seen_plain], verbose=0)
    model, seen = make_model(), Seen("on_train_batch_end")
    inside = LambdaCallback(on_epoch_end=lambda epoch, logs: model.evaluate(VALIDATION))
    history = model.fit(
        3, DATA, VALIDATION, callbacks=[ExponentialMovingAverage(0.9, swap_at_end=False), seen, inside], verbose=0
    )
    pairs = zip(seen_plain.states["on_train_batch_end"], seen.states["on_train_batch_end"], strict=True)
    assert all(equal(*pair) for pair in pairs)
    assert history["loss"] == plain_history["loss"]
    assert history["val_loss"] != plain_history["val_loss"]
    assert equal(state(plain), state(model))
    assert equal(plain.optimizer.state_dict()["state"][0], model.optimizer.state_dict()["state"][0])


def test_update_every_and_start_choose_the_steps():
    _, averages = by_hand(wanted=lambda step: step >= 4 and (step - 4) % 3 == 2)
    model, callback = make_model(), ExponentialMovingAverage(0.9, update_every=3, start=4)
    model.fit(3, DATA, callbacks=[callback], verbose=0)
    assert callback.updates == 3
    assert equal(state(model), averages[-1])


def test_warmup_forgets_the_beginning_sooner():
    raw, _ = by_hand(epochs=1)
    expected = raw[0]["0.weight"].clone()
    for count, weights in enumerate(raw[1:], 1):
        expected.lerp_(weights["0.weight"], 1 - min(0.999, (1 + count) / (10 + count)))
    model = make_model()
    model.fit(1, DATA, callbacks=[ExponentialMovingAverage(warmup=True)], verbose=0)
    assert torch.equal(model.net[0].weight, expected)


def test_hooks_see_the_averages_and_the_nets_own_in_turn():
    raw, averages = by_hand(epochs=2)
    early = Seen("on_epoch_end", "on_test_begin", "on_test_end", "on_epoch_begin", "on_train_begin")
    late = Seen("on_epoch_end", "on_epoch_begin", stage="monitor")
    after = Seen("on_train_end")
    model = make_model()
    model.fit(2, DATA, VALIDATION, callbacks=[early, late, after, ExponentialMovingAverage(0.9)], verbose=0)
    assert equal(early.states["on_epoch_end"][0], raw[4])  # ordinary callbacks come before weights are changed
    assert equal(late.states["on_epoch_end"][0], averages[4])
    assert equal(late.states["on_epoch_begin"][1], raw[4])
    assert equal(after.states["on_train_end"][0], averages[-1])


def test_a_checkpoint_holds_what_was_validated(tmp_path):
    model = make_model()
    save = ModelCheckpoint(tmp_path / "{epoch}.pt", save_weights_only=True)
    history = model.fit(2, DATA, VALIDATION, callbacks=[save, ExponentialMovingAverage(0.9)], verbose=0)
    for epoch in (2, 1):
        model.load_weights(tmp_path / f"{epoch}.pt")
        assert model.evaluate(VALIDATION)["loss"] == history["val_loss"][epoch - 1]


WAYS = {
    "stop": ("on_train_batch_end", lambda run: run.stop("the test")),
    "interrupt": ("on_train_batch_end", lambda run: run.interrupt("the test")),
    "error": ("on_train_batch_end", lambda run: run.undefined),
    "interrupt in validation": ("on_test_batch_end", lambda run: run.interrupt("the test")),
    "error in validation": ("on_test_batch_end", lambda run: run.undefined),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_averages_are_kept_however_training_ends(way):
    _, averages = by_hand()
    hook, end = WAYS[way]
    last = 8 if hook == "on_train_batch_end" else 10
    model = make_model()
    ending = LambdaCallback(**{hook: lambda *_: end(ending.run) if ending.run.state.step == last else None})
    ending.stage = "monitor"
    ends = pytest.raises(AttributeError, match="undefined") if "error" in way else contextlib.nullcontext()
    with ends:
        model.fit(3, DATA, VALIDATION, callbacks=[ExponentialMovingAverage(0.9), ending], verbose=0)
    assert equal(state(model), averages[last - 1])


@pytest.mark.parametrize("fails", [False, True])
def test_early_stopping_restores_the_averages_of_the_best_epoch(fails):
    _, averages = by_hand()

    class Script(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["val_loss"] = [2.0, 1.0, 3.0][epoch]

        def on_train_batch_begin(self, batch, logs):
            if fails and self.run.state.step == 13:
                raise RuntimeError("the test")

    model = make_model()
    callbacks = [EarlyStopping(restore_best_weights=True), Script(), ExponentialMovingAverage(0.9)]
    if fails:
        with pytest.raises(RuntimeError):
            model.fit(5, DATA, callbacks=callbacks, verbose=0)
    else:
        assert len(model.fit(5, DATA, callbacks=callbacks, verbose=0)) == 3
    assert equal(state(model), averages[9])


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("given", [False, True])
def test_an_evaluation_inside_fit_uses_the_averages(hook, given):
    _, averages = by_hand(epochs=1)
    model, average = make_model(), ExponentialMovingAverage(0.9)
    results = []

    def use(*arguments):
        callbacks = [average] if given else None
        own = state(model)
        results.append((model.evaluate(VALIDATION, callbacks=callbacks), model.predict(VALIDATION)))
        assert equal(state(model), own)
        assert average.run.trains

    using = LambdaCallback(**{hook: use})
    using.stage = "monitor"
    model.fit(1, DATA, callbacks=[using, average], verbose=0)
    steps = range(5) if hook == "on_train_batch_end" else [4]
    for step, (values, outputs) in zip(steps, results, strict=True):
        model.load_state_dict(averages[step])
        assert model.evaluate(VALIDATION) == values
        assert torch.equal(model.predict(VALIDATION), outputs)


@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_one_that_fails_inside_fit_leaves_the_nets_own_weights(what):
    raw, averages = by_hand(epochs=2)
    model = make_model()

    class Fails(kt.Callback):
        def on_test_batch_begin(self, batch, logs):
            raise RuntimeError("the test")

        on_predict_batch_begin = on_test_batch_begin

    def use(batch, logs):
        with pytest.raises(RuntimeError, match="the test"):
            getattr(model, what)(VALIDATION, callbacks=[Fails()])
        assert equal(state(model), raw[model._session.state.step - 1])

    model.fit(2, DATA, callbacks=[LambdaCallback(on_train_batch_end=use), ExponentialMovingAverage(0.9)], verbose=0)
    assert equal(state(model), averages[-1])


def test_predict_afterwards_replaces_nothing():
    model, callback = make_model(), ExponentialMovingAverage(0.9, swap_at_end=False)
    model.fit(2, DATA, callbacks=[callback], verbose=0)
    raw, (all_raw, averages) = state(model), by_hand(epochs=2)
    assert equal(raw, all_raw[-1])
    values = model.evaluate(VALIDATION, callbacks=[callback])
    outputs = model.predict(VALIDATION, callbacks=[callback])
    assert equal(state(model), raw)
    assert values != model.evaluate(VALIDATION)
    model.load_state_dict(averages[-1])
    assert values == model.evaluate(VALIDATION)
    assert torch.equal(outputs, model.predict(VALIDATION))


def test_another_net_is_left_alone():
    callback = ExponentialMovingAverage(0.9, swap_at_end=False)
    make_model().fit(1, DATA, callbacks=[callback], verbose=0)
    other = make_model()
    assert other.evaluate(VALIDATION, callbacks=[callback]) == other.evaluate(VALIDATION)
    assert ExponentialMovingAverage().state_dict() == {"steps": 0, "updates": 0, "averages": {}}
    fresh = ExponentialMovingAverage()
    assert other.evaluate(VALIDATION, callbacks=[fresh]) == other.evaluate(VALIDATION)


def test_an_evaluation_that_fails_before_it_begins():
    model, callback = make_model(), ExponentialMovingAverage(0.9, swap_at_end=False)
    model.fit(1, DATA, callbacks=[callback], verbose=0)
    raw = state(model)
    with pytest.raises(ValueError, match="nowhere"):
        model.evaluate(VALIDATION, callbacks=[callback, kt.callbacks.DeviceTransfer("nowhere")])
    assert equal(state(model), raw)
    with pytest.raises(ValueError, match="nowhere"):
        model.evaluate(VALIDATION, callbacks=[ExponentialMovingAverage(), kt.callbacks.DeviceTransfer("nowhere")])


def test_a_second_fit_begins_anew():
    model, callback = make_model(), ExponentialMovingAverage(0.9)
    model.fit(2, DATA, callbacks=[callback], verbose=0)
    model.fit(1, DATA[:1], callbacks=[callback], verbose=0)
    assert callback.updates == 1
    raw = state(model)
    model.fit(1, DATA[:1], callbacks=[LambdaCallback(on_epoch_begin=lambda *_: None)], verbose=0)
    assert not equal(raw, state(model))


def test_it_says_what_the_net_has(capsys):
    model = make_model()
    model.fit(1, DATA, callbacks=[ExponentialMovingAverage(0.9)], verbose=2)
    assert "The weights are the exponential moving average of 5 updates." in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r"after 5 steps, before the first average: start=100, update_every=1"):
        model.fit(1, DATA, VALIDATION, callbacks=[ExponentialMovingAverage(start=100)], verbose=2)
    assert "average of" not in capsys.readouterr().out


def test_frozen_parts_are_the_nets_own_and_join_when_unfrozen():
    class Masked(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.mask = nn.Parameter(torch.tensor([-torch.inf]), requires_grad=False)  # its average would be NaN

    net = Masked(*make_net())
    model = make_model(net)
    model.freeze("0")
    callback, names = ExponentialMovingAverage(0.9), []
    starts = LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch == 1 and model.unfreeze("0"))
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: names.append(list(callback._averages._live)))
    seen = Seen("on_train_batch_end")
    model.fit(2, DATA, callbacks=[starts, note, seen, callback], verbose=0)
    others = ["1.weight", "1.bias", "3.weight", "3.bias", "1.running_mean", "1.running_var"]
    assert names == [others, ["0.weight", "0.bias", *others]]
    weights = [before["0.weight"] for before in seen.states["on_train_batch_end"]]
    expected = weights[4].clone()
    for weight in weights[5:]:
        expected.lerp_(weight, 1 - 0.9)
    assert torch.equal(net[0].weight, expected)
    assert net.mask.item() == -torch.inf


def test_shared_weights_are_averaged_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = nn.Linear(2, 2)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x)).sum(1, keepdim=True)

    model, callback = make_model(Tied()), ExponentialMovingAverage(0.9, swap_at_end=False)
    model.fit(2, DATA, callbacks=[callback], verbose=0)
    assert sorted(callback._averages._live) == ["first.bias", "first.weight", "second.bias"]
    assert model.net.first.weight is model.net.second.weight
    assert model.optimizer.param_groups[0]["params"][0] is model.net.first.weight


def test_weights_of_16_bits_are_averaged_in_32():
    net = nn.Linear(2, 1).to(torch.bfloat16)
    with torch.no_grad():
        net.weight.fill_(1.0)
    model, weights = kt.Model(net), []
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    data = [(x.bfloat16(), y.bfloat16()) for x, y in DATA]
    seen = LambdaCallback(on_train_batch_end=lambda *_: weights.append(net.weight.detach().float()))
    callback = ExponentialMovingAverage(0.99, swap_at_end=False)
    model.fit(2, data, data, callbacks=[callback, seen], verbose=0)
    expected = weights[0].clone()
    for weight in weights[1:]:
        expected.lerp_(weight, 1 - 0.99)
    assert torch.equal(callback._averages._averages["weight"], expected)  # two validations have rounded nothing
    assert torch.equal(net.weight.float(), weights[-1])


def test_lazy_layers_are_there_by_the_first_update():
    net = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 1))
    model = kt.Model(net)
    model.compile("mse", "sgd")
    callback = ExponentialMovingAverage(0.9)
    model.fit(2, DATA, VALIDATION, callbacks=[callback], verbose=0)
    assert callback.updates == 10


def test_an_optimizer_step_counts_not_a_batch():
    class Every2(kt.Callback):
        """Undoes the count of every other batch, as if its gradients waited."""

        def on_train_batch_end(self, batch, logs):
            self.run.state.step -= batch % 2

    callback = ExponentialMovingAverage(0.9)
    make_model().fit(1, DATA, callbacks=[callback, Every2()], verbose=0)
    assert callback.updates == 3


@pytest.mark.parametrize("at", ["the end of an epoch", "a batch"])
def test_state_and_net_together_are_all(at):
    """A run that is restored from both goes on as if it had not ended."""
    hook = {"the end of an epoch": "on_epoch_end", "a batch": "on_train_batch_end"}[at]
    saved = []

    class Save(kt.Callback):
        stage = "checkpoint"

    def save(self, *arguments):
        if len(saved) < 1:
            saved.append(copy.deepcopy((self.run.state.module.state_dict(), average.state_dict())))

    setattr(Save, hook, save)

    class Restore(kt.Callback):
        stage = "checkpoint"

        def on_train_begin(self, logs):
            self.run.state.module.load_state_dict(saved[0][0])
            other.load_state_dict(saved[0][1])

    average = ExponentialMovingAverage(0.9)
    model = make_model()
    model.net[2] = nn.Identity()
    model.compile("mse", "sgd")
    model.fit(2, DATA, VALIDATION, callbacks=[average, Save()], verbose=0)

    other, second = ExponentialMovingAverage(0.9), make_model()
    second.net[2] = nn.Identity()
    second.compile("mse", "sgd")
    rest = DATA if at == "the end of an epoch" else DATA[1:] + DATA
    second.fit(1, rest, callbacks=[other, Restore()], verbose=0)
    assert equal(state(model), state(second))
    assert other.updates == 10
    torch.save(saved[0][1], buffer := io.BytesIO())
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)["updates"] == saved[0][1]["updates"]


def test_a_state_of_another_net_is_an_error():
    class Restore(kt.Callback):
        stage = "checkpoint"

        def on_train_begin(self, logs):
            wrong = {"count": 1, "averages": {"0.weigth": torch.zeros(1)}, "raw": {}}
            average.load_state_dict({"steps": 1, "updates": 1, "averages": wrong})

    average = ExponentialMovingAverage()
    message = r"holds an average of '0.weigth', which the net does not have. Did you mean '0.weight'\?"
    with pytest.raises(kt.errors.CheckpointError, match=message):
        make_model().fit(1, DATA, callbacks=[Restore(), average], verbose=0)


def test_an_empty_state_changes_nothing_but_counts():
    callback = ExponentialMovingAverage()
    callback.load_state_dict({"steps": 3, "updates": 0, "averages": {}})
    assert callback.state_dict() == {"steps": 3, "updates": 0, "averages": {}}


def test_an_interrupt_in_the_middle_of_a_swap_loses_nothing():
    net = make_net()
    averages = Averages(net, statistics=True)
    averages.update(0.5)
    average = state(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    raw, copied = state(net), torch.Tensor.copy_
    for method in (averages.put_in, averages.take_out):
        for fails_at in range(8):
            calls = []

            def interrupted(self, source, fails_at=fails_at, calls=calls):
                calls.append(1)
                if len(calls) == fails_at + 1:
                    raise KeyboardInterrupt
                return copied(self, source)

            averages.put_in() if method == averages.take_out else averages.take_out()
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(torch.Tensor, "copy_", interrupted)
                method()
            averages.follow_net()
            averages.put_in()
            assert equal(state(net), average)
            averages.take_out()
            assert equal(state(net), raw)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, "decay is a number from 0 to below 1, such as 0.999; got 1.0"),
        ({"decay": -0.1}, "decay is a number"),
        ({"update_every": 0}, "update_every is a number of steps, 1 or more; got 0"),
        ({"start": -1}, "start is a whole number from 0; got -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExponentialMovingAverage(**arguments)


def test_repr_and_the_name_of_keras():
    text = "ExponentialMovingAverage(0.99, update_every=2, start=3, warmup=True, swap_at_end=False)"
    assert repr(eval(text)) == text
    assert repr(SwapEMAWeights(swap_on_epoch=True)) == repr(ExponentialMovingAverage(0.99))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("other", [ExponentialMovingAverage(0.5), StochasticWeightAveraging(0.5)], ids=["EMA", "SWA"])
def test_a_second_average_is_refused(other, backwards):
    first, second = (other, ExponentialMovingAverage(0.9))[:: -1 if backwards else 1]
    model = make_model()
    before = state(model)
    with pytest.raises(ValueError, match="both put averaged weights into the net, which has room for one") as error:
        model.fit(2, DATA, callbacks=[first, second], verbose=0)
    assert str(error.value).startswith(f"{first!r} and {second!r} both")
    assert str(error.value).endswith("to compare two, such as two decays, make two calls, one with each.")
    assert equal(state(model), before)


def test_a_second_average_is_refused_in_an_evaluation():
    model, callbacks = make_model(), [ExponentialMovingAverage(decay, swap_at_end=False) for decay in (0.5, 0.9)]
    for callback in callbacks:
        model.fit(1, DATA, callbacks=[callback], verbose=0)
    before = state(model)
    with pytest.raises(ValueError, match="both put averaged weights into the net"):
        model.evaluate(DATA, callbacks=callbacks)
    assert equal(state(model), before)
    values = [model.evaluate(DATA, callbacks=[callback])["loss"] for callback in callbacks]
    assert values[0] != values[1]
    assert equal(state(model), before)


def test_an_error_before_training_begins_tells_nothing_of_an_average(capsys):
    class Fails(kt.Callback):
        def on_train_begin(self, logs):
            raise RuntimeError("the test")

    model, callback = make_model(), ExponentialMovingAverage(0.9)
    model.fit(1, DATA, callbacks=[callback], verbose=0)
    with pytest.raises(RuntimeError, match="the test"):
        model.fit(1, DATA, callbacks=[Fails(), callback], verbose=2)
    assert "average" not in capsys.readouterr().out
