"""A learning rate that trains, and a model that is exactly as it was before."""

import copy
import functools
import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import MNIST

import kerastorch as kt
from kerastorch.errors import BusyError, DataError, MismatchError, NotCompiledError


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def data(count=96):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 8, generator=generator)
    return x, x[:, :3].argmax(1)


def loader(**options):
    return DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True, **options)


class Augmented(Dataset):
    """Draws from every generator there is."""

    def __len__(self):
        return 96

    def __init__(self):
        self.data = data()

    def __getitem__(self, index):
        x, y = self.data
        return x[index] + random.random() + np.random.rand() * torch.rand(8), y[index]


OPTIMIZERS = {
    "name": lambda net: "adam",
    "SGD": lambda net: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
    "AdamW of groups": lambda net: torch.optim.AdamW(
        [{"params": net[0].parameters(), "name": "first"}, {"params": net[4].parameters(), "lr": 0.02}], lr=0.01
    ),
    "tensor": lambda net: torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01)),
    "class": lambda net: functools.partial(torch.optim.RMSprop, lr=0.01),
}


def compiled(make_optimizer, metrics=("accuracy",), **options):
    net = make()
    model = kt.Model(net)
    model.compile("cross_entropy", make_optimizer(net), list(metrics), **options)
    return model


def drawn():
    return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def everything(model):
    """All that find_lr must leave alone; tensors and numbers by name."""
    state = model._session.state
    optimizer = state.optimizer
    found = {f"weights {name}": value for name, value in model.state_dict().items()}
    found |= {f"grad {name}": value.grad for name, value in model.named_parameters()}
    found |= {f"trainable {name}": value.requires_grad for name, value in model.named_parameters()}
    found |= {f"training {name}": part.training for name, part in model.named_modules()}
    found |= {"optimizer": id(optimizer), "counts": (state.epoch, state.batch, state.step), "rows": model.history.rows}
    found |= {
        "history": id(model.history),
        "metrics": dict(state.metrics),
        "metric objects": dict(state.metrics.metrics),
    }
    if optimizer is not None:
        for number, group in enumerate(optimizer.param_groups):
            found |= {f"group {number} {name}": value for name, value in group.items() if name != "params"}
            found[f"group {number} of"] = list(map(id, group["params"]))
        for number, values in enumerate(optimizer.state.values()):
            found |= {f"state {number} {name}": value for name, value in values.items()}
        found["state of"] = list(map(id, optimizer.state))
    return found


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    return one == other


def assert_unchanged(before, model):
    after = everything(model)
    assert after.keys() == before.keys()
    assert [name for name in before if not same(before[name], after[name])] == []


