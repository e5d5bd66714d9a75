import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.data import Batch
from kerastorch.errors import MismatchError, NotCompiledError
from kerastorch.metrics import MetricSet
from kerastorch.resolve import Plan
from kerastorch.step import bind, by_batch, clear_gradients, detached, loss_of, own_train_step, train_step
from kerastorch.strategy import Strategy
from kerastorch.wrapper import Wrapper


class Record(nn.Module):
    def forward(self, first, second=None, *, flag=None):
        return first, second, flag


class Anything(nn.Module):
    def forward(self, *places, **names):
        return places, names


def test_a_tuple_spreads_over_positional_parameters():
    assert bind(Record(), (1, 2))((1, 2)) == (1, 2, None)
    assert bind(Record(), [1])([1]) == (1, None, None)
    assert bind(Anything(), (1, 2, 3))((1, 2, 3)) == ((1, 2, 3), {})


def test_a_tuple_that_is_too_long_goes_in_whole():
    assert bind(Record(), (1, 2, 3))((1, 2, 3)) == ((1, 2, 3), None, None)


def test_a_dict_spreads_over_the_parameters_of_its_names():
    assert bind(Record(), {"first": 1, "flag": 2})({"first": 1, "flag": 2}) == (1, None, 2)
    assert bind(Anything(), {"any": 1})({"any": 1}) == ((), {"any": 1})


def test_a_dict_with_other_names_goes_in_whole():
    assert bind(Record(), {"other": 1})({"other": 1}) == ({"other": 1}, None, None)


def test_a_tensor_and_what_moves_itself_go_in_whole():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(2, 1)])
    assert bind(Record(), torch.zeros(1))(3) == (3, None, None)
    assert bind(Record(), packed)(packed)[0] is packed


def test_a_wrapper_takes_what_its_net_takes():
    wrapper = Wrapper(Record())
    assert bind(wrapper, {"other": 1})({"other": 1}) == ({"other": 1}, None, None)
    assert bind(wrapper, (1, 2, 3))((1, 2, 3)) == ((1, 2, 3), None, None)
    assert bind(wrapper, (1, 2))((1, 2)) == (1, 2, None)
    for outer in (Wrapper(wrapper), torch.nn.DataParallel(Record()), Wrapper(torch.compile(Record(), backend="eager"))):
        assert bind(outer, (1, 2, 3))((1, 2, 3)) == ((1, 2, 3), None, None)


def test_hooks_of_the_net_run():
    calls = []
    net = Record()
    net.register_forward_hook(lambda *arguments: calls.append(1))
    bind(net, (1, 2))((1, 2))
    bind(net, 1)(1)
    assert calls == [1, 1]


def test_detached_cuts_every_tensor_off_its_graph():
    leaf = torch.ones(2, requires_grad=True)
    result = detached({"a": leaf * 2, "b": [leaf, "text"]})
    assert not result["a"].requires_grad
    assert not result["b"][0].requires_grad
    assert result["b"][1] == "text"
    assert not detached(leaf).requires_grad


def test_a_step_without_optimizer_or_loss_says_so():
    run = SimpleNamespace(state=SimpleNamespace(optimizer=None), loss=None, train_loss=None)
    with pytest.raises(NotCompiledError, match="without an optimizer"):
        train_step(run, None, None)
    with pytest.raises(NotCompiledError, match="without a loss"):
        loss_of(run, None, None, "train")


def test_own_steps_are_called_by_batch_or_by_features_and_labels():
    batch = Batch(0, 1, 2, size=4)
    assert by_batch(lambda features, labels: (features, labels))(batch) == (1, 2)
    assert by_batch(lambda it: it)(batch) is batch
    assert by_batch(lambda it, clip=1.0: it)(batch) is batch


def test_an_own_step_that_called_the_ordinary_one_is_not_counted_twice():
    state = SimpleNamespace(step=0, pending=0, metrics=MetricSet({}))
    run = SimpleNamespace(
        state=state, nan="off", left_out=[], plan=Plan(), splitter=None, averaging=None, strategy=Strategy()
    )
    batch = Batch(0, 1, 2, size=4)
    own_train_step(run, lambda it: {"loss": 3.0}, batch)
    assert state.step == 1
    assert dict(state.metrics) == {"loss": 3.0}
    assert state.metrics.samples == 4


def plain_run():
    state = SimpleNamespace(step=0, metrics=MetricSet({}))
    return SimpleNamespace(state=state, nan="off", left_out=[], averaging=None, strategy=Strategy())


def ordinary(run):
    def step(batch):
        run.state.step += 1
        run.state.metrics.update([("loss", torch.tensor(1.0), 4)], None, batch)

    return step


def test_an_own_step_may_add_values_to_those_of_the_ordinary_one():
    run = plain_run()
    batch = Batch(0, 1, 2, size=4)
    step = ordinary(run)
    own_train_step(run, step, batch)
    own_train_step(run, lambda it: step(it) or {"norm": 2.0}, batch)
    assert run.state.step == 2
    assert run.state.metrics.samples == 8
    assert dict(run.state.metrics) == {"loss": 1.0, "norm": 2.0}
    with pytest.raises(MismatchError, match="The ordinary step has noted 'loss' already; return it under another name"):
        own_train_step(run, lambda it: step(it) or {"loss": 5.0}, batch)


@pytest.mark.parametrize("value", [None, {}, 3])
def test_an_own_step_that_notes_nothing_is_an_error(value):
    run = plain_run()
    with pytest.raises(MismatchError, match=r"must return a dict of values, such as {'loss': loss}; got"):
        own_train_step(run, lambda it: value, Batch(0, 1, 2, size=4))


def test_gradients_are_cleared_by_the_optimizer_itself_where_it_has_a_way_of_its_own():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    calls = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            calls.append(set_to_none)

    for kind in (torch.optim.SGD, Own):
        optimizer = kind([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.5}], lr=0.1)
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        clear_gradients(optimizer)
        assert [parameter.grad is None for parameter in parameters] == [kind is torch.optim.SGD] * 3
    assert calls == [True]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"clip_value": 1.0},
            "clip_value is not used: train_step is your own. Call super().train_step(batch), or do it there.",
        ),
        ({"accumulate": 2, "clip_norm": 1.0}, "accumulate and clip_norm are not used: train_step is your own."),
        (
            {"precision": "bf16-mixed", "accumulate": 2, "clip_norm": 1.0},
            "accumulate, clip_norm and precision are not used: train_step is your own. Call super().train_step(batch), "
            "or do it there: precision by torch.autocast.",
        ),
    ],
)
def test_all_that_an_own_step_leaves_out_is_named_once(options, text):
    class Own(kt.Model):
        def train_step(self, batch):
            loss = self.loss_func(self(batch.x), batch.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    model = Own(torch.nn.Linear(2, 2))
    model.compile("mse", "sgd", **options)
    with pytest.warns(UserWarning, match=f"^{re.escape(text)}") as warned:
        model.fit(2, (torch.ones(4, 2), torch.ones(4, 2)), batch_size=2, verbose=0)
    assert len(warned) == 1
