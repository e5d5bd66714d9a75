"""Which parameters the optimizer trains, from compile to fit."""

import copy

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.errors import MismatchError


def make():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    return Net(backbone, nn.Linear(4, 2))


class Net(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        return self.head(self.backbone(x))


def data():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=random)
    return x, (x[:, 0] > 0).long()


def fit(model, epochs=1, **options):
    return model.fit(epochs, data(), batch_size=8, shuffle=False, verbose=0, **options)


def held(model):
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(part)] for group in model.optimizer.param_groups for part in group["params"]]


def changed(before, model):
    return [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]


def test_an_optimizer_from_a_name_leaves_out_what_is_frozen():
    model = kt.Model(make())
    model.freeze("backbone")
    model.compile("cross_entropy", "adam")
    assert held(model) == ["head.weight", "head.bias"]
    before = copy.deepcopy(model.state_dict())
    fit(model, 2)
    assert changed(before, model) == ["head.weight", "head.bias"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_what_is_frozen_later_stays_as_it_is(weight_decay):
    model = kt.Model(make())
    model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=weight_decay))
    fit(model, 2)
    model.freeze("backbone.*")
    before = copy.deepcopy(model.state_dict())
    fit(model, 2)
    assert changed(before, model) == ["head.weight", "head.bias"]
    model.unfreeze()
    fit(model)
    assert set(changed(before, model)) == set(model.state_dict())


def test_an_optimizer_from_a_name_takes_in_what_is_unfrozen_in_the_order_of_the_net():
    model = kt.Model(make())
    names = list(dict(model.named_parameters()))
    model.freeze("backbone")
    model.compile("cross_entropy", "adam")
    fit(model)
    model.unfreeze("backbone.0")
    assert held(model) == [*names[:2], "head.weight", "head.bias"]
    model.unfreeze()
    assert held(model) == names
    before = copy.deepcopy(model.state_dict())
    fit(model)
    assert set(changed(before, model)) == set(model.state_dict())


def test_what_is_unfrozen_by_hand_is_trained_from_the_next_fit_on():
    model = kt.Model(make())
    model.head.requires_grad_(False)
    model.compile("cross_entropy", "sgd")
    fit(model)
    model.head.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    fit(model)
    assert {"head.weight", "head.bias"} <= set(changed(before, model))


@pytest.mark.parametrize("by_model", [True, False])
def test_a_callback_may_unfreeze_epoch_by_epoch(by_model):
    model, seen = kt.Model(make()), []

    def thaw(epoch, logs):
        seen.append(copy.deepcopy(model.state_dict()))
        if epoch == 1:
            model.unfreeze("backbone") if by_model else model.backbone.requires_grad_(True)

    model.freeze("backbone")
    model.compile("cross_entropy", "sgd")
    fit(model, 3, callbacks=[kt.callbacks.LambdaCallback(on_epoch_begin=thaw)])
    assert changed(seen[0], model) != []
    assert not any(name.startswith("backbone") for name in seen[0] if not torch.equal(seen[0][name], seen[1][name]))
    assert any(name.startswith("backbone") for name in changed(seen[1], model))


def test_an_optimizer_that_was_given_needs_what_is_unfrozen():
    model = kt.Model(make())
    model.freeze("backbone")
    model.compile("cross_entropy", torch.optim.SGD(model.head.parameters(), 0.1))
    fit(model)
    model.unfreeze()
    with pytest.raises(
        MismatchError, match=r"backbone.0.weight was frozen when the optimizer was made.*compile.*again"
    ):
        fit(model)
    model.compile("cross_entropy", torch.optim.SGD(model.parameters(), 0.1))
    fit(model)


def test_groups_from_a_function_need_what_is_unfrozen():
    model = kt.Model(make())
    model.freeze("backbone")
    rules = {"*.bias": {"lr": 0.5}}
    model.compile("cross_entropy", lambda _: torch.optim.SGD(kt.optimizers.groups(model, rules), 0.1))
    fit(model)
    model.unfreeze()
    with pytest.raises(MismatchError, match=r"was frozen when the optimizer was made"):
        fit(model)


def test_an_optimizer_over_a_part_of_the_net_trains_that_part():
    model = kt.Model(make())
    model.compile("cross_entropy", torch.optim.SGD(model.head.parameters(), 0.1))
    before = copy.deepcopy(dict(model.named_parameters()))
    fit(model)
    assert [name for name, value in model.named_parameters() if not torch.equal(value, before[name])] == [
        "head.weight",
        "head.bias",
    ]


def test_nothing_to_train_is_named():
    model = kt.Model(make())
    model.freeze()
    model.compile("cross_entropy", "adam")
    with pytest.raises(MismatchError, match=r"Every parameter of the net is frozen.*Type model.unfreeze\(\)"):
        fit(model)
    model.compile("cross_entropy", torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(MismatchError, match=r"Every parameter that the optimizer SGD holds is frozen"):
        fit(model)
    assert model.evaluate(data())["loss"] > 0


def test_groups_have_their_own_learning_rates():
    model = kt.Model(make())
    rules = {"*.bias": {"weight_decay": 0.0}, "head": {"lr": 0.0}}
    model.compile("cross_entropy", torch.optim.AdamW(kt.optimizers.groups(model, rules), lr=0.01))
    before = copy.deepcopy(dict(model.named_parameters()))
    fit(model)
    same = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert same == ["head.weight", "head.bias"]


def test_groups_that_are_made_late_need_what_is_unfrozen():
    model = kt.Model(make())
    model.compile("cross_entropy", lambda _: torch.optim.SGD(kt.optimizers.groups(model, {"*.bias": {"lr": 0.5}}), 0.1))
    model.freeze("backbone")
    fit(model)
    model.unfreeze()
    with pytest.raises(MismatchError, match=r"backbone.0.weight was frozen when the optimizer was made"):
        fit(model)


def test_a_callback_that_unfreezes_what_the_optimizer_does_not_hold_is_warned():
    model = kt.Model(make())
    model.freeze("backbone")
    model.compile("cross_entropy", torch.optim.SGD(model.head.parameters(), 0.1))
    thaw = kt.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: model.unfreeze())
    with pytest.warns(UserWarning, match="was frozen when the optimizer was made"):
        fit(model, callbacks=[thaw])


def test_rows_of_an_epoch_are_not_kept_after_training():
    model = kt.Model(make())
    model.compile("cross_entropy", "sgd", ["auroc"])
    fit(model)
    assert not model._session.state.metrics
    assert model.train_on_batch(*data())["auroc"] >= 0
