import functools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kerastorch as kt
from kerastorch.optimizers import groups
from kerastorch.parameters import freeze, matching, unfreeze

RULES = {"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": 0.5}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.body(x))


def a_net():
    torch.manual_seed(0)
    return Net()


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 4, generator=generator)
    return x, x[:, :3].argmax(1)


def read(net, found):
    """The groups with names in the place of parameters."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return [{**group, "params": [names[id(parameter)] for parameter in group["params"]]} for group in found]


@pytest.mark.parametrize("wrap", [lambda net: net, kt.Model])
def test_groups_have_the_options_of_every_rule_that_matches(wrap):
    net = a_net()
    assert read(net, groups(wrap(net), RULES)) == [
        {"name": "rest", "params": ["body.0.weight", "body.1.weight"]},
        {"name": "*.bias", "params": ["body.0.bias", "body.1.bias"], "weight_decay": 0.0},
        {"name": "*.bias + head.*", "params": ["head.0.bias", "head.1.bias"], "weight_decay": 0.0, "lr": 0.5},
        {"name": "head.*", "params": ["head.0.weight", "head.1.weight"], "lr": 0.5},
    ]


def test_the_last_rule_wins():
    net = a_net()
    rules = {"head": {"lr": 0.5, "weight_decay": 0.1}, "head.1": {"lr": 0.1}, "head.1.bias": {"name": "mine"}}
    found = {name: group for group in read(net, groups(net, rules)) for name in group["params"]}
    assert "lr" not in found["body.0.bias"]
    assert (found["head.0.weight"]["lr"], found["head.0.weight"]["weight_decay"]) == (0.5, 0.1)
    assert (found["head.1.weight"]["lr"], found["head.1.weight"]["weight_decay"]) == (0.1, 0.1)
    assert (found["head.1.bias"]["lr"], found["head.1.bias"]["name"]) == (0.1, "mine")


def test_what_no_rule_matches_needs_no_group_where_there_is_nothing():
    net = a_net()
    assert [group["name"] for group in groups(net, {"*": {"lr": 0.1}})] == ["*"]
    assert read(net, groups(net, {})) == [{"name": "rest", "params": [name for name, _ in net.named_parameters()]}]


PATTERNS = ["*", "*.bias", "*.weight", "body", "head.*", "head.[01].bias", "body.1", "*.0.*", "head.1.weight", "?ead"]


@given(
    st.lists(st.tuples(st.sampled_from(PATTERNS), st.dictionaries(st.sampled_from("abc"), st.integers())), max_size=6),
    st.lists(st.sampled_from(PATTERNS[1:]), max_size=2),
)
def test_every_trainable_parameter_is_in_one_group_with_its_options_merged_in_order(listed, frozen):
    net, rules = Net(), dict(listed)
    if frozen:
        freeze(net, *frozen)
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    if not trainable:
        with pytest.raises(ValueError, match="no trainable parameter"):
            groups(net, rules)
        return
    made = groups(net, rules)
    found = read(net, made)
    assert sorted(name for group in found for name in group["params"]) == sorted(trainable)
    for group in found:
        options = {key: value for key, value in group.items() if key not in ("params", "name")}
        for name in group["params"]:
            expected = {}
            for pattern, extra in rules.items():
                expected.update(extra if name in matching(net, [pattern]) else {})
            assert options == expected
    assert all(found[0]["name"] != "rest" or group["name"] != "rest" for group in found[1:])
    assert [group["name"] for group in read(net, groups(net, rules))] == [group["name"] for group in found]
    torch.optim.SGD(made, lr=0.1)


def test_rules_are_left_as_they_are():
    rules = {"*.bias": {"weight_decay": 0.0}}
    net = a_net()
    torch.optim.AdamW(groups(net, rules), lr=0.1)
    assert rules == {"*.bias": {"weight_decay": 0.0}}
    torch.optim.AdamW(groups(net, rules), lr=0.2)


def test_a_shared_parameter_is_in_one_group_by_any_of_its_names():
    net = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3)})
    net["decoder"].weight = net["encoder"].weight
    found = read(net, groups(net, {"decoder": {"lr": 0.1}, "encoder.weight": {"weight_decay": 0.0}}))
    assert [(group["name"], group["params"]) for group in found] == [
        ("rest", ["encoder.bias"]),
        ("decoder", ["decoder.bias"]),
        ("decoder + encoder.weight", ["encoder.weight"]),
    ]


def test_what_is_frozen_is_left_out_and_its_rule_may_stay():
    net = a_net()
    freeze(net, "body")
    rules = {"body": {"lr": 0.1}, "*.bias": {"weight_decay": 0.0}}
    assert [group["name"] for group in groups(net, rules)] == ["rest", "*.bias"]
    unfreeze(net, "body.0")
    assert [group["name"] for group in groups(net, rules)] == ["rest", "body", "body + *.bias", "*.bias"]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad])
@pytest.mark.parametrize("built_late", [True, False])
def test_fit_equals_a_loop_with_groups_written_by_hand(optimizer, built_late):
    nets = [a_net(), a_net()]
    model = kt.Model(nets[0])
    build = functools.partial(optimizer, lr=0.01, weight_decay=0.1)
    model.compile(
        "cross_entropy", (lambda _: build(groups(model, RULES))) if built_late else build(groups(model, RULES))
    )
    model.fit(2, data(), batch_size=8, shuffle=False, verbose=0)
    body, head = nets[1].body, nets[1].head
    own = build(
        [
            {"params": [body[0].weight, body[1].weight]},
            {"params": [body[0].bias, body[1].bias], "weight_decay": 0.0},
            {"params": [head[0].bias, head[1].bias], "lr": 0.5, "weight_decay": 0.0},
            {"params": [head[0].weight, head[1].weight], "lr": 0.5},
        ]
    )
    for _ in range(2):
        for x, y in zip(*(part.split(8) for part in data()), strict=True):
            own.zero_grad()
            nn.functional.cross_entropy(nets[1](x), y).backward()
            own.step()
    assert all(torch.equal(mine, other) for mine, other in zip(*(net.parameters() for net in nets), strict=True))


def test_the_state_of_an_optimizer_with_groups_can_be_saved_and_loaded(tmp_path):
    net = a_net()
    optimizer = torch.optim.AdamW(groups(net, RULES), lr=0.1)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other = torch.optim.AdamW(groups(net, RULES), lr=0.2)
    other.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.1, 0.5, 0.5]
    assert [group["name"] for group in other.param_groups] == [group["name"] for group in groups(net, RULES)]


def test_lazy_layers_have_groups():
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(3))
    model = kt.Model(net)
    model.compile("cross_entropy", torch.optim.SGD(groups(net, {"1": {"lr": 0.0}}), lr=0.1))
    model.predict(data()[0])
    before = [parameter.detach().clone() for parameter in net.parameters()]
    model.fit(1, data(), verbose=0)
    pairs = zip(before, net.parameters(), strict=True)
    assert [torch.equal(old, new) for old, new in pairs] == [False, False, True, True]


@pytest.mark.parametrize(
    ("rules", "error", "said"),
    [
        (
            {"hed": {"lr": 1}},
            ValueError,
            "No parameter matches 'hed'. Did you mean 'head'? The net has 'body', 'head'.",
        ),
        (
            {"head": 0.1},
            TypeError,
            "The rule 'head' needs a dict of options, such as dict(lr=1e-2); got 0.1.",
        ),
        ({"head": {"params": []}}, ValueError, "The rule 'head' has an option 'params'; but its pattern says which"),
        ([("head", {})], TypeError, "Rules are a dict, such as {'*.bias': dict(weight_decay=0)}; got [('head', {})]."),
        (None, TypeError, "Rules are a dict"),
        (
            {1: {"lr": 1}},
            TypeError,
            "Patterns are names, one after the other: 'backbone.*', '*.bias'; got an object int",
        ),
    ],
)
def test_wrong_rules_say_what_is_right(rules, error, said):
    with pytest.raises(error, match=f"^{re.escape(said)}"):
        groups(a_net(), rules)


def test_groups_need_the_net():
    with pytest.raises(TypeError, match=r"^groups takes the net, for the names of its parameters; got generator\.$"):
        groups(a_net().parameters(), {})


@pytest.mark.parametrize("rules", [{}, RULES])
def test_where_everything_is_frozen_there_is_nothing_to_optimize(rules):
    net = a_net()
    freeze(net)
    with pytest.raises(
        ValueError, match=r"^There is nothing to optimize: the net has no trainable parameter\. Unfreeze"
    ):
        groups(net, rules)
