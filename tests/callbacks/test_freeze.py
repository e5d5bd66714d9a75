import copy

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import isolate
from kerastorch.callbacks import Freeze, LambdaCallback

GENERATOR = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 2, generator=GENERATOR), torch.randn(4, 1, generator=GENERATOR)) for _ in range(5)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False))
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.05)


def make_model(optimizer=adam):
    model = kt.Model(Net())
    model.compile("mse", optimizer)
    return model


def state(module):
    return copy.deepcopy(dict(module.state_dict()))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def frozen(module):
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def held(module):
    return [name for name, part in module.named_modules() if isolate.is_held(part)]


BACKBONE = [f"backbone.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")]


def test_it_equals_a_loop_written_by_hand():
    model = make_model()
    model.fit(4, DATA, callbacks=[Freeze("backbone", until_epoch=2)], verbose=0)
    net = Net()
    optimizer = adam(net.parameters())
    for epoch in range(4):
        for parameter in net.backbone.parameters():
            parameter.requires_grad_(epoch >= 2)
        net.backbone.train(epoch >= 2)
        for x, y in DATA:
            loss = nn.functional.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert equal(state(model), state(net))


def test_for_how_many_epochs():
    seen = []
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((frozen(model), held(model))))
    model = make_model()
    model.fit(4, DATA, DATA, callbacks=[note, Freeze("backbone", until_epoch=3)], verbose=0)
    assert seen == [(BACKBONE, ["backbone.1", "backbone.2"])] * 3 + [([], [])]
    assert all(part.training for part in model.net.modules())


def test_it_says_so(capsys):
    make_model().fit(3, DATA, callbacks=[Freeze("backbone.*", "head.bias", until_epoch=1)], verbose=2)
    assert capsys.readouterr().out.count("From epoch 2 on, backbone.*, head.bias is trained as well.\n") == 1


@pytest.mark.parametrize(("until", "first"), [(0, 0), (2, 2), (2, 3)])
def test_later_epochs_are_not_frozen(until, first):
    model, plain = make_model(), make_model()
    model.fit(5, DATA, callbacks=[Freeze("backbone", until_epoch=until)], initial_epoch=first, verbose=0)
    plain.fit(5, DATA, initial_epoch=first, verbose=0)
    assert equal(state(model), state(plain))


def test_what_the_user_has_frozen_stays_so():
    model = make_model()
    model.freeze("backbone.0.weight", "backbone.1")
    model.fit(3, DATA, callbacks=[Freeze("backbone", until_epoch=1)], verbose=0)
    assert frozen(model) == ["backbone.0.weight", "backbone.1.weight", "backbone.1.bias"]
    assert held(model) == ["backbone.1"]
    everything = make_model()
    everything.freeze("backbone")
    everything.fit(2, DATA, callbacks=[Freeze("backbone", until_epoch=1)], verbose=0)
    assert frozen(everything) == BACKBONE
    assert held(everything) == ["backbone.1", "backbone.2"]


