import copy
import functools
import multiprocessing
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kerastorch as kt
from kerastorch.errors import CheckpointError, DataError, MismatchError, NotCompiledError


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def make_data(samples=30):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    return x, x[:, :3].argmax(1)


def compiled(net=None, loss="cross_entropy", **options):
    model = kt.Model(net or make_net())
    model.compile(loss, functools.partial(torch.optim.SGD, lr=0.1), **options)
    return model


def test_every_form_of_optimizer_trains_alike():
    forms = [
        functools.partial(torch.optim.SGD, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "instance",
    ]
    results = []
    for form in forms:
        net = make_net()
        model = kt.Model(net)
        model.compile("cross_entropy", torch.optim.SGD(model.parameters(), lr=0.1) if form == "instance" else form)
        model.fit(2, make_data(), shuffle=False, verbose=0)
        results.append(model.predict(make_data()[0]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_default_optimizer_is_adam_with_a_thousandth():
    model = kt.Model(make_net())
    model.compile("cross_entropy")
    assert type(model.optimizer) is torch.optim.Adam
    assert model.optimizer.param_groups[0]["lr"] == 1e-3


def test_both_spellings_of_torchkeras_work():
    model = kt.Model(make_net())
    model.compile(
        loss_func=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        metrics_dict={"accuracy": lambda y_pred, y_true: (y_pred.argmax(1) == y_true).float().mean()},
    )
    history = model.fit(1, dl_train=make_data(), dl_val=make_data(), log_step_freq=100, verbose=0)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds", "samples_per_second"]
    assert history["lr"] == [0.02]
    assert history["seconds"][0] > 0
    assert history["samples_per_second"][0] >= 30 / history["seconds"][0]  # the seconds are those of validation too


def test_two_spellings_of_one_argument_are_an_error():
    model = kt.Model(make_net())
    with pytest.raises(TypeError, match="loss and loss_func are two spellings"):
        model.compile("mse", loss_func=nn.MSELoss())
    with pytest.raises(TypeError, match="metrics and metrics_dict are two spellings"):
        model.compile("mse", metrics=["mae"], metrics_dict={})


@pytest.mark.parametrize("verb", ["fit", "evaluate", "train_on_batch", "test_on_batch", "optimizer"])
def test_what_needs_a_loss_says_so(verb):
    model = kt.Model(make_net())
    with pytest.raises(NotCompiledError, match=rf"{verb} needs a loss\. First type model\.compile"):
        argument = [1, make_data()] if verb == "fit" else [make_data()]
        _ = model.optimizer if verb == "optimizer" else getattr(model, verb)(*argument)


def test_a_net_without_a_loss_needs_one():
    model = kt.Model(make_net())
    model.compile(optimizer="adam")
    with pytest.raises(MismatchError, match="No loss was compiled, so the net must return one"):
        model.fit(1, make_data(), verbose=0)


def test_predict_needs_no_compile():
    net = make_net()
    x = make_data()[0]
    assert torch.equal(kt.Model(net).predict(x), net(x).detach())


def test_compile_again_begins_with_a_new_optimizer():
    model = compiled()
    model.fit(1, make_data(), verbose=0)
    first = model.optimizer
    model.compile("cross_entropy", "adam", ["accuracy"])
    assert model.optimizer is not first
    assert "accuracy" in model.fit(1, make_data(), verbose=0)


def test_an_optimizer_of_another_net_is_refused_before_the_first_step():
    model = kt.Model(make_net())
    model.compile("cross_entropy", torch.optim.SGD(make_net().parameters(), lr=0.1))
    with pytest.raises(MismatchError, match=r"The optimizer SGD holds no parameter of this net.*model\.parameters\(\)"):
        model.fit(1, make_data(), verbose=0)


def test_what_builds_no_optimizer_is_named():
    model = kt.Model(make_net())
    model.compile("cross_entropy", lambda parameters: 3)
    with pytest.raises(TypeError, match=r"must return a torch\.optim\.Optimizer; it returned 3"):
        model.fit(1, make_data(), verbose=0)


def test_wrong_arguments_of_fit_say_what_to_type():
    model = compiled()
    with pytest.raises(
        TypeError, match=r"epochs is a whole number and comes first: fit\(3, dl_train, dl_val\); got tuple"
    ):
        model.fit(make_data(), make_data())
    with pytest.raises(ValueError, match="There is no epoch to train: epochs=2, initial_epoch=2"):
        model.fit(2, make_data(), initial_epoch=2)
    with pytest.raises(ValueError, match="validation_freq is at least 1; got 0"):
        model.fit(2, make_data(), validation_freq=0)
    with pytest.raises(DataError, match="There is no data: dl_train is None"):
        model.fit(2)
    with pytest.raises(ValueError, match="verbose is 'auto'"):
        model.fit(2, make_data(), verbose="loud")
    with pytest.raises(DataError, match="batch_size was given, but dl_train is a DataLoader"):
        model.fit(2, DataLoader(TensorDataset(*make_data())), batch_size=3)
    with pytest.raises(ValueError, match="initial_epoch"):
        model.fit(2, make_data(), initial_epoch=-1)


def test_batch_size_is_for_the_data_that_need_one():
    history = compiled().fit(1, make_data(), DataLoader(TensorDataset(*make_data())), batch_size=10, verbose=0)
    assert "val_loss" in history


def test_predict_keeps_order_and_nesting_and_leaves_targets_out():
    class Several(nn.Module):
        def forward(self, x):
            return {"sum": x.sum(1), "pair": (x, x * 2)}

    x, y = make_data(10)
    outputs = kt.Model(Several()).predict(DataLoader(TensorDataset(x, y), 3))
    assert torch.equal(outputs["sum"], x.sum(1))
    assert torch.equal(outputs["pair"][1], x * 2)
    arrays = kt.Model(Several()).predict(x, batch_size=4, as_numpy=True)
    assert isinstance(arrays["pair"], tuple)
    np.testing.assert_array_equal(arrays["pair"][0], x.numpy())


def test_predict_to_arrays_of_a_bfloat16_net():
    net = nn.Linear(4, 2).bfloat16()
    array = kt.Model(net).predict(make_data()[0].double().numpy(), as_numpy=True)
    assert array.dtype == np.float32


def test_outputs_of_predict_can_be_trained_on():
    outputs = kt.Model(make_net()).predict(make_data()[0])
    nn.Linear(3, 1)(outputs).sum().backward()  # a tensor of inference mode would raise


def test_outputs_that_cannot_be_joined_say_so():
    model = kt.Model(nn.Identity())
    with pytest.raises(DataError, match=r"cannot be joined.*\(3,\), \(4,\)"):
        model.predict([torch.zeros(2, 3), torch.zeros(2, 4)])


def test_numpy_float64_goes_into_a_float32_net():
    x, y = (part.numpy() for part in make_data())
    model = compiled(metrics=["accuracy"])
    history = model.fit(1, (x.astype("float64"), y.astype("int32")), (x.astype("float64"), y), verbose=0)
    assert history["val_accuracy"][0] >= 0
    assert model.predict(x.astype("float64")).dtype == torch.float32

    class Doubles(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return x[index].astype("float64"), y[index]

    assert model.evaluate(DataLoader(Doubles(), 4))["loss"] > 0


def test_float64_stays_in_a_float64_net():
    x, y = make_data()
    model = compiled(make_net().double())
    model.fit(1, (x.double(), y), verbose=0)
    assert model.predict(x.double()).dtype == torch.float64


def test_several_inputs_spread_over_forward():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, left, right):
            return self.layer(left + right)

    x, y = make_data()
    model = compiled(Two())
    assert model.predict(((x, x),)).shape == (30, 3)
    by_tuple = model.predict(((x, x),))
    by_name = model.predict({"right": x, "left": x})
    assert torch.equal(by_tuple, by_name)
    assert model.fit(1, ((x, x), y), verbose=0)["loss"][0] > 0
    assert model.fit(1, [({"left": x, "right": x}, y)], verbose=0)["loss"][0] > 0


def test_inputs_go_in_whole_where_forward_has_no_such_parameters():
    class Whole(nn.Module):
        def forward(self, inputs):
            return inputs["a"] if isinstance(inputs, dict) else inputs[0]

    model = kt.Model(Whole())
    x = make_data()[0]
    assert torch.equal(model.predict({"a": x, "b": x}), x)
    assert torch.equal(model.predict(((x, x),)), x)


def test_sample_weights_reach_loss_and_metrics():
    x, y = make_data(20)
    weight = torch.rand(20)
    model = compiled(metrics=["accuracy"])
    net = model.module
    each = nn.functional.cross_entropy(net(x), y, reduction="none")
    values = model.evaluate((x, y, weight), batch_size=7)
    assert values["loss"] == pytest.approx(((each * weight).sum() / weight.sum()).item(), rel=1e-5)
    right = (net(x).argmax(1) == y).float()
    assert values["accuracy"] == pytest.approx(((right * weight).sum() / weight.sum()).item(), rel=1e-5)
    model.fit(1, (x, y, weight), verbose=0)


def test_train_on_batch_is_one_step_of_a_loop_by_hand():
    x, y = make_data()
    by_hand, by_model = make_net(), make_net()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    model = compiled(by_model, metrics=["accuracy"])
    for _ in range(3):
        loss = nn.functional.cross_entropy(by_hand(x), y)
        right = (by_hand(x).argmax(1) == y).float().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = model.train_on_batch(x, y)
        assert values == pytest.approx({"loss": loss.item(), "accuracy": right.item()}, rel=1e-6)
    for parameter, twin in zip(by_hand.parameters(), by_model.parameters(), strict=True):
        assert torch.equal(parameter, twin)


def test_test_on_batch_and_predict_on_batch_change_nothing():
    x, y = make_data()
    model = compiled()
    before = copy.deepcopy(model.state_dict())
    assert model.test_on_batch(x, y) == pytest.approx(model.evaluate((x, y)), rel=1e-6)
    assert torch.equal(model.predict_on_batch(x), model.module(x).detach())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    weight = torch.linspace(0, 1, 30)
    assert model.test_on_batch(x, y, weight) == pytest.approx(model.evaluate((x, y, weight)), rel=1e-6)


def test_a_subclass_writes_forward_itself():
    class Net(kt.Model):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, x):
            return self.net(x)

    model = Net()
    model.compile("cross_entropy", "adam", ["accuracy"])
    model.fit(1, make_data(), verbose=0)
    assert list(model.state_dict()) == ["net.weight", "net.bias"]
    assert model.predict(make_data()[0]).shape == (30, 3)


def test_a_subclass_that_wraps_a_net_and_adds_to_it_is_trained_whole():
    class Headed(kt.Model):
        def __init__(self, backbone):
            super().__init__(backbone)
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.net(x))

    model = Headed(make_net())
    model.compile("cross_entropy", functools.partial(torch.optim.SGD, lr=0.1))
    before = copy.deepcopy(model.state_dict())
    model.fit(1, make_data(), verbose=0)
    assert list(before) == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias", "head.weight", "head.bias"]
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.load_state_dict(before)
    assert torch.equal(model.head.weight, before["head.weight"])
    assert "head" in repr(model)


def test_a_subclass_that_wraps_a_net_may_change_its_forward():
    class Softmax(kt.Model):
        def forward(self, x):
            return super().forward(x).softmax(1)

    model = Softmax(make_net())
    x = make_data()[0]
    assert torch.equal(model.predict(x), model.net(x).softmax(1).detach())
    assert list(model.state_dict()) == list(model.net.state_dict())


def test_a_copy_trains_its_own_net():
    model = compiled()
    model.fit(1, make_data(), verbose=0)
    twin = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    twin.fit(1, make_data(), verbose=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(twin.net[0].weight, model.net[0].weight)


def test_a_step_of_ones_own_by_batch():
    class Own(kt.Model):
        def train_step(self, batch):
            loss = (self(batch.x) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss, "norm": 2.0}

        def evaluate_step(self, batch):
            return {"loss": (self(batch.x) ** 2).mean()}

    x, y = make_data(10)
    model = Own(make_net())
    model.compile("cross_entropy", functools.partial(torch.optim.SGD, lr=0.0))
    history = model.fit(1, (x, y), (x, y), verbose=0, batch_size=8)
    expected = (model.module(x) ** 2).mean().item()
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["norm"] == [2.0]
    assert model._session.state.step == 2


def test_a_step_of_ones_own_in_the_manner_of_torchkeras():
    class Own(kt.Model):
        def train_step(self, features, labels):
            return {"loss": float(features.sum()), "count": float(len(labels))}

    model = Own(make_net())
    model.compile("cross_entropy")
    x, y = make_data(4)
    assert model.fit(1, [(x, y)], verbose=0)["loss"][0] == pytest.approx(float(x.sum()))


def test_a_step_of_ones_own_may_call_the_ordinary_one():
    class Own(kt.Model):
        def train_step(self, batch):
            batch.x = batch.x + 0
            return super().train_step(batch)

        def evaluate_step(self, batch):
            return super().evaluate_step(batch)

    own, plain = Own(make_net()), kt.Model(make_net())
    for model in (own, plain):
        model.compile("cross_entropy", functools.partial(torch.optim.SGD, lr=0.1), ["accuracy"])
    histories = [model.fit(2, make_data(), make_data(), verbose=0, shuffle=False) for model in (own, plain)]
    assert histories[0]["val_loss"] == histories[1]["val_loss"]
    assert own._session.state.step == plain._session.state.step == 2


def test_a_step_that_returns_something_strange_is_named():
    class Own(kt.Model):
        def train_step(self, batch):
            return 3

    model = Own(make_net())
    model.compile("cross_entropy")
    with pytest.raises(MismatchError, match=r"must return a dict of values, such as .*; got 3"):
        model.fit(1, make_data(), verbose=0)


def test_a_step_of_ones_own_finds_loss_metrics_and_optimizer_by_the_names_of_torchkeras():
    class Own(kt.Model):
        def train_step(self, features, labels):
            self.train()
            self.optimizer.zero_grad()
            predictions = self.forward(features)
            loss = self.loss_func(predictions, labels)
            loss.backward()
            self.optimizer.step()
            values = {name: function(predictions, labels).item() for name, function in self.metrics_dict.items()}
            return {"loss": loss.item(), **values}

    def accuracy(y_pred, y_true):
        return (y_pred.argmax(1) == y_true).float().mean()

    own, plain = Own(make_net()), kt.Model(make_net())
    for model in (own, plain):
        model.compile("cross_entropy", functools.partial(torch.optim.SGD, lr=0.1), {"accuracy": accuracy})
    histories = [model.fit(2, make_data(), verbose=0, shuffle=False, batch_size=7) for model in (own, plain)]
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-6)
    assert histories[0]["accuracy"] == pytest.approx(histories[1]["accuracy"], rel=1e-6)
    assert torch.equal(own.net[0].weight, plain.net[0].weight)


def test_a_step_set_on_the_model_is_used():
    model = compiled()
    model.train_step = lambda batch: {"loss": 7.0}
    assert model.fit(1, make_data(), verbose=0)["loss"] == [7.0]


def test_two_optimizers_need_neither_loss_nor_optimizer_in_compile():
    class Two(kt.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 1)
            self.optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.first, self.second)]

        def forward(self, x):
            return self.second(self.first(x))

        def train_step(self, batch):
            loss = self(batch.x).pow(2).mean()
            self.zero_grad()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            return {"loss": loss}

    model = Two()
    with pytest.raises(NotCompiledError, match=r"fit needs model.compile\(\). First type model.compile\(\)\."):
        model.fit(3, make_data()[0], verbose=0)
    model.compile(metrics=["accuracy"])
    assert model.loss_func is None
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(
        UserWarning, match="The compiled metric 'accuracy' is not measured: the step of your own does not"
    ):
        history = model.fit(3, make_data()[0], verbose=0)
    assert history["loss"][2] < history["loss"][0]
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(MismatchError, match="No loss was compiled"):
        model.evaluate(make_data())


