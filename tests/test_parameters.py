import copy
import functools
import io
import pickle
import re
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kerastorch as kt
from kerastorch import isolate
from kerastorch.parameters import freeze, matching, unfreeze

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
ADAM = functools.partial(torch.optim.Adam, lr=0.01, weight_decay=0.1)
ADAMW = functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


class Net(nn.Module):
    """A backbone with BatchNorms of every sort, a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6, affine=False))
        )
        self.head = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 3))

    def forward(self, x):
        return self.head(self.backbone(x))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight


def a_net():
    torch.manual_seed(0)
    return Net()


def data(samples=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator) * 3 + 1
    return x, x[:, :3].argmax(1)


def compiled(net, optimizer=SGD):
    model = kt.Model(net)
    model.compile("cross_entropy", optimizer)
    return model


def fit(model, epochs=2, **options):
    model.fit(epochs, data(), data(8), batch_size=8, verbose=0, **options)


def values(net, beginning=""):
    state = net.state_dict()
    return {name: value.clone() for name, value in state.items() if name.startswith(beginning)}


def same(before, net):
    state = net.state_dict()
    return [name for name, value in before.items() if torch.equal(value, state[name])]


def changed(before, net):
    return [name for name in before if name not in same(before, net)]


def trainable(net):
    return [name for name, parameter in net.named_parameters() if parameter.requires_grad]


def held(net):
    return [name for name, part in net.named_modules() if isolate.is_held(part)]


# names


@pytest.mark.parametrize("wrap", [lambda net: net, kt.Model])
@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["backbone.*"], ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]),
        (["backbone"], ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]),
        (["*.bias"], ["backbone.0.bias", "backbone.1.bias", "head.0.bias", "head.1.bias", "head.3.bias"]),
        (["head.[03].weight"], ["head.0.weight", "head.3.weight"]),
        (["head.[!03]"], ["head.1.weight", "head.1.bias"]),
        (["?ead.3"], ["head.3.weight", "head.3.bias"]),
        (["head.3.bias"], ["head.3.bias"]),
        (
            ["head.3", "backbone.0", "*.3.bias"],
            ["backbone.0.weight", "backbone.0.bias", "head.3.weight", "head.3.bias"],
        ),
        ([], []),
    ],
)
def test_patterns_match_parameters_in_the_order_of_the_net(wrap, patterns, expected):
    net = a_net()
    found = matching(wrap(net), patterns)
    assert list(found) == expected
    assert all(found[name] is net.get_parameter(name) for name in expected)


@given(st.lists(st.sampled_from([*"*?.[]!", "0", "1", "3", "head", "back", "bone", "bias", "weight"]), max_size=6))
def test_a_pattern_matches_what_the_shell_would(pieces):
    net, pattern = Net(), "".join(pieces)
    names = [
        name
        for name, _ in net.named_parameters()
        if any(fnmatchcase(name[:end], pattern) for end in [*(m.start() for m in re.finditer(r"\.", name)), None])
    ]
    try:
        assert list(matching(net, [pattern])) == names
    except ValueError:
        assert names == []


def test_case_matters():
    with pytest.raises(ValueError, match=r"No parameter matches 'Head'. Did you mean 'head'\?"):
        matching(a_net(), ["Head"])


@pytest.mark.parametrize("pattern", ["encoder.weight", "decoder.weight", "*.weight"])
def test_a_shared_parameter_is_found_under_any_of_its_names_and_once(pattern):
    net = Tied()
    found = matching(net, [pattern])
    assert list(found.values()) == [net.encoder.weight]
    assert next(iter(found)) == pattern.replace("*", "encoder")


def test_a_parameter_of_the_net_itself_has_a_name():
    net = Tied()
    net.scale = nn.Parameter(torch.ones(1))
    assert list(matching(net, ["scale"])) == ["scale"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("backbon.*", "No parameter matches 'backbon.*'. Did you mean 'backbone.*'? The net has 'backbone', 'head'."),
        ("hed", "No parameter matches 'hed'. Did you mean 'head'? The net has 'backbone', 'head'."),
        ("*.bais", "No parameter matches '*.bais'. Did you mean '*.bias'? The net has 'backbone', 'head'."),
        ("head.3.wieght", "No parameter matches 'head.3.wieght'. Did you mean 'head.3.weight'?"),
        ("xyz", "No parameter matches 'xyz'. The net has 'backbone', 'head'."),
        ("", "No parameter matches ''. The net has"),
        ("head.2", "What 'head.2' matches has no parameters. The net has 'backbone', 'head'."),
    ],
)
@pytest.mark.parametrize("act", [freeze, unfreeze, lambda net, pattern: matching(net, ["head", pattern])])
def test_a_pattern_without_a_match_says_what_there_is(act, pattern, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        act(kt.Model(a_net()), pattern)


def test_a_nested_layer_is_suggested_for_its_last_name():
    net = nn.Sequential()
    net.add_module("block", nn.Sequential())
    net.block.add_module("conv1", nn.Linear(1, 1))
    with pytest.raises(ValueError, match=re.escape("Did you mean '*.conv1'? The net has 'block'.")):
        matching(net, ["conv1"])


def test_a_large_net_is_not_listed_whole():
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
    with pytest.raises(ValueError, match=r"The net has '0', .*'7' and 3 more\.$"):
        matching(net, ["layers"])


def test_a_net_without_parameters_says_so():
    with pytest.raises(ValueError, match=r"No parameter matches 'head'\. The net has no parameters\."):
        freeze(nn.Sequential(nn.ReLU()), "head")
    freeze(nn.ReLU())


@pytest.mark.parametrize("pattern", [["head.*"], nn.Linear(1, 1), 3])
def test_patterns_are_text(pattern):
    said = f"Patterns are names, one after the other: 'backbone.*', '*.bias'; got an object {type(pattern).__name__}."
    with pytest.raises(TypeError, match=re.escape(said)):
        freeze(a_net(), pattern)


def test_an_error_freezes_nothing():
    net = a_net()
    with pytest.raises(ValueError, match="hed"):
        freeze(net, "backbone", "hed")
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert held(net) == []


# what is frozen


def test_freeze_and_unfreeze_set_what_needs_gradients():
    net = a_net()
    everything = trainable(net)
    freeze(net, "backbone.*", "*.3.bias")
    assert trainable(net) == ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias", "head.3.weight"]
    unfreeze(net, "backbone.1", "*.3.bias")
    assert trainable(net) == [name for name in everything if not name.startswith("backbone.0")]
    freeze(net)
    assert trainable(net) == []
    unfreeze(net)
    assert trainable(net) == everything


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["backbone.*"], ["backbone.1", "backbone.2.1"]),
        (["backbone"], ["backbone.1", "backbone.2.1"]),
        (["backbone.2"], ["backbone.2.1"]),
        (["backbone.2.1"], ["backbone.2.1"]),
        (["*.bias"], []),
        (["*.weight"], []),
        (["*.bias", "*.weight"], ["backbone.1", "head.1"]),
        (["head.1.*"], ["head.1"]),
        (["head.0"], []),
        ([], ["backbone.1", "backbone.2.1", "head.1"]),
    ],
)
def test_statistics_are_frozen_where_every_parameter_is(patterns, expected):
    net = a_net()
    freeze(net, *patterns)
    assert held(net) == expected
    assert [name for name, part in net.named_modules() if not part.training] == expected
    unfreeze(net, *patterns)
    assert held(net) == []
    assert all(part.training for part in net.modules())


def test_weight_and_bias_may_be_frozen_one_after_the_other():
    net = a_net()
    freeze(net, "*.bias")
    freeze(net, "head.1.weight")
    assert held(net) == ["head.1"]
    freeze(net, "head.0")  # does not touch it
    assert held(net) == ["head.1"]
    unfreeze(net, "head.1.bias")
    assert held(net) == []
    assert net.head[1].training


@pytest.mark.parametrize(
    ("part", "freezes"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.SyncBatchNorm(2), True),
        (nn.InstanceNorm1d(2, affine=True, track_running_stats=True), True),
        (nn.InstanceNorm1d(2, affine=True), False),
        (nn.BatchNorm1d(2, track_running_stats=False), False),
        (nn.LayerNorm(2), False),
        (nn.Dropout(), False),
    ],
)
def test_only_running_statistics_are_held(part, freezes):
    net = nn.Sequential(nn.Linear(2, 2), part)
    freeze(net)
    assert held(net) == (["1"] if freezes else [])
    assert part.training is not freezes


def test_a_normalization_that_is_the_whole_net_can_be_frozen():
    model = kt.Model(nn.BatchNorm1d(3))
    freeze(model)
    model.train()
    assert not model.net.training
    unfreeze(model)
    assert model.net.training


def test_a_shared_normalization_is_frozen_under_its_second_name():
    shared = nn.BatchNorm1d(2, affine=False)
    net = nn.ModuleDict({"first": nn.Sequential(shared), "second": nn.Sequential(shared)})
    freeze(net, "second")
    assert isolate.is_held(shared)


def test_a_parameter_frozen_by_its_second_name_is_frozen():
    net = Tied()
    freeze(net, "decoder.weight")
    assert not net.encoder.weight.requires_grad


def test_unfreezing_gives_back_the_mode_of_the_net():
    net = a_net()
    freeze(net, "backbone")
    net.eval()
    unfreeze(net)
    assert not any(part.training for part in net.modules())
    net.train()
    assert all(part.training for part in net.modules())


def test_unfreezing_leaves_a_batchnorm_frozen_by_hand_alone():
    net = a_net()
    net.head[1].eval()
    freeze(net, "backbone")
    unfreeze(net)
    assert [name for name, part in net.named_modules() if not part.training] == ["head.1"]


def test_what_cannot_be_trained_is_not_unfrozen():
    net = a_net()
    net.scale = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    net.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    freeze(net)
    unfreeze(net)
    assert not net.scale.requires_grad
    assert net.phase.requires_grad


def test_lazy_layers_are_frozen_before_they_have_a_shape():
    net = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    freeze(net, "0", "1")
    model = compiled(net)
    model.predict(data()[0])
    before = values(net)
    fit(model)
    assert held(net) == ["1"]
    assert changed(before, net) == ["2.weight", "2.bias"]


# in training


@pytest.mark.parametrize("in_training_mode", [True, False])
@pytest.mark.parametrize("optimizer", [SGD, ADAM, ADAMW])
def test_what_is_frozen_stays_bit_for_bit(optimizer, in_training_mode):
    net = a_net().train(in_training_mode)
    model = compiled(net, optimizer)
    freeze(model, "backbone.*")
    before = values(net)
    fit(model, 3)
    model.evaluate(data(), batch_size=8)
    model.predict(data()[0], batch_size=8)
    fit(model)
    model.train_on_batch(*data())
    assert same(before, net) == list(values(net, "backbone"))
    assert net.training is in_training_mode
    assert held(net) == ["backbone.1", "backbone.2.1"]


@pytest.mark.parametrize("optimizer", [SGD, ADAM, ADAMW])
def test_an_optimizer_with_a_past_leaves_what_is_frozen_alone(optimizer):
    net = a_net()
    model = compiled(net, optimizer)
    fit(model)  # momenta; the gradients of the last batch are there
    assert all(parameter.grad is not None for parameter in net.parameters())
    freeze(model, "backbone.*", "head.0.bias")
    assert all(net.get_parameter(name).grad is None for name in ("backbone.0.weight", "head.0.bias"))
    assert net.head[0].weight.grad is not None
    before = values(net)
    model.optimizer.step()
    fit(model)
    assert same(before, net) == [*values(net, "backbone"), "head.0.bias"]


def test_frozen_biases_leave_the_statistics_to_training():
    net = a_net()
    freeze(net, "*.bias")
    before = values(net)
    fit(compiled(net))
    assert same(before, net) == [name for name in before if name.endswith("bias")]


def test_what_is_unfrozen_is_trained_on():
    net = a_net()
    model = compiled(net)
    freeze(model, "backbone")
    fit(model)
    unfreeze(model, "backbone")
    before = values(net)
    fit(model)
    assert same(before, net) == []


@pytest.mark.parametrize("in_training_mode", [True, False])
def test_a_frozen_backbone_equals_one_without_gradients_in_evaluation_mode(in_training_mode):
    nets = [a_net(), a_net()]
    freeze(nets[0], "backbone")
    nets[0].train(in_training_mode)
    torch.manual_seed(2)
    fit(compiled(nets[0]), shuffle=False)
    nets[1].backbone.requires_grad_(False).eval()
    torch.manual_seed(2)
    optimizer = SGD(nets[1].parameters())
    for _ in range(2):
        for x, y in zip(*(part.split(8) for part in data()), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(nets[1](x), y).backward()
            optimizer.step()
    assert changed(values(nets[0]), nets[1]) == []


class Raising(kt.Callback):
    """Puts the net into training mode wherever it can."""

    def on_epoch_begin(self, epoch, logs):
        self.model.train()

    def on_train_batch_begin(self, batch, logs):
        self.model.net.train()


class OwnStep(kt.Model):
    """Has a step as users of torchkeras write it."""

    def train_step(self, features, labels):
        self.train()
        loss = self.loss_func(self(features), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


@pytest.mark.parametrize("kind", [kt.Model, OwnStep])
def test_statistics_stay_frozen_whatever_puts_the_net_into_training_mode(kind):
    net = a_net()
    model = kind(net)
    model.compile("cross_entropy", SGD)
    freeze(model, "backbone")
    before = values(net, "backbone")
    fit(model, callbacks=[Raising()])
    assert changed(before, net) == []


def test_a_flag_that_was_set_by_force_is_lowered():
    net = a_net()
    freeze(net, "backbone")
    for part in net.modules():
        part.training = True
    before = values(net, "backbone")
    fit(compiled(net))
    assert changed(before, net) == []


def test_frozen_statistics_hold_in_a_loop_written_by_hand():
    net = a_net()
    freeze(net, "backbone")
    before = values(net, "backbone")
    assert net.train() is net
    assert net.backbone[1].train() is net.backbone[1]
    assert net.backbone[1].eval() is net.backbone[1]
    net(data()[0])
    assert changed(before, net) == []


class Thaw(kt.Callback):
    """Freezes or unfreezes the backbone at one of the hooks of epoch 1."""

    def __init__(self, act, hook):
        self.act = act
        self.hook = hook
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs):
        self.epoch = epoch
        self._at("on_epoch_begin")

    def on_test_begin(self, logs):
        self._at("on_test_begin")

    def on_test_end(self, logs):
        self._at("on_test_end")

    def on_epoch_end(self, epoch, logs):
        self._at("on_epoch_end")

    def _at(self, hook):
        if hook == self.hook and self.epoch == 1:
            self.act(self.model, "backbone")
            self.before = values(self.model.net, "backbone")


@pytest.mark.parametrize("in_training_mode", [True, False])
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_test_begin", "on_test_end", "on_epoch_end"])
def test_a_callback_may_freeze(hook, in_training_mode):
    net = a_net().train(in_training_mode)
    model, callback = compiled(net), Thaw(freeze, hook)
    fit(model, 4, callbacks=[callback])
    assert changed(callback.before, net) == []
    assert not net.backbone[1].training
    assert net.head[1].training is in_training_mode


@pytest.mark.parametrize("in_training_mode", [True, False])
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_test_begin", "on_test_end", "on_epoch_end"])
def test_a_callback_may_unfreeze(hook, in_training_mode):
    net = a_net().train(in_training_mode)
    freeze(net, "backbone")
    model, callback = compiled(net), Thaw(unfreeze, hook)
    fit(model, 4, callbacks=[callback])
    assert same(callback.before, net) == []
    assert {part.training for part in net.modules()} == {in_training_mode}


# copies


def by_file(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), by_file])
def test_a_copy_is_frozen_alike_and_on_its_own(copied):
    model = compiled(a_net())
    fit(model, 1)
    freeze(model, "backbone")
    twin = copied(model)
    before = values(model)
    twin.train()
    assert held(twin) == ["backbone.1", "backbone.2.1"]
    fit(twin)
    assert same(before, twin) == list(values(model, "backbone"))
    assert changed(before, model) == []
    unfreeze(twin)
    assert held(twin) == []
    assert twin.net.backbone[1].training
    assert held(model) == ["backbone.1", "backbone.2.1"]
    fit(model)
    assert same(before, model) == list(values(model, "backbone"))


def test_a_copy_made_in_the_middle_of_fit_is_frozen_alike():
    class Copy(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            self.net = copy.deepcopy(self.model.net)

    net, callback = a_net(), Copy()
    freeze(net, "backbone")
    fit(compiled(net), 1, callbacks=[callback])
    before = values(callback.net, "backbone")
    fit(compiled(callback.net))
    assert changed(before, callback.net) == []


def test_the_state_dict_knows_nothing_of_it():
    net, other = a_net(), Net()
    plain = list(net.state_dict())
    freeze(net, "backbone")
    assert list(net.state_dict()) == plain
    net.load_state_dict(other.state_dict(), assign=True)
    assert changed(values(other), net) == []
    assert trainable(net) == [name for name, _ in net.named_parameters() if name.startswith("head")]
    fit(compiled(net))
    assert changed(values(other, "backbone"), net) == []
    other.load_state_dict(net.state_dict())
    assert held(other) == []


def test_a_frozen_net_can_still_be_exported_and_compiled():
    net = a_net()
    freeze(net, "backbone")
    before, x = values(net), data()[0]
    fast = torch.compile(net, backend="eager")
    fast.train()
    fast(x)
    assert changed(before, net) == [name for name in before if name.startswith("head.1.running")] + [
        "head.1.num_batches_tracked"
    ]
    net.eval()
    exported = torch.export.export(net, (x,))
    assert torch.allclose(exported.module()(x), net(x))