@pytest.mark.parametrize("fitted", [False, True], ids=["fresh", "trained before"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_all_is_as_it_was(kind, fitted):
    model = compiled(OPTIMIZERS[kind])
    if fitted:
        model.fit(1, loader(), verbose=0)
    model.net[1].eval()  # a BatchNorm frozen by hand
    model.net[0].bias.requires_grad_(False)
    before, states = copy.deepcopy(everything(model)), drawn()
    before |= {name: value for name, value in everything(model).items() if name in ("metric objects", "rows")}
    result = model.find_lr(loader(), steps=40)
    assert len(result.lrs) >= 10
    assert_unchanged(before, model)
    assert all(same(one, other) for one, other in zip(states, drawn(), strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_all_is_as_it_was_after_an_error_or_ctrl_c(error):
    class Failing(Augmented):
        count = 0

        def __getitem__(self, index):
            Failing.count += 1
            if Failing.count > 60:
                raise error("in the middle")
            return super().__getitem__(index)

    model = compiled(OPTIMIZERS["SGD"])
    model.fit(1, loader(), verbose=0)
    before, states = copy.deepcopy(everything(model)), drawn()
    before |= {name: value for name, value in everything(model).items() if name in ("metric objects", "rows")}
    with pytest.raises(error, match="in the middle"):
        model.find_lr(DataLoader(Failing(), 16))
    assert_unchanged(before, model)
    assert all(same(one, other) for one, other in zip(states, drawn(), strict=True))
    model.fit(1, loader(), verbose=0)


FORMS = {
    "loader": loader,
    "loader with a generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "dataset that draws": Augmented,
    "workers": lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=1),
    "workers that persist": lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=1, persistent_workers=True),
    "tensors": data,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["name", "SGD"])
def test_fit_afterwards_equals_fit_without_it(kind, form):
    results = []
    for searched in (True, False):
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        model, source = compiled(OPTIMIZERS[kind]), FORMS[form]()
        for _ in range(2):
            if searched:
                model.find_lr(source, steps=20)
            history = model.fit(2, source, verbose=0)
        results.append((model.state_dict(), history["loss"], history["accuracy"], history["lr"], drawn()[0]))
    (weights, *values), (expected, *others) = results
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert all(same(one, other) for one, other in zip(values, others, strict=True))


def test_losses_are_those_of_a_loop_written_by_hand():
    batches = [tuple(part[start : start + 10] for part in data(35)) for start in range(0, 35, 10)]  # 10, 10, 10, 5
    model, net = compiled(OPTIMIZERS["SGD"]), make()
    torch.manual_seed(4)
    result = model.find_lr(batches, 1e-5, 1e-1, 11)
    torch.manual_seed(4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    losses = []
    for number, rate in enumerate(np.geomspace(1e-5, 1e-1, 11).tolist()):
        x, y = batches[number % 4]
        optimizer.param_groups[0]["lr"] = rate
        loss = functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, rel=1e-12)
    assert result.lrs == pytest.approx(np.geomspace(1e-5, 1e-1, 11))


def test_a_loss_is_the_weighted_mean_of_its_batch_alone():
    x, y = data(20)
    weight = torch.arange(20.0)
    model = compiled(lambda net: torch.optim.SGD(net.parameters(), 0.1))
    model.net.eval()
    model.net[1].eval()
    batches = [(x[:8], y[:8], weight[:8]), (x[8:], y[8:], weight[8:])]
    seen = []
    model.net[4].register_forward_hook(lambda part, inputs, output: seen.append(output.detach()))
    result = model.find_lr(batches, 1e-6, 1e-5, 10)
    for number, (output, loss) in enumerate(zip(seen, result.losses, strict=True)):
        _, target, share = batches[number % 2]
        each = functional.cross_entropy(output, target, reduction="none")
        assert loss == pytest.approx(float((each * share).sum() / share.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([0.1, 0.05], [1e-3, 5e-4]), ([0.0, 0.1], [0.0, 1e-3]), ([0.0, 0.0], [1e-3, 1e-3])],
    ids=["ratio", "one stays", "all move"],
)
def test_groups_keep_their_ratio(rates, expected):
    net, seen = make(), []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    model = kt.Model(net)
    groups = [{"params": net[0].parameters(), "lr": rates[0]}, {"params": net[4].parameters(), "lr": rates[1]}]
    model.compile("cross_entropy", Watched(groups, lr=1))
    model.find_lr(loader(), 1e-3, 1e-1, 10)
    assert seen[0] == pytest.approx(expected)
    assert [group["lr"] for group in model.optimizer.param_groups] == rates


def test_an_optimizer_by_name_is_built_when_fit_begins():
    model = compiled(lambda net: "sgd")
    model.find_lr(loader(), steps=10)
    model.head = nn.Linear(3, 3)
    model.net.append(nn.Linear(3, 3))
    model.fit(1, loader(), verbose=0)
    assert len(model.optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


class Scripted(nn.Module):
    """Gives losses by the number of the batch."""

    def __init__(self, losses):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses = list(losses)

    def forward(self, x):
        return 0 * self.weight + self.losses.pop(0)


def tried(losses, steps=40):
    model = kt.Model(Scripted(losses))
    model.compile(None, "sgd")
    return len(model.find_lr([torch.zeros(1, 1)], steps=steps).lrs)


def test_it_ends_where_the_loss_diverges():
    assert tried([1.0] * 20 + [50.0] * 20) == 21
    assert tried([1.0] * 20 + [3.5] * 20) == 40
    assert tried([9.0] * 3 + [1.0] * 37) == 40
    assert tried([1.0] * 5 + [float("nan")] * 35) == 5
    assert tried([1.0] * 25 + [float("inf")] * 35) == 25
    assert tried([float("nan")] * 40) == 0


def test_a_loss_below_zero_may_rise_as_far_as_it_fell():
    falling = np.linspace(1.0, -3.0, 20).tolist()
    assert tried(falling + [-2.0, -3.5] * 10) == 40
    assert tried(falling + [100.0] * 20) == 21
    assert tried([-1.0, 0.5] * 20) == 40


def test_other_callbacks_and_metrics_are_not_called():
    def metric(output, target):
        raise AssertionError

    model = compiled(OPTIMIZERS["SGD"], metrics=[])
    model.compile("cross_entropy", "sgd", {"broken": metric})
    assert len(model.find_lr(loader(), steps=10).lrs) == 10


def test_it_shows_nothing(capfd):
    compiled(OPTIMIZERS["SGD"]).find_lr(loader())
    assert capfd.readouterr() == ("", "")


def test_steps_and_losses_of_the_users_own_are_used():
    class Own(kt.Model):
        def train_step(self, batch):
            loss = functional.cross_entropy(self.net(batch.x), batch.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss, "twice": 2 * loss}

    class Calling(kt.Model):
        def train_step(self, batch):
            return super().train_step(batch)

        def compute_loss(self, batch, output):
            return 1.0 * super().compute_loss(batch, output)

    results = []
    for kind in (kt.Model, Own, Calling):
        model = kind(make())
        model.compile("cross_entropy", torch.optim.SGD(model.parameters(), 0.1), ["accuracy"])
        before = copy.deepcopy(model.state_dict())
        torch.manual_seed(4)
        results.append(model.find_lr(data(), batch_size=16, steps=30))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert results[1].losses == pytest.approx(results[0].losses)
    assert results[2].losses == pytest.approx(results[0].losses)


def test_several_losses_are_summed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = make()

        def forward(self, x):
            return {"a": self.body(x), "b": self.body(x)}

    x, y = data()
    model = kt.Model(Two())
    model.compile({"a": "cross_entropy", "b": nn.CrossEntropyLoss()}, "sgd", loss_weights={"a": 1.0, "b": 0.5})
    assert model.find_lr((x, {"a": y, "b": y}), steps=10).losses[0] == pytest.approx(1.5 * 1.2, rel=0.4)


def test_a_loss_with_weights_of_its_own_is_as_it_was():
    class Centers(nn.Module):
        def __init__(self):
            super().__init__()
            self.center = nn.Parameter(torch.zeros(3))
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, output, target):
            self.seen += 1
            return (output - self.center).square().mean()

    loss, net = Centers(), make()
    model = kt.Model(net)
    model.compile(loss, torch.optim.Adam([*net.parameters(), loss.center], lr=0.1))
    model.find_lr(data(), steps=10)
    assert torch.equal(loss.center, torch.zeros(3))
    assert loss.seen == 0
    assert not model.optimizer.state


class Adversarial(kt.Model):
    """Has an optimizer of its own."""

    def train_step(self, batch):
        loss = functional.cross_entropy(self.net(batch.x), batch.y)
        self.own.zero_grad()
        loss.backward()
        self.own.step()
        return {"loss": loss}


def test_a_step_that_does_not_use_the_optimizer_is_refused_and_leaves_its_own_as_it_was():
    model = Adversarial(make())
    model.own = torch.optim.Adam(model.parameters())
    model.compile()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MismatchError, match=r"your own train_step does not use that\. Call self.optimizer.step"):
        model.find_lr(data(), steps=10)
    assert not model.own.state
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_step_without_a_loss_is_refused():
    class Own(kt.Model):
        def train_step(self, batch):
            self.optimizer.step()
            return {"error": 1.0}

    model = Own(make())
    model.compile()
    with pytest.raises(MismatchError, match=r"your own train_step must return \{'loss'"):
        model.find_lr(data())


def test_layers_whose_shapes_are_unknown_are_named():
    model = kt.Model(nn.LazyLinear(3))
    model.compile("cross_entropy", "sgd")
    with pytest.raises(MismatchError, match=r"model\.predict_on_batch"):
        model.find_lr(data())
    model.predict_on_batch(data()[0])
    assert model.find_lr(data(), steps=10)


def test_what_cannot_be_read_again_is_left_alone():
    given = iter([data()] * 3)
    with pytest.raises(DataError, match=r"what find_lr reads of it would be missing in fit\. Pass a list"):
        compiled(OPTIMIZERS["SGD"]).find_lr(given)
    assert len(list(given)) == 3
    with pytest.raises(DataError, match="dl_train is None"):
        compiled(OPTIMIZERS["SGD"]).find_lr()


@pytest.mark.parametrize("limits", [(0, 1), (1, 1), (1, 0.1), (-1, 1), (1e-3, float("inf")), ("a", 1), (1e-3, None)])
def test_limits_rise(limits):
    with pytest.raises(ValueError, match="Learning rates go from min_lr, above 0, up to max_lr; got"):
        compiled(OPTIMIZERS["SGD"]).find_lr(data(), *limits)


@pytest.mark.parametrize("steps", [0, 9, 12.5, "100"])
def test_a_few_steps_are_needed(steps):
    with pytest.raises(ValueError, match="steps is a whole number, at least 10; got"):
        compiled(OPTIMIZERS["SGD"]).find_lr(data(), steps=steps)


def test_it_needs_compile_and_no_running_fit():
    with pytest.raises(NotCompiledError, match="find_lr needs a loss"):
        kt.Model(make()).find_lr(data())
    model = compiled(OPTIMIZERS["SGD"])
    inside = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.find_lr(data()))
    with pytest.raises(BusyError, match="find_lr was called inside fit"):
        model.fit(1, data(), callbacks=[inside], verbose=0)


