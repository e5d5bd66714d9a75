import copy
import io
import pickle
import re
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.func import functional_call

from kerastorch.wrapper import Wrapper

X = torch.linspace(-1, 1, 12).reshape(4, 3)


class Net(nn.Module):
    """Parameters and buffers of its own, an attribute, a property and two methods."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.tensor(0.5))
        self.register_buffer("scratch", torch.tensor(0.0), persistent=False)
        self.classes = ["cat", "dog"]

    def forward(self, x, *, sign=1):
        return sign * (self.body(x) * self.scale + self.shift)

    def encode(self, x):
        return self.body(x)

    @property
    def width(self):
        return self.body[0].out_features

    def get_extra_state(self):
        return {"classes": self.classes}

    def set_extra_state(self, state):
        self.classes = state["classes"]


class Own(Wrapper):
    """A subclass that is the net, with a submodule named `net`."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.extra = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.net(x) + self.extra


class Larger(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.part(x))


NETS = {
    "Net": Net,
    "Linear": lambda: nn.Linear(3, 3),
    "Sequential": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()),
    "wrapped twice": lambda: Wrapper(Net()),
}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


def others(module):
    """Other values for every tensor of a state."""
    return OrderedDict(
        (name, value + 1 if isinstance(value, torch.Tensor) else {"classes": ["new"]})
        for name, value in module.state_dict().items()
    )


def same(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


@every_net
def test_names_are_those_of_the_net(make):
    net = make()
    model = Wrapper(net)
    for names in ("named_parameters", "named_buffers"):
        found, expected = list(getattr(model, names)()), list(getattr(net, names)())
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert all(one is other for (_, one), (_, other) in zip(found, expected, strict=True))
        prefixed = [f"p.{name}" for name, _ in expected]
        assert [name for name, _ in getattr(model, names)("p")] == prefixed
        assert {name for name, _ in getattr(model, names)(remove_duplicate=False)} == {name for name, _ in expected}
    same(model.state_dict(), net.state_dict())
    same(model.state_dict(prefix="p."), net.state_dict(prefix="p."))


@every_net
def test_modules_have_the_names_of_the_net(make):
    net = make()
    model = Wrapper(net)
    assert list(model.modules()) == [model, *net.modules()]
    assert list(model.named_modules()) == [("", model), *net.named_modules()]
    assert list(model.named_modules(prefix="p"))[1:] == list(net.named_modules(prefix="p"))
    twice = nn.ModuleList([model, model])
    assert [name for name, _ in twice.named_modules()].count("0") >= 2
    assert not [name for name, _ in twice.named_modules() if name.startswith("1")]
    assert [name for name, _ in twice.named_modules(remove_duplicate=False) if name.startswith("1")]
    for name, module in net.named_modules():
        if name:
            assert model.get_submodule(name) is module
    for name, parameter in net.named_parameters():
        assert model.get_parameter(name) is parameter


@every_net
def test_a_state_goes_round(make):
    net = make()
    model, state = Wrapper(net), others(net)
    before = OrderedDict(state)
    result = model.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    same(state, before)
    same(net.state_dict(), state)
    same(model.state_dict(), state)
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    same(fresh.state_dict(), state)


@every_net
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_goes_round_inside_a_larger_module(make, assign):
    net, twin = make(), make()
    larger, plain = Larger(Wrapper(net)), Larger(twin)
    assert list(larger.state_dict()) == list(plain.state_dict())
    names = [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in larger.named_parameters()] == names
    state = others(plain)
    before = OrderedDict(state)
    result = larger.load_state_dict(state, assign=assign)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    same(state, before)
    same(larger.state_dict(), state)
    same(net.state_dict(), {name.removeprefix("part."): value for name, value in state.items() if "part" in name})
    plain.load_state_dict(larger.state_dict())
    same(plain.state_dict(), state)


def test_two_wrappers_in_one_module_keep_their_names():
    pair = nn.Sequential(Wrapper(nn.Linear(3, 3)), Wrapper(nn.Linear(3, 3)))
    plain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    plain.load_state_dict(pair.state_dict())
    assert torch.equal(plain(X), pair(X))
    pair.load_state_dict(others(plain))
    plain.load_state_dict(others(plain))
    assert torch.equal(plain(X), pair(X))


@pytest.mark.parametrize("wrap", [Wrapper, lambda net: Larger(Wrapper(net))])
def test_names_that_do_not_agree_are_told(wrap):
    model = wrap(nn.Linear(3, 3))
    prefix = "part." if isinstance(model, Larger) else ""
    state = model.state_dict()
    state[f"{prefix}other"] = state.pop(f"{prefix}bias")
    missing, unexpected = rf"{prefix}(net\.)?bias", rf"{prefix}(net\.)?other"  # torch names where it looked
    with pytest.raises(RuntimeError, match=rf'Missing key\(s\) in state_dict: "{missing}".*\n.*: "{unexpected}"'):
        model.load_state_dict(state)
    result = model.load_state_dict(state, strict=False)
    assert [re.fullmatch(missing, name) is not None for name in result.missing_keys] == [True]
    assert [re.fullmatch(unexpected, name) is not None for name in result.unexpected_keys] == [True]


def test_shapes_that_do_not_agree_are_told():
    with pytest.raises(RuntimeError, match=r"size mismatch for weight"):
        Wrapper(nn.Linear(3, 3)).load_state_dict(nn.Linear(4, 3).state_dict())


def test_a_state_is_loaded_in_place_or_assigned():
    net, state = nn.Linear(3, 3), nn.Linear(3, 3).state_dict()
    weight = net.weight
    Wrapper(net).load_state_dict(state)
    assert net.weight is weight
    Wrapper(net).load_state_dict(state, assign=True)
    assert net.weight is not weight


@every_net
def test_it_is_called_like_the_net(make):
    net = make().eval()
    assert torch.equal(Wrapper(net)(X), net(X))


def test_arguments_and_hooks_of_the_net_are_used():
    net, seen = Net().eval(), []
    net.register_forward_hook(lambda module, inputs, output: seen.append(module))
    assert torch.equal(Wrapper(net)(X, sign=-1), -net(X))
    assert seen == [net, net]


@every_net
def test_a_copy_is_whole_and_its_own(make):
    model = Wrapper(make()).eval()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert type(twin) is Wrapper
        assert torch.equal(twin(X), model(X))
        same(twin.state_dict(), model.state_dict())
        larger = Larger(twin)
        larger.load_state_dict(others(larger))
        assert not torch.equal(twin(X), model(X))


@every_net
def test_functional_call_uses_other_parameters_and_leaves_its_own(make):
    model = Wrapper(make()).eval()
    before = copy.deepcopy(model.state_dict())
    values = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(functional_call(model, values, (X,)), twin(X))
    assert not torch.equal(model(X), twin(X))
    same(model.state_dict(), before)
    assert not set(vars(model)) & {name for name, _ in model.named_parameters()}


@every_net
def test_gradients_by_functional_call_are_those_of_the_net(make):
    net = make().eval()
    model, values = Wrapper(net), dict(Wrapper(net).named_parameters())
    gradients = torch.func.grad(lambda values: functional_call(model, values, (X,)).sum())(values)
    net(X).sum().backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad)


