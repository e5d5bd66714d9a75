import functools

import numpy as np
import pytest
import torch
from torch import nn

from kerastorch.sklearn import build
from tests.sklearn.nets import Net, Words

TOLD = {"n_features": 4, "n_outputs": 3}


def test_a_factory_is_told_what_it_asks_for():
    net = build.net(Net, {"width": 5}, TOLD)
    assert [tuple(each.shape) for each in net.parameters()] == [(5, 4), (5,), (3, 5), (3,)]
    assert build.net(Words, None, TOLD).table.weight.shape == (10, 3)
    assert build.net(lambda: nn.Linear(2, 2), None, TOLD).out_features == 2


def test_what_the_user_has_set_is_not_told_again():
    assert build.net(Net, {"n_outputs": 7}, TOLD)[-1].out_features == 7
    assert build.net(functools.partial(Net, n_outputs=7), None, TOLD)[-1].out_features == 7


def test_a_factory_that_takes_anything_is_told_nothing():
    seen = {}

    def factory(**options):
        seen.update(options)
        return nn.Linear(1, 1)

    build.net(factory, {"depth": 2}, TOLD)
    assert seen == {"depth": 2}


def test_a_factory_that_does_not_tell_its_parameters_is_called_with_those_that_are_set():
    class Silent:
        __signature__ = "unknown"

        def __call__(self, width):
            return nn.Linear(width, width)

    assert build.net(Silent(), {"width": 3}, TOLD).in_features == 3


@pytest.mark.parametrize(
    ("factory", "params", "error", "text"),
    [
        (nn.Linear(1, 1), None, TypeError, r"got Linear Linear\(.*For this one type functools\.partial"),
        ("Net", None, TypeError, "net_factory is a class or a function that returns a net.*got str 'Net'"),
        (lambda: 3, None, TypeError, "net_factory returns a net, an nn.Module; <lambda> returned 3"),
        (Net, {"widht": 3}, ValueError, "net_params has 'widht', but Net does not take it. Did you mean 'width'"),
        (lambda: nn.Linear(1, 1), {"width": 3}, ValueError, "<lambda> does not take it. It takes nothing"),
    ],
)
def test_what_cannot_make_a_net(factory, params, error, text):
    with pytest.raises(error, match=text):
        build.net(factory, params, TOLD)


@pytest.mark.parametrize("spec", ["sgd", torch.optim.SGD, functools.partial(torch.optim.SGD, lr=5.0)])
def test_an_optimizer_has_its_learning_rate_and_its_parameters(spec):
    parameters = list(nn.Linear(1, 1).parameters())
    made = build.optimizer(spec, 0.5, {"momentum": 0.9})(parameters)
    assert isinstance(made, torch.optim.SGD)
    assert (made.defaults["lr"], made.defaults["momentum"]) == (0.5, 0.9)


def test_without_a_learning_rate_it_has_its_own():
    parameters = list(nn.Linear(1, 1).parameters())
    assert build.optimizer("adam", None, None)(parameters).defaults["lr"] == 1e-3
    assert build.optimizer(functools.partial(torch.optim.SGD, lr=5.0), None, None)(parameters).defaults["lr"] == 5.0
    adam = build.optimizer("adam", 0.1, {"fused": False})(parameters)
    assert (adam.defaults["lr"], adam.defaults["fused"]) == (0.1, False)


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match="each fit begins with a new net; got SGD"):
        build.optimizer(torch.optim.SGD(nn.Linear(1, 1).parameters()), None, None)
    with pytest.raises(TypeError, match="got NoneType"):
        build.optimizer(None, None, None)
    with pytest.raises(ValueError, match=r"Unknown optimizer 'adm'\. Did you mean 'adam'\?"):
        build.optimizer("adm", None, None)


def params(**given):
    names = ("net_factory", "net_params", "loss", "optimizer", "optimizer_params", "metrics", "device", "lr")
    return dict.fromkeys(names) | given


def test_a_recipe_has_the_learning_rate_that_counts():
    made = build.recipe(params(lr=0.1, optimizer_params={"lr": 0.5, "momentum": 0.9}))
    assert (made["lr"], made["optimizer_params"]) == (0.5, {"momentum": 0.9})
    assert build.recipe(params(lr=0.1, optimizer_params="what fit would refuse"))["lr"] == 0.1


@pytest.mark.parametrize("rate", [0.25, np.float32(0.25), torch.tensor(0.25)])
def test_a_learning_rate_that_was_set_reaches_the_optimizer(rate):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    made = build.recipe(params(lr=0.1))
    build.go_on(made, build.recipe(params(lr=rate)), optimizer)
    assert (optimizer.param_groups[0]["lr"], float(made["lr"])) == (0.25, 0.25)
    build.go_on(made, build.recipe(params(lr=0.1)), optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("rate", ["fast", -1.0, float("nan")])
def test_what_is_no_learning_rate_does_not_reach_it(rate):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    with pytest.raises(ValueError, match="lr is the learning rate, a number from 0 on; got"):
        build.go_on(build.recipe(params(lr=0.1)), build.recipe(params(lr=rate)), optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_what_a_new_net_would_take_is_warned_of():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    table = np.ones(3)
    made = build.recipe(params(lr=0.1, net_params={"table": table}))
    build.go_on(made, build.recipe(params(lr=0.1, net_params={"table": table})), optimizer)
    with pytest.warns(UserWarning, match="^net_params counts from the next new net on; this fit goes on with the one"):
        build.go_on(made, build.recipe(params(lr=0.1, net_params={"table": np.ones(3)})), optimizer)
    with pytest.warns(UserWarning, match="^loss, net_params, lr count from|^net_params, loss, lr count from"):
        build.go_on(made, build.recipe(params(loss="mse")), optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_dtype_may_be_one_of_torch():
    assert build.dtype(torch.float64) == np.float64
    assert (build.dtype(None), build.dtype("float16")) == ("numeric", "float16")
    with pytest.raises(TypeError, match=r"NumPy has no bfloat16, .* Type dtype='float32'"):
        build.dtype(torch.bfloat16)


@pytest.mark.parametrize("option", [{"foreach": True}, {"differentiable": True}, {"fused": False}, {"foreach": False}])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_how_the_step_is_computed_is_the_users_choice(name, option):
    parameters = list(nn.Linear(1, 1).parameters())
    made = build.optimizer(name, 0.1, option)(parameters).defaults
    assert option.items() <= made.items()
    assert not made["fused"]
    assert build.optimizer(name, 0.1, {"amsgrad": True})(parameters).defaults["fused"]