def test_an_error_says_in_which_batch():
    x, y = data(20)
    with pytest.raises(IndexError) as caught:
        compiled(OPTIMIZERS["SGD"]).find_lr([(x, y), (x, y + 7)])
    if sys.version_info >= (3, 11):
        assert "batch 2 of its data" in "".join(caught.value.__notes__)


def mnist(folder):
    found = []
    for train, count in ((True, 6400), (False, 500)):
        part = MNIST(folder, train=train)
        found.append((part.data[:count, None].float() / 255, part.targets[:count]))
    return found


def perceptron(examples):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn(examples):
    spec = importlib.util.spec_from_file_location("mnist_example", examples / "mnist.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CnnModel()


@pytest.mark.parametrize(
    ("make_net", "factory", "batch_size", "accuracy"),
    [(perceptron, torch.optim.SGD, 64, 0.8), (cnn, torch.optim.Adam, 128, 0.7)],
    ids=["perceptron, SGD", "CNN of the example, Adam"],
)
def test_the_suggestion_trains_on_mnist(make_net, factory, batch_size, accuracy, real_data):
    train, test = mnist(real_data)
    examples = Path(__file__).parents[1] / "examples"

    def begin(rate):
        torch.manual_seed(0)
        model = kt.Model(make_net(examples))
        model.compile("cross_entropy", factory(model.parameters(), lr=rate), ["accuracy"], device="cpu")
        return model

    model = begin(1e-3)
    before = copy.deepcopy(model.state_dict())
    result = model.find_lr(train, batch_size=batch_size)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def trained(rate):
        model = begin(rate)
        model.fit(1, train, batch_size=batch_size, verbose=0)
        return model.evaluate(test)["accuracy"]

    rate = float(result)
    reached = {factor: trained(rate * factor) for factor in (1, 1e-3, 100)}
    assert reached[1] > accuracy, (result, reached)
    assert reached[1e-3] < 0.35, (result, reached)
    assert reached[100] < 0.35, (result, reached)


class SeveralOptimizers(kt.Model):
    """Keeps optimizers of its own in a list and a dict; its net has one as well."""

    def train_step(self, batch):
        loss = functional.cross_entropy(self.net(batch.x), batch.y)
        optimizers = [self.optimizer, *self.listed, *self.named["inner"].values(), self.net[0].own]
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return {"loss": loss}


def test_optimizers_in_lists_dicts_and_submodules_are_as_they_were():
    model = SeveralOptimizers(make())
    model.compile("cross_entropy", torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    model.listed = [torch.optim.Adam(model.net[4].parameters())]
    model.named = {"inner": {"a": torch.optim.RMSprop(model.net[1].parameters())}, "same": model.listed[0]}
    model.net[0].own = torch.optim.Adagrad(model.net[0].parameters())
    own = [*model.listed, model.named["inner"]["a"], model.net[0].own]
    model.fit(1, loader(), verbose=0)
    before = copy.deepcopy([optimizer.state_dict() for optimizer in own])
    assert model.find_lr(loader(), steps=20).losses
    for optimizer, state in zip(own, before, strict=True):
        after = optimizer.state_dict()
        assert after["param_groups"] == state["param_groups"]
        assert after["state"].keys() == state["state"].keys()
        for number, values in state["state"].items():
            assert all(same(value, after["state"][number][name]) for name, value in values.items())


@pytest.mark.parametrize("weighted", [False, True], ids=["ignored labels", "sample weights of 0"])
@pytest.mark.parametrize("empty", [0, 1])
def test_a_batch_of_which_nothing_counts_is_left_out(empty, weighted):
    x, y = data(48)
    weights = torch.ones(48)
    batches = [[x[start : start + 16], y[start : start + 16].clone()] for start in range(0, 48, 16)]
    if weighted:
        for number, batch in enumerate(batches):
            batch.append(weights[:16] * (number != empty))
    else:
        batches[empty][1][:] = -100
    result = compiled(OPTIMIZERS["SGD"]).find_lr(batches, 1e-6, 1e-3, 30)
    rates = np.geomspace(1e-6, 1e-3, 30)
    assert result.lrs == pytest.approx([rate for number, rate in enumerate(rates) if number % 3 != empty])
    assert len(result.losses) == len(result.smoothed) == 20
    assert np.isfinite(result.losses).all()


def test_a_batch_of_which_one_of_several_losses_counts_nothing_is_left_out():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = make()

        def forward(self, x):
            return {"a": self.body(x), "b": self.body(x)}

    x, y = data(32)
    ignored = torch.full_like(y[:16], -100)
    model = kt.Model(Two())
    model.compile({"a": "cross_entropy", "b": "cross_entropy"}, "sgd")
    batches = [(x[:16], {"a": y[:16], "b": y[:16]}), (x[16:], {"a": y[16:], "b": ignored})]
    assert len(model.find_lr(batches, steps=20).losses) == 10


def test_random_numbers_of_a_dataset_come_back():
    class Noisy(Augmented):
        def __init__(self):
            super().__init__()
            self.random = np.random.default_rng(0)

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.from_numpy(self.random.normal(size=8)).float(), y

    dataset = Noisy()
    state = dataset.random.bit_generator.state
    compiled(OPTIMIZERS["SGD"]).find_lr(DataLoader(dataset, 16), steps=10)
    assert dataset.random.bit_generator.state == state


class Recording(kt.Callback):
    def __init__(self):
        self.called = []

    def on_train_begin(self, logs):
        self.called.append("on_train_begin")

    def on_train_batch_end(self, batch, logs):
        self.called.append("on_train_batch_end")


def test_of_callbacks_those_that_change_batches_are_called():
    x, y = data()
    images = (x * 40 + 128).clamp(0, 255).byte()
    model, other = compiled(OPTIMIZERS["SGD"]), Recording()
    scale = kt.callbacks.BatchTransform(lambda x: x.float() / 255, phase="both")
    move = kt.callbacks.DeviceTransfer("cpu")
    result = model.find_lr((images, y), 1e-4, 1e-2, 10, batch_size=16, callbacks=[other, scale, move])
    expected = compiled(OPTIMIZERS["SGD"]).find_lr((images.float() / 255, y), 1e-4, 1e-2, 10, batch_size=16)
    assert result.lrs == expected.lrs
    assert other.called == []
    with pytest.raises(RuntimeError):
        model.find_lr((images, y), steps=10)


def test_callbacks_see_the_same_random_numbers_afterwards():
    torch.manual_seed(0)
    model, state = compiled(OPTIMIZERS["SGD"]), torch.get_rng_state()
    result = model.find_lr(data(), steps=10, callbacks=[kt.callbacks.MixUp()])
    assert len(result.losses) == 10
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("callbacks", [kt.callbacks.LambdaCallback(), 3, [3], [kt.callbacks.LambdaCallback]])
def test_what_are_no_callbacks_is_refused_as_in_fit(callbacks):
    model = compiled(OPTIMIZERS["SGD"])
    texts = []
    for call in (lambda: model.find_lr(data(), callbacks=callbacks), lambda: model.fit(1, data(), callbacks=callbacks)):
        with pytest.raises(TypeError) as caught:
            call()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