def test_buffers_by_functional_call_are_used():
    net = Net().eval()
    model = Wrapper(net)
    found = functional_call(model, {"shift": torch.tensor(100.0)}, (X,))
    assert torch.allclose(found, net(X) - 0.5 + 100)
    assert net.shift == 0.5


def test_attributes_that_it_does_not_have_are_those_of_the_net():
    net = Net()
    model = Wrapper(net)
    assert model.classes is net.classes
    assert model.scale is net.scale
    assert model.shift is net.shift
    assert model.width == 3
    assert model.encode.__self__ is net
    assert model.net is net
    assert hasattr(model, "classes")
    assert not hasattr(model, "missing")
    assert getattr(model, "missing", 3) == 3
    with pytest.raises(AttributeError, match=r"'Net' object has no attribute 'missing'"):
        model.missing  # noqa: B018
    with pytest.raises(AttributeError, match="__len__"):
        model.__len__  # noqa: B018


def test_attributes_that_are_set_are_its_own():
    net = Net()
    model = Wrapper(net)
    model.classes = ["bird"]
    assert model.classes == ["bird"]
    assert net.classes == ["cat", "dog"]


def test_the_whole_net_moves_and_changes_mode():
    net = Net()
    model = Wrapper(net)
    assert model.double() is model
    assert {value.dtype for value in [*net.parameters(), net.shift]} == {torch.float64}
    assert not model.eval().training
    assert not any(part.training for part in net.modules())
    assert model.train().training
    assert all(part.training for part in net.modules())
    model.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    seen = []
    model.apply(seen.append)
    assert set(seen) == set(model.modules())


