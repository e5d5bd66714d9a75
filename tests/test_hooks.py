import inspect
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.data import Batch
from kerastorch.hooks import HOOKS, STAGES, Callback, Hooks


def test_every_hook_is_a_documented_method_of_callback():
    methods = {
        name for name, value in vars(Callback).items() if inspect.isfunction(value) and not name.startswith("__")
    }
    assert methods == {*HOOKS, "around", "state_dict", "load_state_dict", "set_model"}
    assert all(getattr(Callback, name).__doc__ for name in methods)


def test_only_overridden_hooks_are_called():
    calls = []

    class One(Callback):
        def on_epoch_end(self, epoch, logs):
            calls.append((epoch, logs))

    hooks = Hooks([One(), Callback()], run=None, model=None)
    for name in HOOKS:
        hooks.emit(name, 1, {}) if name == "on_epoch_end" else hooks.emit(name)
    assert calls == [(1, {})]
    assert not hooks.prepares


def test_callbacks_are_called_in_their_order_and_know_run_and_model():
    calls = []

    class Named(Callback):
        def __init__(self, name):
            self.name = name

        def on_train_begin(self, logs):
            calls.append((self.name, self.run, self.model))

    Hooks([Named("a"), Named("b")], run="the run", model="the model").emit("on_train_begin", {})
    assert calls == [("a", "the run", "the model"), ("b", "the run", "the model")]


def test_prepare_batch_goes_through_every_callback():
    class Add(Callback):
        def prepare_batch(self, batch):
            return Batch(batch.index, batch.x + 1)

    hooks = Hooks([Add(), Callback(), Add()], run=None, model=None)
    assert hooks.prepares
    assert hooks.prepare(Batch(0, 1)).x == 3


def test_a_prepare_batch_that_returns_nothing_is_named():
    class Forgets(Callback):
        def prepare_batch(self, batch):
            batch.x = batch.x * 2

    with pytest.raises(TypeError, match="prepare_batch of Forgets must return a Batch; got None"):
        Hooks([Forgets()], run=None, model=None).prepare(Batch(0, 1))


def test_an_on_exception_that_fails_hides_neither_the_error_nor_the_other_callbacks():
    calls = []

    class Fails(Callback):
        def on_exception(self, error):
            raise KeyError("another")

    class Watches(Callback):
        def on_exception(self, error):
            calls.append(error)

    error = ValueError("the first")
    Hooks([Fails(), Watches()], run=None, model=None).emit_exception(error)
    assert calls == [error]
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["kerastorch: on_exception of Fails failed as well: KeyError('another')"]


def test_a_misspelt_hook_is_an_error_with_a_suggestion():
    class Typo(Callback):
        def on_epoch_ends(self, epoch, logs):
            pass

    with pytest.raises(AttributeError, match=r"Typo\.on_epoch_ends is no hook .* Did you mean 'on_epoch_end'\?"):
        Hooks([Typo()], run=None, model=None)


def test_what_is_no_callback_is_an_error():
    with pytest.raises(TypeError, match=r"A callback is a kerastorch\.Callback; got 3"):
        Hooks([3], run=None, model=None)


def test_functions_as_callbacks():
    calls = []
    callback = kt.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: calls.append(epoch), on_train_begin=lambda logs: calls.append("begin")
    )
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    model.fit(2, (torch.zeros(4, 2), torch.zeros(4, 1)), callbacks=[callback], verbose=0)
    assert calls == ["begin", 0, 1]


def test_functions_for_hooks_that_do_not_exist_are_an_error():
    with pytest.raises(TypeError, match=r"There is no hook 'on_epoch_stop'\. Did you mean 'on_epoch_"):
        kt.callbacks.LambdaCallback(on_epoch_stop=print)
    with pytest.raises(TypeError, match="on_epoch_end is a function; got 3"):
        kt.callbacks.LambdaCallback(on_epoch_end=3)


def order_of(hook, *callbacks):
    called = []
    for callback in callbacks:
        setattr(callback, hook, lambda *arguments, name=callback.stage: called.append(name))
    Hooks(callbacks, run=None, model=None).emit(hook)
    return called


def of_stage(name):
    callback = Callback()
    callback.stage = name
    return callback


@pytest.mark.parametrize("hook", [name for name in HOOKS if name not in ("on_train_end", "on_exception")])
def test_stages_decide_the_order_not_the_list(hook):
    if hook != "prepare_batch":
        assert order_of(hook, *map(of_stage, reversed(STAGES))) == list(STAGES)