def test_a_callback_of_keras_stops_training():
    seen = []

    class Stops(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(self.model.stop_training)
            self.model.stop_training = epoch == 1
            seen.append(self.model.stop_training)

    model = compiled()
    assert model.fit(5, make_data(), callbacks=[Stops()], verbose=0).epoch == [0, 1]
    assert seen == [False, False, False, True]
    assert not model.stop_training


def test_calls_that_would_spoil_fit_are_refused_inside_it():
    x, y = make_data()
    for call in (
        lambda model: model.fit(1, (x, y)),
        lambda model: model.train_on_batch(x, y),
        lambda model: model.compile("mse"),
    ):
        model = compiled()
        inside = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs, m=model, c=call: c(m))
        with pytest.raises(kt.errors.BusyError, match="was called inside fit"):
            model.fit(1, (x, y), callbacks=[inside], verbose=0)
        call(model)  # afterwards all is well


def test_a_callback_shared_with_an_evaluation_inside_fit_still_stops_fit():
    class Stops(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.evaluate(make_data(), callbacks=[self])
            self.run.stop("now")

    assert compiled().fit(5, make_data(), callbacks=[Stops()], verbose=0).epoch == [0]


def test_an_optimizer_that_needs_a_closure_is_explained_before_training():
    model = kt.Model(make_net())
    model.compile("cross_entropy", "lbfgs")
    with pytest.raises(MismatchError, match=r"LBFGS evaluates the loss several times.*override train_step\(batch\)"):
        model.fit(1, make_data(), verbose=0)


def test_lbfgs_in_a_step_of_ones_own():
    class Own(kt.Model):
        def train_step(self, batch):
            def closure():
                self.optimizer.zero_grad()
                loss = self.loss_func(self(batch.x), batch.y)
                loss.backward()
                return loss

            return {"loss": self.optimizer.step(closure)}

    model = Own(make_net())
    model.compile("cross_entropy", "lbfgs")
    history = model.fit(3, make_data(), verbose=0, shuffle=False)
    assert history["loss"][2] < history["loss"][0]


def test_a_net_that_is_replaced_is_used_and_its_optimizer_missed():
    model = compiled()
    model.fit(1, make_data(), verbose=0)
    model.net = nn.Linear(4, 3)
    assert torch.equal(model.predict(make_data()[0]), model.net(make_data()[0]).detach())
    with pytest.raises(MismatchError, match=r"The net has new parameters, weight for one.*compile"):
        model.fit(1, make_data(), verbose=0)
    model.compile("cross_entropy", "sgd")
    model.fit(1, make_data(), verbose=0)


def test_a_new_head_that_the_optimizer_does_not_know_is_an_error():
    model = compiled()
    model.fit(1, make_data(), verbose=0)
    model.net[2] = nn.Linear(8, 3)
    with pytest.raises(MismatchError, match=r"The net has new parameters, 2\.weight for one"):
        model.fit(1, make_data(), verbose=0)


def test_an_optimizer_that_was_built_before_layers_were_replaced_is_doubted():
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[2] = nn.Linear(8, 3)
    model = kt.Model(net)
    model.compile("cross_entropy", optimizer)
    with pytest.warns(UserWarning, match=r"does not train 2\.weight.*Were layers replaced"):
        model.fit(1, make_data(), verbose=0)


def test_hooks_on_the_model_run_in_every_call():
    model = compiled()
    calls = []
    model.register_forward_hook(lambda *arguments: calls.append(1))
    model.fit(1, make_data(), verbose=0)
    model.evaluate(make_data())
    model.predict(make_data()[0])
    assert len(calls) == 3


def test_a_compiled_net_without_parameters_evaluates():
    model = kt.Model(nn.Identity())
    model.compile("mse", "adam")
    assert model.evaluate((torch.ones(4, 1), torch.zeros(4, 1))) == {"loss": 1.0}


def test_the_defaults_of_torchkeras_and_keras_are_taken():
    model = kt.Model(make_net())
    model.compile("cross_entropy", None, None, None)
    model.fit(np.int64(1), make_data(), callbacks=None, verbose=0)


@pytest.mark.parametrize("name", ["lr", "epoch", "seconds", "loss", "val_loss"])
def test_names_that_stand_for_something_else_are_no_metrics(name):
    with pytest.raises(ValueError, match=f"The metric name '{name}' stands for something else in the history"):
        kt.Model(make_net()).compile("mse", metrics={name: "mae"})


def test_a_layer_of_a_subclass_never_replaces_one_of_the_net_it_wraps():
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 4)

        def forward(self, x):
            return self.head(x)

    class Probe(kt.Model):
        def __init__(self):
            super().__init__(Body())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.net(x).relu())

    model = Probe()
    model.compile("cross_entropy", "sgd")
    model.fit(1, make_data(), verbose=0)
    assert sorted(model.state_dict()) == ["head.bias", "head.weight", "net.head.bias", "net.head.weight"]
    assert model.net.head.out_features == 4