def test_an_optimizer_trains_the_net():
    net = nn.Linear(3, 1)
    model, before = Wrapper(net), net.weight.detach().clone()
    assert list(model.parameters()) == list(net.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    assert not torch.equal(net.weight, before)
    model.zero_grad()
    assert net.weight.grad is None


@every_net
def test_it_prints_like_the_net(make):
    net = make()
    assert repr(Wrapper(net)) == repr(net)
    assert repr(nn.Sequential(Wrapper(net))) == repr(nn.Sequential(net))


def test_it_can_be_exported():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
    assert torch.equal(torch.export.export(Wrapper(net), (X,)).module()(X), net(X))


def test_a_subclass_without_a_net_is_the_net():
    model = Own()
    assert model.module is model
    assert [name for name, _ in model.named_parameters()] == ["extra", "net.weight", "net.bias"]
    assert list(model.state_dict()) == ["extra", "net.weight", "net.bias"]
    assert [name for name, _ in model.named_modules()] == ["", "net"]
    assert torch.equal(model(X), model.net(X) + 1)
    assert repr(model).startswith("Own(\n  (net): Linear(")
    with pytest.raises(AttributeError, match=r"'Own' object has no attribute 'weight'"):
        model.weight  # noqa: B018


@pytest.mark.parametrize("wrap", [lambda net: net, Larger, lambda net: Larger(Wrapper(net))])
def test_a_subclass_with_an_attribute_net_goes_round(wrap):
    model = wrap(Own())
    state = others(model)
    before = OrderedDict(state)
    model.load_state_dict(state)
    same(state, before)
    same(model.state_dict(), state)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same(twin.state_dict(), state)


class Scaled(Wrapper):
    """A subclass that adds a parameter to the net it wraps."""

    def __init__(self, net):
        super().__init__(net)
        self.factor = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.factor * self.net(x)


class Doubled(Wrapper):
    """A subclass that only calls the net in another way."""

    def forward(self, x):
        return 2 * self.net(x)


def test_a_subclass_with_parameters_of_its_own_names_them_beside_the_net():
    net = nn.Linear(3, 3)
    model = Scaled(net)
    names = ["factor", "net.weight", "net.bias"]
    assert model.module is model
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_modules()] == ["", "net"]
    assert torch.equal(model(X), 3 * net(X))
    assert model.in_features == 3
    assert repr(model).startswith("Scaled(\n  (net): Linear(")


@pytest.mark.parametrize("wrap", [lambda net: net, Larger, lambda net: Larger(Wrapper(net))])
@pytest.mark.parametrize("kind", [Scaled, Doubled])
def test_a_subclass_with_a_net_goes_round(kind, wrap):
    model = wrap(kind(nn.Linear(3, 3)))
    state = others(model)
    before = OrderedDict(state)
    result = model.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    same(state, before)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same(twin.state_dict(), state)
        assert torch.equal(twin(X), model(X))


def test_a_subclass_with_a_forward_of_its_own_keeps_the_names_of_the_net():
    net = nn.Linear(3, 3)
    model = Doubled(net)
    assert model.module is model
    assert Wrapper(net).module is net
    assert list(model.state_dict()) == ["weight", "bias"]
    assert [name for name, _ in model.named_parameters()] == ["weight", "bias"]
    assert torch.equal(model(X), 2 * net(X))


def test_without_a_net_forward_must_be_written():
    for model, name in ((Wrapper(), "Wrapper"), (type("Mine", (Wrapper,), {})(), "Mine")):
        with pytest.raises(NotImplementedError) as error:
            model(X)
        assert str(error.value) == f"{name} wraps no net and has no forward. Write one, or Model(net)."


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (nn.Linear, f"Model wraps an nn.Module; got {nn.Linear!r}. Type Model(Linear())."),
        (3, "Model wraps an nn.Module; got 3."),
        ([nn.Linear(1, 1)], "Model wraps an nn.Module; got [Linear(in_features=1, out_features=1, bias=True)]."),
    ],
)
def test_what_is_no_module_is_refused(net, text):
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        Wrapper(net)


def test_functional_call_of_a_subclass_uses_other_parameters():
    model = Own()
    values = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    assert not functional_call(model, values, (X,)).any()
    assert model(X).any()


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x):
        return self.net(x)


def test_a_net_with_an_attribute_net_keeps_its_names():
    net = Outer()
    model = Wrapper(net)
    assert model.net is net
    assert model.module is net
    assert list(model.state_dict()) == ["net.weight", "net.bias"]
    assert [name for name, _ in model.named_parameters()] == ["net.weight", "net.bias"]
    for whole in (model, Larger(model)):
        state = others(whole)
        whole.load_state_dict(state)
        same(whole.state_dict(), state)


@every_net
def test_what_is_set_under_a_name_of_the_net_replaces_it(make):
    net = make()
    model, names = Wrapper(net), list(net.state_dict())
    for name, parameter in list(net.named_parameters()):
        if "." not in name:
            setattr(model, name, nn.Parameter(parameter + 1))
            assert torch.equal(net.get_parameter(name), parameter + 1)
    for name, child in list(getattr(net, "net", net).named_children()):
        fresh = copy.deepcopy(child)
        setattr(model, name, fresh)
        assert net.get_submodule(name) is fresh
    assert list(model.state_dict()) == names


def test_a_new_head_for_fine_tuning_is_used_and_trained():
    net = nn.Sequential(OrderedDict(body=nn.Linear(3, 3), head=nn.Linear(3, 1000)))
    model = Wrapper(net)
    model.head = nn.Linear(3, 2)
    assert model(X).shape == (4, 2)
    assert net.head is model.head
    assert list(model.state_dict()) == ["body.weight", "body.bias", "head.weight", "head.bias"]


def test_a_module_that_is_there_twice_is_listed_once():
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, layer)
    assert list(Wrapper(net).named_modules())[1:] == list(net.named_modules())
    every = list(Wrapper(net).named_modules(remove_duplicate=False))[1:]
    assert every == list(net.named_modules(remove_duplicate=False))
    assert len(every) == 3


def test_a_tied_parameter_is_counted_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    model = Wrapper(net)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