@pytest.mark.parametrize("hook", ["on_train_end", "on_exception"])
def test_at_the_end_ordinary_callbacks_find_the_net_as_it_is_kept(hook):
    order = order_of(hook, *map(of_stage, STAGES))
    assert sorted(order) == sorted(STAGES)
    assert order.index("weights") < order.index("monitor") < order.index("ordinary") < order.index("checkpoint")


def test_an_unknown_stage_is_named():
    with pytest.raises(
        ValueError, match=r"Callback.stage is 'moniter'. Did you mean 'monitor'\? Stages are transfer, "
    ):
        Hooks([of_stage("moniter")], run=None, model=None)


def test_what_callbacks_keep_is_found_by_name():
    class Keeps(Callback):
        def state_dict(self):
            return {"value": 1}

    one, two = Keeps(), Keeps()
    assert Hooks([one, Callback(), two], run=None, model=None).stateful() == {"Keeps": one, "Keeps 2": two}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("on_epoch_ends", r"Did you mean 'on_epoch_end'\?"),
        ("on_batch_end", r"Here it is 'on_train_batch_end'\."),
        ("on_validation_end", r"Here it is 'on_test_end'\."),
        ("on_before_optimizer_step", r"Here it is 'on_optimizer_step_begin'\."),
    ],
)
def test_a_hook_of_another_name_raises_with_the_right_one(name, hint):
    callback = type("Mine", (Callback,), {name: lambda self, *arguments: None})()
    with pytest.raises(AttributeError, match=rf"Mine.{name} is no hook and would never be called\. {hint}"):
        Hooks([callback], run=None, model=None)


def test_what_hooks_call_can_be_wrapped():
    calls = []

    class Note(Callback):
        def on_epoch_end(self, epoch, logs):
            calls.append(("inside", epoch))

        def on_exception(self, error):
            raise KeyError("second")

        def prepare_batch(self, batch):
            return None

    def wrapper(owner, name, listener):
        assert isinstance(owner, Note)

        def wrapped(*arguments):
            calls.append(name)
            return listener(*arguments)

        return wrapped

    hooks = Hooks([Callback(), Note()], run=None, model=None)
    hooks.wrap(wrapper)
    hooks.emit("on_epoch_end", 3, {})
    hooks.emit("on_epoch_begin", 3, {})
    assert calls == ["on_epoch_end", ("inside", 3)]
    with pytest.raises(TypeError, match="prepare_batch of Note must return a Batch"):
        hooks.prepare(Batch(0, 1))
    hooks.emit_exception(ValueError("first"))
    assert calls[2:] == ["prepare_batch", "on_exception"]


def test_a_call_happens_inside_the_contexts_of_its_callbacks():
    events = []

    class Inside(Callback):
        def __init__(self, name):
            self.name = name

        @contextmanager
        def around(self, hooks):
            events.append(f"{self.name} in")
            try:
                yield
            finally:
                events.append(f"{self.name} out")

        def on_train_begin(self, logs):
            events.append(f"{self.name} begins")

        def on_train_end(self, logs):
            events.append(f"{self.name} ends")

    model = kt.Model(nn.Linear(1, 1))
    model.compile("mse", "sgd")
    data = (torch.ones(2, 1), torch.ones(2, 1))
    model.fit(1, data, callbacks=[Inside("a"), Inside("b")], verbose=0)
    assert events == ["a in", "b in", "a begins", "b begins", "a ends", "b ends", "b out", "a out"]
    events.clear()
    stop = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        model.fit(1, data, callbacks=[Inside("a"), stop], verbose=0)
    assert events == ["a in", "a begins", "a out"]
    with Callback().around(Hooks([], run=None, model=None)):
        pass


def test_a_callback_may_have_params_of_its_own():
    class Mine(Callback):
        def __init__(self):
            self.params = [1, 2]

    mine = Mine()
    Hooks([mine], run=None, model=None)
    assert mine.params == [1, 2]
    assert Callback.params == {}


def test_around_must_be_a_context():
    class Forgets(Callback):
        def around(self, hooks):
            yield

    hooks = Hooks([Forgets()], run=None, model=None)
    with pytest.raises(TypeError, match=r"Forgets.around must return a context; put @contextmanager"), hooks.around():
        pass
