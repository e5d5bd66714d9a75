import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kerastorch import isolate


class Frozen(nn.Sequential):
    """Keeps its BatchNorm frozen by a train() of its own."""

    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.calls = []

    def train(self, mode=True):
        self.calls.append(mode)
        super().train(mode)
        self[1].eval()
        return self


def a_net():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 1)))


def flags(net):
    return [part.training for part in net.modules()]


def numbers():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.booleans())
def test_every_flag_comes_back_after_an_evaluation(wanted, fails):
    net = a_net()
    for part, flag in zip(net.modules(), wanted, strict=True):
        part.training = flag
    try:
        with isolate.evaluation(net):
            assert not any(flags(net))
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert flags(net) == wanted


@settings(max_examples=40)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.booleans())
def test_every_flag_comes_back_after_training(wanted, fails):
    net = a_net()
    for part, flag in zip(net.modules(), wanted, strict=True):
        part.training = flag
    try:
        with isolate.training(net):
            assert flags(net) == (wanted if wanted[0] else [True] * 6)
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert flags(net) == wanted


def test_what_training_changes_in_a_net_in_training_mode_stays():
    net = a_net()
    with isolate.training(net):
        net[1].eval()
    assert flags(net) == [True, True, False, True, True, True]


def test_a_train_method_of_the_users_own_is_called():
    net = Frozen()
    assert flags(net) == [True, True, True]
    net.train()
    net.calls.clear()
    with isolate.evaluation(net):
        assert net.calls == [False]
    assert net.calls == [False, True]
    assert flags(net) == [True, True, False]
    net.eval()
    net.calls.clear()
    with isolate.training(net):
        assert flags(net) == [True, True, False]
    assert net.calls == [True, False]
    assert flags(net) == [False, False, False]


@pytest.mark.parametrize("wrap", [lambda net: net, nn.Sequential, lambda net: nn.Sequential(nn.Sequential(net))])
def test_a_train_method_of_the_users_own_is_called_in_training_mode_as_well(wrap):
    part = Frozen()
    net = wrap(part)
    part[0].eval()  # by hand, and outside of the user's own train(), so it is called
    part.calls.clear()
    with isolate.training(net):
        assert part.calls == [True]
        assert flags(part) == [True, True, False]


def test_a_part_in_evaluation_mode_is_left_alone():
    net = nn.Sequential(Frozen().eval(), nn.BatchNorm1d(2).eval(), nn.Linear(2, 2))
    net[0].calls.clear()
    with isolate.training(net):
        assert net[0].calls == []
        assert flags(net) == [True, False, False, False, False, True]
    assert flags(net) == [True, False, False, False, False, True]


def test_a_flag_set_by_hand_wins_over_the_users_own_train_method():
    net = Frozen().train()
    net[1].training = True
    with isolate.evaluation(net):
        assert not any(flags(net))
    assert flags(net) == [True, True, True]


def test_a_module_that_was_added_meanwhile_takes_the_mode_of_the_net():
    net = a_net().train()
    with isolate.evaluation(net):
        net.append(nn.Dropout().eval())
    assert net[-1].training


def test_nothing_in_a_net_changes_by_an_evaluation():
    net = a_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with isolate.evaluation(net):
        output = net(torch.randn(4, 2))
        assert not output.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net(torch.randn(4, 2)).requires_grad


@pytest.mark.parametrize("fails", [False, True])
def test_random_numbers_go_on_as_if_nothing_had_been_drawn(fails):
    net = nn.Linear(1, 1)
    for module in (random, np.random):
        module.seed(3)
    torch.manual_seed(3)
    np.random.randn()  # NumPy keeps a second normal number for later
    expected = [*numbers(), *numbers(), float(np.random.randn()), random.gauss(0, 1)]
    for module in (random, np.random):
        module.seed(3)
    torch.manual_seed(3)
    np.random.randn()
    found = [*numbers()]
    try:
        with isolate.evaluation(net):
            inside = [*numbers()]
            np.random.randn()
            random.gauss(0, 1)
            torch.manual_seed(0)
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    found += [*numbers(), float(np.random.randn()), random.gauss(0, 1)]
    assert found == expected
    assert inside == expected[3:6]


def test_training_draws_from_the_users_random_numbers():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with isolate.training(nn.Linear(1, 1).eval()):
        torch.rand(())
    assert not torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_inside_an_evaluation_ends_alone():
    net = a_net()
    with isolate.evaluation(net):
        with isolate.evaluation(net):
            pass
        assert not any(flags(net))
        assert not torch.is_grad_enabled()
    assert all(flags(net))
    assert torch.is_grad_enabled()


def test_a_held_module_is_never_raised():
    net = a_net()
    isolate.hold(net[1])
    expected = [True, True, False, True, True, True]
    assert flags(net) == expected
    assert net.train() is net
    assert flags(net) == expected
    assert net[1].train() is net[1]
    net[1].training = True  # by force
    with isolate.training(net):
        assert flags(net) == expected
        net.train()
        assert flags(net) == expected
        with isolate.evaluation(net):
            assert not any(flags(net))
        assert flags(net) == expected
    net.eval()
    with isolate.training(net):
        assert flags(net) == expected
    assert not any(flags(net))


def test_the_children_of_a_held_module_and_its_own_train_method_follow_the_net():
    part = Frozen()
    net = nn.Sequential(part)
    isolate.hold(part)
    part.calls.clear()
    net.eval()
    net.train()
    assert part.calls == [False, True]
    assert flags(part) == [False, True, False]


@pytest.mark.parametrize("mode", [isolate.evaluation, isolate.training])
@pytest.mark.parametrize("was_training", [True, False])
def test_what_is_held_or_released_meanwhile_stays_so(mode, was_training):
    net = a_net().train(was_training)
    isolate.hold(net[2][0])
    with mode(net):
        isolate.hold(net[1])
        isolate.release(net[2][0], net.training)
        assert net[2][0].training is net.training
    assert flags(net) == [was_training, was_training, False, was_training, was_training, was_training]


def test_only_what_is_held_is_released():
    net = a_net()
    net[1].eval()
    isolate.release(net[1], True)
    assert not net[1].training
    assert not isolate.is_held(net[1])
    isolate.hold(net[1])
    isolate.hold(net[1])
    isolate.release(net[1], True)
    assert net[1].training
    assert "train" not in vars(net[1])