def test_a_copy_made_in_the_middle_of_fit_trains_on_by_itself():
    copies = []

    class Copies(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            copies.append(copy.deepcopy(self.model))

    model = compiled()
    model.fit(2, make_data(), callbacks=[Copies()], verbose=0, shuffle=False, steps_per_epoch=1)
    first = copies[0]
    first.fit(1, make_data(), verbose=0, shuffle=False)
    assert torch.equal(first.net[0].weight, model.net[0].weight)


def test_the_workers_of_a_loader_that_is_left_in_the_middle_end_with_fit():
    loader = DataLoader(TensorDataset(*make_data()), 5, num_workers=1)
    watch = kt.Callback()
    compiled().fit(2, loader, callbacks=[watch], verbose=0, steps_per_epoch=2)
    assert watch.run
    assert not multiprocessing.active_children()


def test_metric_objects_are_used_and_not_copied():
    class Counts:
        def __init__(self):
            self.seen = 0
            self.lock = threading.Lock()

        def __call__(self, y_pred, y_true):
            self.seen += len(y_pred)
            return 0.5

    counts = Counts()
    model = compiled(metrics={"counts": counts})
    assert model.evaluate(make_data(), batch_size=7)["counts"] == 0.5
    assert counts.seen == 30


def test_named_metrics_can_be_called_in_a_step_of_ones_own():
    model = compiled(metrics=["accuracy"])
    output = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    assert model.metrics_dict["accuracy"](output, torch.tensor([0, 1])) == 0.5


def test_stop_out_of_an_evaluation_inside_fit_ends_fit():
    class Inner(kt.Callback):
        def on_test_end(self, logs):
            self.model.stop("seen enough")

    class Outer(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.evaluate(make_data(), callbacks=[Inner()])

    assert compiled().fit(5, make_data(), callbacks=[Outer()], verbose=0).epoch == [0]


def test_a_step_by_hand_points_to_train_on_batch():
    for verb in ("train_step", "evaluate_step"):
        with pytest.raises(NotCompiledError, match=rf"{verb} is a part of fit.*train_on_batch\(x, y\)"):
            getattr(compiled(), verb)(None)


def test_a_callback_may_evaluate_in_the_middle_of_fit():
    seen = []

    class Middle(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            before = dict(logs)
            seen.append(self.model.evaluate(make_data(), batch_size=30))
            assert dict(logs) == before
            self.model.stop("in the middle")

    history = compiled(metrics=["accuracy"]).fit(3, make_data(), callbacks=[Middle()], verbose=0, batch_size=10)
    assert len(seen) == 1
    assert history.epoch == [0]


def test_labels_from_one_are_explained_before_the_first_step():
    x, y = make_data()
    model = compiled()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        MismatchError, match=r"labels go from 1 to 3, but the net has 3 outputs.*begin at 0: type y - 1"
    ):
        model.fit(1, (x, y + 1), verbose=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_validation_data_are_checked_too():
    x, y = make_data()
    with pytest.raises(MismatchError, match="labels go from 1 to 3"):
        compiled().fit(1, (x, y), (x, y + 1), verbose=0)


def test_column_against_row_is_explained_before_the_first_step():
    model = compiled(nn.Linear(4, 1), loss="mse")
    with pytest.raises(MismatchError, match=r"Type y\[\.\.\., None\]"):
        model.fit(1, (torch.randn(8, 4), torch.randn(8)), verbose=0)


def test_data_without_targets_are_explained():
    with pytest.raises(MismatchError, match="needs targets, but batch 0 has none"):
        compiled().fit(1, torch.randn(8, 4), verbose=0)


def test_a_net_that_cannot_learn_is_explained():
    net = make_net().requires_grad_(False)
    model = compiled(net)
    with pytest.raises(MismatchError, match="Every parameter of the net is frozen"):
        model.fit(1, make_data(), verbose=0)
    assert model.evaluate(make_data())["loss"] > 0


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "deep/er/weights.pt"])
def test_weights_survive_a_file(tmp_path, name):
    model = compiled()
    model.fit(1, make_data(), verbose=0)
    model.save_weights(tmp_path / name)
    torch.manual_seed(9)
    other = kt.Model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    other.load_weights(tmp_path / name)
    assert torch.equal(other.predict(make_data()[0]), model.predict(make_data()[0]))


def test_weights_of_another_net_are_refused_and_nothing_is_changed(tmp_path):
    kt.Model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))).save_weights(tmp_path / "w.pt")
    model = compiled()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        CheckpointError, match=r"2 of another shape: 2\.weight: \(5, 8\) in the file, \(3, 8\) in the net"
    ):
        model.load_weights(tmp_path / "w.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_device_that_is_not_there_is_an_error_in_compile():
    with pytest.raises(ValueError, match=r"The device 'xpu:7' is not there|Type device='auto'"):
        kt.Model(make_net()).compile("mse", device="xpu:7")


def test_callbacks_must_be_a_list_of_objects():
    model = compiled()
    with pytest.raises(TypeError, match="callbacks is a list"):
        model.fit(1, make_data(), callbacks=kt.Callback(), verbose=0)
    with pytest.raises(TypeError, match=r"The callback Callback is a class; pass an object: Callback\(\.\.\.\)"):
        model.fit(1, make_data(), callbacks=[kt.Callback], verbose=0)


@pytest.mark.parametrize("verb", ["evaluating", "predicting"])
def test_flags_of_keras_end_a_call_after_its_batch(verb):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    stop = kt.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: setattr(model, f"stop_{verb}", True),
        on_predict_batch_end=lambda batch, logs: setattr(model, f"stop_{verb}", batch == 1),
    )
    if verb == "predicting":
        assert len(model.predict(x, batch_size=2, callbacks=[stop])) == 4
    else:
        expected = model.test_on_batch(x[:2], y[:2])["loss"]
        assert model.evaluate((x, y), batch_size=2, callbacks=[stop])["loss"] == pytest.approx(expected)
        with pytest.raises(kt.errors.BusyError, match=r"model\.stop_evaluating is for evaluate and predict"):
            model.fit(1, (x, y), (x, y), callbacks=[stop], verbose=0)
    assert not model.stop_evaluating
    assert not model.stop_predicting


def test_a_callback_that_evaluates_another_model_inside_fit_comes_back():
    def compiled():
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", "sgd")
        return model

    model, teacher, seen = compiled(), compiled(), []
    data = (torch.randn(8, 2), torch.randn(8, 1))

    class Mine(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            teacher.evaluate(data, callbacks=[self])
            seen.append((self.model is model, self.run.trains, self.run.state.step))

    model.fit(2, data, batch_size=4, callbacks=[Mine()], verbose=0)
    assert seen == [(True, True, 2), (True, True, 4)]


def test_stop_training_is_that_of_fit_also_inside_an_evaluation_that_a_callback_makes():
    model, seen = kt.Model(nn.Linear(2, 1)), []
    model.compile("mse", "sgd")
    data = (torch.randn(8, 2), torch.randn(8, 1))

    def stop(batch, logs):
        model.stop_training = True
        seen.append((model.stop_training, model.stop_evaluating))

    looks = kt.callbacks.LambdaCallback(on_test_batch_end=stop)
    nested = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.evaluate(data, callbacks=[looks]))
    assert len(model.fit(3, data, callbacks=[nested], verbose=0)) == 1
    assert seen == [(True, False)]