def test_a_batch_norm_in_evaluation_mode_by_hand_stays_so():
    model = make_model()
    model.net.train()
    model.net.backbone[1].eval()
    statistics = state(model.net.backbone[1])
    model.fit(2, DATA, callbacks=[Freeze("backbone", until_epoch=1)], verbose=0)
    assert not model.net.backbone[1].training
    assert torch.equal(model.net.backbone[1].running_mean, statistics["running_mean"])
    assert model.net.backbone[2].training


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("way", ["the last epoch", "stop", "interrupt", "error"])
def test_the_net_is_as_it_was_given_however_training_ends(way, before):
    class End(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if way == "stop":
                self.run.stop("the test")
            if way == "interrupt":
                self.run.interrupt("the test")
            if way == "error":
                raise RuntimeError("the test")

    model = make_model()
    model.net.train(before)
    try:
        model.fit(2, DATA, callbacks=[Freeze("backbone", until_epoch=9), End()], verbose=0)
    except RuntimeError:
        assert way == "error"
    assert (frozen(model), held(model)) == ([], [])
    assert all(part.training == before for part in model.net.modules())


def test_an_evaluation_that_fails_inside_fit_unfreezes_nothing():
    class Fails(kt.Callback):
        def on_test_begin(self, logs):
            raise RuntimeError("the test")

    def evaluate(epoch, logs):
        with pytest.raises(RuntimeError, match="the test"):
            model.evaluate(DATA, callbacks=[freeze, Fails()])
        assert frozen(model) == BACKBONE

    model, freeze = make_model(), Freeze("backbone", until_epoch=9)
    model.fit(1, DATA, callbacks=[freeze, LambdaCallback(on_epoch_begin=evaluate)], verbose=0)


def test_an_optimizer_takes_in_what_was_frozen_when_it_was_built():
    """The user froze and unfroze before; the callback freezes and unfreezes in fit."""
    model = make_model("adam")
    model.freeze("backbone")
    model.fit(1, DATA, verbose=0)
    model.unfreeze()
    before = state(model)
    model.fit(2, DATA, callbacks=[Freeze("backbone", until_epoch=1)], verbose=0)
    after = state(model)
    assert all(not torch.equal(before[name], after[name]) for name in BACKBONE)


def test_a_second_fit_freezes_again():
    model, freeze = make_model(), Freeze("backbone", until_epoch=1)
    model.fit(2, DATA, callbacks=[freeze], verbose=0)
    before = state(model)
    model.fit(1, DATA, callbacks=[freeze], verbose=0)
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in BACKBONE)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("bakbone",), r"No parameter matches 'bakbone'. Did you mean 'backbone'\?"),
        (("*",), r"Freeze\('\*', until_epoch=1\) would freeze all that is trained. Give patterns that leave something"),
    ],
)
def test_patterns_that_do_not_fit_the_net_are_an_error_when_training_begins(patterns, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.fit(2, DATA, callbacks=[Freeze(*patterns, until_epoch=1)], verbose=0)
    assert (frozen(model), held(model)) == ([], [])


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"Freeze needs a pattern; type Freeze\('backbone', until_epoch=3\)"):
        Freeze(until_epoch=1)
    with pytest.raises(TypeError, match=r"Patterns are names, one after the other: .*; got \['backbone'\]"):
        Freeze(["backbone"], until_epoch=1)
    with pytest.raises(ValueError, match="until_epoch is a whole number from 0; got -1"):
        Freeze("backbone", until_epoch=-1)


def test_repr_is_the_constructor_call():
    text = "Freeze('backbone', '*.bias', until_epoch=3)"
    assert repr(eval(text)) == text


@pytest.mark.parametrize("backwards", [False, True])
def test_parts_are_unfrozen_step_by_step_in_any_order(backwards, capsys):
    stages = [
        Freeze("backbone", until_epoch=1),
        Freeze("backbone.0", until_epoch=2),
        Freeze("*.0.weight", until_epoch=3),
    ]
    seen, model = [], make_model()
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((frozen(model), held(model))))
    model.fit(4, DATA, callbacks=[*(stages[::-1] if backwards else stages), note], verbose=2)
    lower = ["backbone.0.weight", "backbone.0.bias"]
    assert seen == [(BACKBONE, ["backbone.1", "backbone.2"]), (lower, []), (lower[:1], []), ([], [])]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("From")]
    rest = "" if backwards else ", but for what another Freeze holds"  # it has frozen only what no other had
    assert said == [
        f"From epoch 2 on, backbone is trained as well{rest}.",
        f"From epoch 3 on, backbone.0 is trained as well{rest}.",
        "From epoch 4 on, *.0.weight is trained as well.",
    ]


def test_one_whose_parts_another_holds_longer_says_nothing(capsys):
    seen, model = [], make_model()
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(frozen(model)))
    freezes = [Freeze("backbone.1", until_epoch=1), Freeze("backbone", until_epoch=2)]
    model.fit(3, DATA, callbacks=[*freezes, note], verbose=2)
    assert [sorted(names) for names in seen] == [sorted(BACKBONE), sorted(BACKBONE), []]
    assert "From epoch 2 on" not in capsys.readouterr().out


@pytest.mark.parametrize("fails", [False, True])
def test_several_leave_the_net_as_it_was_given(fails):
    def end(batch, logs):
        if fails:
            raise RuntimeError("the test")

    model = make_model()
    model.freeze("backbone.1")
    model.net.train()
    model.net.backbone[2].eval()  # by hand
    freezes = [Freeze("backbone", until_epoch=5), Freeze("backbone.0", "backbone.2", until_epoch=7)]
    try:
        model.fit(3, DATA, callbacks=[*freezes, LambdaCallback(on_train_batch_end=end)], verbose=0)
    except RuntimeError:
        assert fails
    assert (frozen(model), held(model)) == (["backbone.1.weight", "backbone.1.bias"], ["backbone.1"])
    assert not model.net.backbone[2].training


def test_several_that_leave_nothing_are_an_error():
    model = make_model()
    with pytest.raises(ValueError, match=r"Freeze\('head', until_epoch=2\) would freeze all that is trained"):
        model.fit(2, DATA, callbacks=[Freeze("backbone", until_epoch=1), Freeze("head", until_epoch=2)], verbose=0)
    assert (frozen(model), held(model)) == ([], [])
