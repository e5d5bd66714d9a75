"""A step as one graph gives what the ordinary step gives."""

import copy
import functools
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch.jit import capture, train

pytestmark = pytest.mark.skipif(
    not hasattr(torch._dynamo.config, capture._POLICY), reason="this torch cannot refuse side effects"
)
OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1),
    "momentum": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": functools.partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
    "fused adam": functools.partial(torch.optim.Adam, lr=0.01, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def normalised():
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def forward(self, x):
        return self.last(functional.relu(functional.linear(self.first(x) * self.frozen, self.first.weight)))


NETS = {"mlp": mlp, "normalised": normalised, "tied": Tied}


def batches(count=8, size=5, ragged=True, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = [size] * (count - 1) + [3 if ragged else size]
    return [(torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes]


def made(net, optimizer, jit, loss="cross_entropy", metrics=("accuracy",), **options):
    torch.manual_seed(0)
    module = net()
    model = kt.Model(module)
    model.compile(loss, optimizer, metrics, device="cpu", jit_compile=jit, **options)
    return model


def fitted(net, optimizer, jit, data, *, fit=None, callbacks=(), **options):
    model = made(net, optimizer, jit, **options)
    model.fit(2, data, verbose=0, callbacks=[make() for make in callbacks], **(fit or {}))
    return model


def compiled(model):
    return model._session._compiled


def see_alike(first, second, tolerance=1e-5):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    for name in first.history.history:
        if name not in ("seconds", "samples_per_second"):
            assert first.history.history[name] == pytest.approx(second.history.history[name], rel=1e-4), name
    mine, theirs = first.optimizer.state_dict(), second.optimizer.state_dict()
    for key, state in mine["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, theirs["state"][key][name], rtol=1e-4, atol=tolerance)


def compare(net=mlp, optimizer=OPTIMIZERS["adam"], data=None, *, graph=True, **options):
    data = batches() if data is None else data
    ordinary = fitted(net, optimizer, False, data, **options)
    jitted = fitted(net, optimizer, True, data, **options)
    if graph is not None:
        assert (compiled(jitted).refusal is None) is graph, compiled(jitted).refusal
    see_alike(ordinary, jitted)
    return jitted


@given(
    st.sampled_from(list(NETS)),
    st.sampled_from(list(OPTIMIZERS)),
    st.sampled_from([{}, {"clip_norm": 0.05}, {"clip_value": 0.01}, {"clip_norm": 0.1, "clip_value": 0.01}]),
    st.sampled_from([(), ("accuracy",), ("accuracy", "f1")]),
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_net_with_any_optimizer(uncompiled, net, optimizer, clip, metrics):
    compare(NETS[net], OPTIMIZERS[optimizer], metrics=list(metrics), **clip)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_what_inductor_makes_of_it(graphs, optimizer):
    data = batches(count=50, ragged=False)
    jitted = compare(normalised, OPTIMIZERS[optimizer], data, clip_norm=0.5)
    assert jitted._session.state.step == 100


def weighted(data):
    generator = torch.Generator().manual_seed(5)
    return [(x, y, torch.rand(len(x), generator=generator)) for x, y in data]


DATA = {
    "sample weights": (weighted(batches()), {}),
    "class weights": (batches(), {"fit": {"class_weight": {0: 2.0, 2: 0.5}}}),
    "ignored labels": ([(x, y.where(y > 0, -100)) for x, y in batches(seed=2)], {}),
    "a sum": (batches(), {"loss": nn.CrossEntropyLoss(reduction="sum"), "metrics": []}),
    "numbers": ([(x, x[:, :3].clone()) for x, _ in batches()], {"loss": "mse", "metrics": ["mae", "r2"]}),
    "the input is the target": (
        [(x[:, :3], x[:, :3]) for x, _ in batches()],
        {"loss": "mse", "metrics": [], "net": lambda: nn.Linear(3, 3)},
    ),
    "a metric of the whole epoch": (batches(), {"metrics": ["auroc", "accuracy"]}),
    "a metric that reads": (batches(), {"metrics": {"m": lambda p, t: (p.argmax(1) == t).float().mean().item()}}),
    "no batch of one form twice": ([(x[:n], y[:n]) for n, (x, y) in enumerate(batches(5), 1)], {}),
}


@pytest.mark.parametrize("case", DATA)
def test_any_data(uncompiled, case):
    data, options = DATA[case]
    compare(data=data, **options)


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, first, second):
        hidden = torch.tanh(self.body(first + second))
        return {"kind": self.kind(hidden), "size": self.size(hidden)}


def test_several_inputs_and_losses(uncompiled):
    data = [({"first": x, "second": x * 2}, {"kind": y, "size": x[:, :1].clone()}) for x, y in batches()]
    losses = {"kind": "cross_entropy", "size": "mse"}
    compare(Several, data=data, loss=losses, metrics={"kind": ["accuracy"], "size": ["mae"]})


def test_groups_keep_their_own_rates(uncompiled):
    def optimizer(parameters):
        first, *rest = parameters
        return torch.optim.AdamW([{"params": [first], "lr": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01)

    compare(optimizer=optimizer)


@pytest.mark.parametrize("jit", [True, "net"])
def test_a_plan_of_rates_is_followed(uncompiled, jit):
    compare(callbacks=[lambda: kt.callbacks.OneCycle(0.05)])


def test_a_scheduler_of_torch_finds_that_the_optimizer_has_stepped(uncompiled):
    schedule = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    compare(callbacks=[lambda: kt.callbacks.LearningRateScheduler(schedule, interval="step")])


def test_averages_and_validation(uncompiled):
    jitted = compare(
        normalised,
        callbacks=[lambda: kt.callbacks.ExponentialMovingAverage(0.9)],
        fit={"dl_val": batches(3, seed=4)},
    )
    assert "val_loss" in jitted.history.history


def test_dropout_draws_from_the_generator_of_torch(uncompiled):
    def net():
        return nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 3))

    first, second = (fitted(net, OPTIMIZERS["sgd"], True, batches()) for _ in range(2))
    assert compiled(first).refusal is None
    see_alike(first, second, tolerance=0.0)


@pytest.mark.parametrize("nan", ["raise", "skip"])
def test_a_batch_that_is_not_finite_changes_nothing(uncompiled, nan):
    data = batches(ragged=False)
    good = fitted(normalised, OPTIMIZERS["adam"], True, [*data[:4], *data[5:]])
    spoiled = [*data[:4], (data[4][0] / 0, data[4][1]), *data[5:]]
    model = made(normalised, OPTIMIZERS["adam"], True)
    if nan == "raise":
        with pytest.raises(kt.errors.NonFiniteError, match="in batch 5 of epoch 1"):
            model.fit(2, spoiled, verbose=0)
        assert model._session.state.step == 4
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
        return
    with pytest.warns(UserWarning, match="makes no step"):
        model.fit(2, spoiled, verbose=0, nan="skip")
    see_alike(good, model)


def test_a_value_that_a_callback_changes_is_seen(uncompiled):
    factor = [1.0]

    class Anneal(kt.Callback):
        def on_epoch_begin(self, epoch, logs):
            factor[0] = 1.0 / (epoch + 1)

    def loss(output, target):
        return functional.cross_entropy(output, target) * factor[0]

    compare(loss=loss, callbacks=[Anneal])


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = mlp()
        self.scale = 1.0

    def forward(self, x):
        return self.part(x) * self.scale


def test_an_attribute_that_a_callback_changes_in_any_batch_is_seen(uncompiled):
    class Grow(kt.Callback):
        def on_train_batch_begin(self, batch, logs):
            self.model.net.scale = 1.0 + 0.5 * (batch > 3)

    compare(Scaled, callbacks=[Grow])


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = mlp()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.part(x) * (1 if self.calls < 6 else 2)


def test_a_net_that_changes_itself_is_left_to_the_ordinary_step(uncompiled):
    jitted = compare(Counting, graph=False)
    assert "changes something in Python" in compiled(jitted).refusal


def test_what_is_unfrozen_is_trained(uncompiled):
    data = batches()
    models = []
    for jit in (False, True):
        model = made(mlp, OPTIMIZERS["adam"], jit)
        model.freeze("0")
        model.fit(1, data, verbose=0)
        model.unfreeze()
        model.fit(2, data, verbose=0)
        models.append(model)
    see_alike(*models)
    assert compiled(models[1]).refusal is None


def test_a_second_fit_goes_on_also_with_other_weights_of_classes(uncompiled):
    models = []
    for jit in (False, True):
        model = fitted(mlp, OPTIMIZERS["adam"], jit, batches())
        model.fit(1, batches(seed=3), verbose=0, class_weight={1: 3.0})
        model.fit(1, batches(seed=3), verbose=0)
        models.append(model)
    see_alike(*models)


def test_a_state_that_is_loaded_in_the_middle_is_used(uncompiled):
    class Load(kt.Callback):
        def __init__(self):
            self.kept = None

        def on_train_batch_end(self, batch, logs):
            optimizer = self.run.state.optimizer
            if batch == 3:
                self.kept = copy.deepcopy(optimizer.state_dict())
            if batch == 5:
                optimizer.load_state_dict(self.kept)

    compare(callbacks=[Load])


REFUSED = {
    "accumulate=2 gathers gradients": {"accumulate": 2},
    "GradientLogger looks at gradients": {"callbacks": [kt.callbacks.GradientLogger]},
    "gradient_checkpointing computes": {"gradient_checkpointing": "0"},
    "the optimizer RMSprop is none of": {"optimizer": torch.optim.RMSprop},
    "microbatch splits batches": {"fit": {"microbatch": 3}},
    "the optimizer has amsgrad=True": {"optimizer": functools.partial(torch.optim.Adam, amsgrad=True)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_one_graph_is_said_and_done_otherwise(uncompiled, reason, capsys):
    options = {"optimizer": OPTIMIZERS["sgd"], **REFUSED[reason]}
    compare(graph=None, **options)
    model = made(
        mlp, options.pop("optimizer"), True, **{k: v for k, v in options.items() if k not in ("callbacks", "fit")}
    )
    callbacks = [make() for make in options.get("callbacks", ())]
    model.fit(1, batches(), verbose=2, callbacks=callbacks, **options.get("fit", {}))
    assert f"jit_compile: the step is not one graph, as {reason}" in capsys.readouterr().out


def test_a_step_of_the_users_own_is_left_to_the_user(uncompiled, capsys):
    class Own(kt.Model):
        def train_step(self, batch):
            return super().train_step(batch)

    torch.manual_seed(0)
    model = Own(mlp())
    model.compile("cross_entropy", OPTIMIZERS["sgd"], jit_compile=True, device="cpu")
    model.fit(1, batches(), verbose=2)
    assert "not one graph, as train_step is your own" in capsys.readouterr().out


def test_where_nothing_can_be_compiled_the_ordinary_step_is_used(monkeypatch, graphs, capsys):
    def fail(graph, examples):
        raise RuntimeError("no compiler for C++\nand many lines")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    jitted = compare(graph=False)
    assert compiled(jitted).refusal == "RuntimeError came up: no compiler for C++"


def test_the_faster_way_is_kept_and_said(uncompiled, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, examples: slowed(graph))

    def slowed(graph):
        def call(*tensors):
            import time

            time.sleep(0.02)
            return graph(*tensors)

        return call

    model = made(mlp, OPTIMIZERS["adam"], True)
    model.fit(1, batches(20), verbose=2)
    output = capsys.readouterr().out
    assert "compiling the step: forward, backward, Adam, loss, accuracy" in output
    assert "jit_compile: the ordinary step is faster here" in output
    see_alike(fitted(mlp, OPTIMIZERS["adam"], False, batches(20)), fitted(mlp, OPTIMIZERS["adam"], True, batches(20)))


def test_the_net_alone(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    ordinary = fitted(normalised, OPTIMIZERS["adam"], False, batches())
    alone = fitted(normalised, OPTIMIZERS["adam"], "net", batches())
    see_alike(ordinary, alone)
    assert list(alone.state_dict()) == list(ordinary.state_dict())
    assert torch.allclose(alone.predict(batches()), ordinary.predict(batches()), atol=1e-5)


@pytest.mark.parametrize("value", ["step", 2, None])
def test_jit_compile_is_one_of_three(value):
    with pytest.raises(ValueError, match="jit_compile is True for the whole step"):
        kt.Model(mlp()).compile("cross_entropy", jit_compile=value)


def test_a_model_that_was_compiled_is_copied_without_what_was_compiled(uncompiled):
    model = fitted(mlp, OPTIMIZERS["adam"], True, batches())
    twin = copy.deepcopy(model)
    assert compiled(twin) is None
    for each in (model, twin):
        each.fit(1, batches(seed=9), verbose=0)
    see_alike(model, twin)


def test_forms_that_are_rare_are_left_to_the_ordinary_step(uncompiled, monkeypatch):
    calls = []
    original = train.TrainStep._by_graph
    monkeypatch.setattr(
        train.TrainStep, "_by_graph", lambda step, key, batch: calls.append(batch.size) or original(step, key, batch)
    )
    fitted(mlp, OPTIMIZERS["adam"], True, batches())
    assert calls == [5] * 6 + [5] * 7


class Rebinding(nn.Module):
    """Keeps an average in a buffer, and puts another tensor in its place each time."""

    def __init__(self):
        super().__init__()
        self.part = mlp()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.part(x - self.mean)


class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = mlp()

    def forward(self, x):
        return self.part(x) * random.uniform(0.5, 1.5)


class Listing(nn.Module):
    def __init__(self):
        super().__init__()
        self.part, self.seen = mlp(), {"n": 0}

    def forward(self, x):
        self.seen["n"] += 1
        return self.part(x) * (1 + self.seen["n"] % 3)


def spectral():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("net", [Rebinding, Drawing, Listing, spectral])
def test_what_a_net_changes_in_python_is_never_left_out(uncompiled, net):
    models = []
    for jit in (False, True):
        random.seed(0)
        models.append(fitted(net, OPTIMIZERS["adam"], jit, batches()))
    see_alike(*models)


class Counted(nn.CrossEntropyLoss):
    calls = 0

    def forward(self, output, target):
        self.calls += 1
        return super().forward(output, target) / self.calls


def test_what_a_loss_changes_in_python_is_never_left_out(uncompiled):
    models = [fitted(mlp, OPTIMIZERS["adam"], jit, batches(), loss=Counted()) for jit in (False, True)]
    see_alike(*models)


def masked():
    net = mlp()
    net[0].weight.register_hook(lambda gradient: gradient * 0)
    return net


def test_hooks_of_parameters_are_called(uncompiled):
    compare(masked, graph=False)


def test_a_hook_that_comes_later_is_called(uncompiled):
    class Triple(kt.Callback):
        def on_epoch_begin(self, epoch, logs):
            if epoch == 1:
                self.model.net[0].register_forward_hook(lambda module, inputs, output: output * 3)

    compare(callbacks=[Triple], graph=None)


def test_a_refusal_that_is_of_one_fit_is_forgotten_in_the_next(uncompiled):
    model = made(mlp, OPTIMIZERS["adam"], True)
    model.fit(1, batches(), verbose=0, callbacks=[kt.callbacks.GradientLogger()])
    assert not compiled(model).contests.held
    model.fit(1, batches(), verbose=0)
    assert compiled(model).contests.held


def test_there_are_no_gradients_rather_than_old_ones(uncompiled):
    seen = []

    class Look(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            seen.append(next(self.model.parameters()).grad is None)

    fitted(mlp, OPTIMIZERS["adam"], True, batches(4, ragged=False), callbacks=[Look])
    assert seen == [False, *7 * [True]]


def test_what_changes_again_and_again_is_compiled_a_few_times_only(uncompiled):
    class Grow(kt.Callback):
        def on_epoch_begin(self, epoch, logs):
            self.model.net.scale = 1.0 + epoch

    models = []
    for jit in (False, True):
        model = made(Scaled, OPTIMIZERS["sgd"], jit)
        model.fit(8, batches(4), verbose=0, callbacks=[Grow()])
        models.append(model)
    see_alike(*models)
    assert "changes again and again" in compiled(models[1]).refusal


class Plain(nn.Module):
    """Has no len(), unlike nn.Sequential."""

    def __init__(self):
        super().__init__()
        self.part = mlp()

    def forward(self, x):
        return self.part(x)


@pytest.mark.parametrize("jit", [True, "net"])
def test_evaluation_and_prediction_call_the_net_compiled(uncompiled, monkeypatch, jit):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    data = batches(80, ragged=False)
    model, other = made(Plain, OPTIMIZERS["sgd"], jit), made(Plain, OPTIMIZERS["sgd"], False)
    assert model.evaluate(data) == pytest.approx(other.evaluate(data))
    assert torch.allclose(model.predict(data), other.predict(data), atol=1e-6)
    if jit is True:
        assert [len(contests.held) for contests in compiled(model).of_net.values()] == [1, 1]


def test_a_torch_that_cannot_refuse_side_effects_gets_the_ordinary_step(uncompiled, monkeypatch):
    monkeypatch.setattr(capture, "_POLICY", "unknown")
    jitted = compare(graph=False)
    assert "does not tell whether the net changes anything in Python" in compiled(jitted).refusal


def test_half_precision_is_a_part_of_the_graph(uncompiled):
    models = [fitted(mlp, OPTIMIZERS["sgd"], jit, batches(), precision="bf16-mixed") for jit in (False, True)]
    see_alike(*models)
    plain = fitted(mlp, OPTIMIZERS["sgd"], False, batches())
    assert models[0].history.history["loss"] != plain.history.history["loss"]
    assert compiled(models[1]).refusal is None
