import copy
import functools
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import kerastorch as kt
from kerastorch.callbacks import BatchTransform, CutMix, MixUp
from kerastorch.errors import DataError, MismatchError, MissingPackageError

v2 = pytest.importorskip("torchvision.transforms.v2")
KINDS = [(MixUp, v2.MixUp), (CutMix, v2.CutMix)]


def images(samples=20, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, 6, 6, generator=generator)
    return x, torch.randint(classes, (samples,), generator=generator)


def make_net(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(72, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, classes)
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def compiled(net, loss="cross_entropy", metrics=None):
    model = kt.Model(net)
    model.compile(loss, sgd, metrics)
    return model


class Seen(kt.Callback):
    """Keeps what goes into the net, by phase."""

    def __init__(self):
        self.batches = []

    def prepare_batch(self, batch):
        self.batches.append((self.run.phase, copy.copy(batch)))
        return batch

    def of(self, phase):
        return [batch for seen, batch in self.batches if seen == phase]


def mixed(callback, x, y, *, net=None, loss="cross_entropy"):
    """Return the first batch that goes into the net."""
    seen = Seen()
    compiled(net or make_net(), loss).fit(1, [(x, y)], callbacks=[callback, seen], verbose=0)
    return seen.of("train")[0]


@pytest.mark.parametrize(("kind", "reference"), KINDS)
@pytest.mark.parametrize("num_classes", [3, None])
def test_fit_is_a_loop_written_by_hand_with_the_transform_of_torchvision(kind, reference, num_classes):
    x, y = images()
    twin, model = make_net(), compiled(make_net())
    torch.manual_seed(1)
    optimizer, mix = sgd(twin.parameters()), reference(alpha=0.7, num_classes=3)
    losses = []
    for _ in range(2):
        total = 0.0
        for features, labels in DataLoader(TensorDataset(x, y), 8, shuffle=True):
            features, labels = mix(features, labels)  # noqa: PLW2901
            optimizer.zero_grad()
            loss = functional.cross_entropy(twin(features), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(features)
        losses.append(total / len(x))
    torch.manual_seed(1)
    callback = kind(0.7, num_classes=num_classes)
    history = model.fit(2, DataLoader(TensorDataset(x, y), 8, shuffle=True), callbacks=[callback], verbose=0)
    for value, other in zip(model.net.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(value, other)
    assert history["loss"] == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_only_training_is_mixed(kind):
    x, y = images()
    before = x.clone()
    model, callback, seen = compiled(make_net()), kind(), Seen()
    model.fit(2, (x, y), (x, y), callbacks=[callback, seen], batch_size=10, shuffle=False, verbose=0)
    model.evaluate((x, y), callbacks=[callback, seen], batch_size=10, verbose=0)
    model.predict(x, callbacks=[callback, seen], batch_size=10)
    assert [phase for phase, _ in seen.batches] == (["train"] * 2 + ["val"] * 2) * 2 + ["val"] * 2 + ["predict"] * 2
    assert all(batch.y.shape == (10, 3) for batch in seen.of("train"))
    for number, batch in enumerate([*seen.of("val"), *seen.of("predict")]):
        assert torch.equal(batch.x, x[:10] if number % 2 == 0 else x[10:])
        assert batch.truth is None
    assert torch.equal(x, before)


def test_an_evaluation_in_the_middle_of_training_is_not_mixed_and_changes_nothing():
    x, y = images()

    class Evaluates(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.evaluate((x, y), callbacks=[mix, seen], verbose=0)
            with pytest.raises(RuntimeError, match="mat1 and mat2"):
                self.model.evaluate((x[:, :1], y), callbacks=[mix, seen], verbose=0)

    def fit(*others):
        model = compiled(make_net())
        torch.manual_seed(1)
        model.fit(2, (x, y), callbacks=[mix, *others], batch_size=5, verbose=0)
        return model

    mix, seen = MixUp(1.0), Seen()
    model = fit(Evaluates(), seen)
    assert len(seen.of("train")) == 8
    assert all(batch.y.ndim == 2 for batch in seen.of("train"))
    assert all(batch.y.ndim == 1 for batch in seen.of("val"))
    for value, other in zip(model.parameters(), fit().parameters(), strict=True):
        assert torch.equal(value, other)


def test_where_batches_are_prepared_ahead_validation_is_not_mixed_either():
    class Ahead(kt.Callback):
        def on_train_begin(self, logs):
            self.run.lookahead = True

    seen = Seen()
    model = compiled(make_net())
    model.fit(2, images(), images(), callbacks=[Ahead(), MixUp(), seen], batch_size=5, verbose=0)
    assert [phase for phase, _ in seen.batches] == (["train"] * 4 + ["val"] * 4) * 2
    assert all(batch.y.ndim == 2 for batch in seen.of("train"))
    assert all(batch.y.ndim == 1 for batch in seen.of("val"))


@given(st.sampled_from([MixUp, CutMix]), st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**16))
def test_a_target_is_as_much_of_two_labels_as_the_share_and_metrics_see_the_larger(kind, classes, samples, seed):
    x, y = images(samples, classes, seed)
    torch.manual_seed(seed)
    callback = kind(1.0, num_classes=classes)
    callback.run = kt.Model(nn.Identity())  # any object with a phase
    callback.run.phase, callback.run.train_loss, callback.run.loss = "train", None, None
    callback.on_train_begin({})
    batch = callback.prepare_batch(kt.data.Batch(0, x, y, None, samples))
    one_hot = functional.one_hot(y, classes).float()
    assert torch.allclose(batch.y.sum(1), torch.ones(samples))
    assert bool(((batch.y > 0) <= (one_hot + one_hot.roll(1, 0) > 0)).all())
    assert torch.equal(batch.truth, batch.y.argmax(1))
    assert batch.size == samples


def test_loss_and_metrics_of_an_epoch_are_those_of_all_its_mixed_samples():
    def by_hand(output, target):
        return (output.argmax(1) == target).float().mean()

    x, y = images(22)
    model, seen = compiled(make_net(), metrics={"accuracy": "accuracy", "mine": by_hand, "nll": "perplexity"}), Seen()
    model.net.eval()
    for part in model.net.modules():
        part.train = lambda mode=True: None  # no dropout: outputs can be had again
    optimizer = torch.optim.SGD(model.net.parameters(), lr=0.0)
    model.compile("cross_entropy", optimizer, {"accuracy": "accuracy", "mine": by_hand, "nll": "perplexity"})
    history = model.fit(1, (x, y), callbacks=[MixUp(1.0), seen], batch_size=8, verbose=0)
    inputs = torch.cat([batch.x for batch in seen.of("train")])
    target = torch.cat([batch.y for batch in seen.of("train")])
    with torch.no_grad():
        output = model.net(inputs)
    right = (output.argmax(1) == target.argmax(1)).double().mean().item()
    assert history["loss"][0] == pytest.approx(functional.cross_entropy(output, target).item(), rel=1e-6)
    assert history["accuracy"][0] == history["mine"][0] == pytest.approx(right)
    labels = functional.cross_entropy(output, target.argmax(1)).item()
    assert history["nll"][0] == pytest.approx(math.exp(labels), rel=1e-5)


def test_metric_objects_of_torchmetrics_see_labels():
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    model = compiled(make_net(), metrics={"theirs": metric, "accuracy": "accuracy"})
    history = model.fit(2, images(), images(), callbacks=[MixUp()], batch_size=8, verbose=0)
    assert history["theirs"] == pytest.approx(history["accuracy"])


def test_with_a_loss_of_ones_own_metrics_mean_the_same_in_training_and_validation():
    def focal(output, target):
        return functional.cross_entropy(output, target)

    model = compiled(make_net(), focal, ["accuracy"])
    model.compile(focal, lambda parameters: torch.optim.SGD(parameters, lr=0.0), ["accuracy"])
    x, y = torch.randn(40, 2, 6, 6), torch.zeros(40, dtype=torch.long)  # all of one class: no mix has another
    model.net[-1].bias.data = torch.tensor([50.0, 0.0, 0.0])
    history = model.fit(1, (x, y), (x, y), callbacks=[MixUp()], verbose=0)
    assert history["accuracy"] == history["val_accuracy"] == [1.0]


def test_losses_with_weights_of_classes_and_smoothing_are_averaged_as_torch_does():
    x, y = images(22)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]), label_smoothing=0.1)
    seen, net = Seen(), nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    model = kt.Model(net)
    model.compile(loss, torch.optim.SGD(net.parameters(), lr=0.0))
    history = model.fit(1, (x, y), callbacks=[MixUp(1.0), seen], batch_size=8, verbose=0)
    inputs = torch.cat([batch.x for batch in seen.of("train")])
    target = torch.cat([batch.y for batch in seen.of("train")])
    with torch.no_grad():
        assert history["loss"][0] == pytest.approx(loss(net(inputs), target).item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (2, 3, 4, 5)])
def test_mixup_takes_floating_inputs_of_any_shape(shape):
    x, y = torch.randn(12, *shape), torch.arange(12) % 3
    net = nn.Sequential(nn.Unflatten(0, (12, 1)), nn.Flatten(), nn.LazyLinear(3))
    net(x)
    torch.manual_seed(3)
    batch = mixed(MixUp(1.0), x, y, net=net)
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(torch.tensor([1.0]), torch.tensor([1.0])).sample(()))
    assert torch.allclose(batch.x, share * x + (1 - share) * x.roll(1, 0), atol=1e-6)


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 2, 3)])
def test_floating_targets_are_mixed_as_they_are(shape):
    x, y = torch.randn(12, 4), torch.randn(shape)
    net = nn.Sequential(nn.Linear(4, math.prod(shape[1:])), nn.Unflatten(1, shape[1:] or (1,)))
    net = nn.Sequential(net, nn.Flatten(0)) if len(shape) == 1 else net
    torch.manual_seed(3)
    batch = mixed(MixUp(1.0), x, y, net=net, loss="mse")
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(torch.tensor([1.0]), torch.tensor([1.0])).sample(()))
    assert torch.allclose(batch.y, share * y + (1 - share) * y.roll(1, 0), atol=1e-6)
    assert batch.y.shape == shape
    assert batch.truth is None


def test_probabilities_and_binary_targets_are_mixed():
    x, y = images(12)
    soft = functional.one_hot(y, 3).float()
    assert mixed(CutMix(), x, soft).y.shape == (12, 3)
    batch = mixed(CutMix(), x, (y > 0).float()[:, None], net=make_net(1), loss="bce_with_logits")
    assert batch.y.shape == (12, 1)


def test_cutmix_takes_images_as_bytes_and_labels_of_any_integer_dtype():
    x = torch.randint(256, (12, 1, 4, 4), dtype=torch.uint8)
    net = nn.Sequential(v2.ToDtype(torch.float32, scale=True), nn.Flatten(), nn.Linear(16, 3))
    batch = mixed(CutMix(), x, (torch.arange(12) % 3).to(torch.uint8), net=net)
    assert batch.x.dtype == torch.uint8
    assert batch.y.shape == (12, 3)


def test_a_net_in_double_precision_is_trained():
    x, y = images()
    model = compiled(make_net().double())
    model.fit(1, (x.double(), y), callbacks=[MixUp()], verbose=0)
    assert model.history["loss"][0] > 0


def test_counting_the_classes_leaves_the_net_alone_and_is_done_once_a_fit():
    calls = []

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.inner = make_net(classes)

        def forward(self, x):
            calls.append(self.training)
            return self.inner(x)

    mix = MixUp()
    for classes in (3, 5):  # another net: it is asked anew
        seen = Seen()
        compiled(Net(classes)).fit(1, images(), callbacks=[mix, seen], batch_size=5, verbose=0)
        assert {batch.y.shape[1] for batch in seen.of("train")} == {classes}
    assert calls == [False, True, True, True, True] * 2
    calls.clear()
    compiled(Net(3)).fit(1, images(), callbacks=[MixUp(num_classes=3)], batch_size=5, verbose=0)
    assert calls == [True] * 4


def test_several_losses_on_one_target_need_the_number_of_classes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_net()

        def forward(self, x):
            return {"a": self.net(x), "b": self.net(x)}

    def fit(callback):
        model = compiled(Two(), {"a": "cross_entropy", "b": "cross_entropy"}, {"a": ["accuracy"]})
        return model.fit(1, images(), images(), callbacks=[callback], verbose=0)

    assert 0 <= fit(MixUp(num_classes=3))["a_accuracy"][0] <= 1
    with pytest.raises(MismatchError, match=r"does not tell how many classes there are\. Type MixUp\(num_classes=10\)"):
        fit(MixUp())


@pytest.mark.parametrize(
    ("kind", "x", "y", "text"),
    [
        (
            MixUp,
            (torch.randn(4, 2), torch.randn(4, 2)),
            torch.zeros(4),
            r"one tensor of inputs and one of targets; batch 0",
        ),
        (MixUp, {"a": torch.randn(4, 2)}, torch.zeros(4), r"type BatchTransform\(f, targets=True\)"),
        (MixUp, torch.randn(4, 2), None, "one of targets"),
        (MixUp, torch.randn(4, 2), {"a": torch.zeros(4)}, "one of targets"),
        (MixUp, torch.randn(4, 2), torch.zeros(3), "one of targets"),
        (MixUp, torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4).long(), r"floating inputs; batch 0 .*v2\.ToDtype"),
        (
            MixUp,
            torch.randn(4, 2),
            torch.zeros(4, 3).long(),
            r"labels \(N,\), or targets of a floating dtype.*y\.float",
        ),
        (
            CutMix,
            torch.randn(4, 2),
            torch.zeros(4).long(),
            r"needs images \(N, channels, height, width\).*MixUp takes any",
        ),
        (CutMix, torch.randn(4, 1, 2, 2), torch.zeros(4, 2, 2), r"CutMix mixes labels"),
        (MixUp, torch.randn(4, 2), torch.tensor([0, 1, -100, 1]), "from 0 to 1, for 2 classes; .* go from -100 to 1"),
        (MixUp, torch.randn(4, 2), torch.tensor([0, 1, 2, 1]), "go from 0 to 2"),
    ],
)
def test_what_cannot_be_mixed_is_said_at_the_first_batch(kind, x, y, text):
    model = compiled(nn.Linear(2, 2), lambda output, target: output.sum())
    with pytest.raises(DataError, match=text):
        model.fit(1, [(x, y)], callbacks=[kind(num_classes=2)], verbose=0)


def test_a_label_that_is_none_is_found_in_later_batches_too():
    x, y = images(20)
    y[-1] = -100
    with pytest.raises(DataError, match="those of batch 3 go from -100 to"):
        compiled(make_net()).fit(1, (x, y), callbacks=[MixUp()], batch_size=5, shuffle=False, verbose=0)


def test_weights_of_samples_are_refused():
    x, y = images()
    with pytest.raises(DataError, match=r"MixUp cannot mix samples that have weights; batch 0 has .*weight float32"):
        compiled(make_net()).fit(1, (x, y, torch.ones(20)), callbacks=[MixUp()], verbose=0)


@pytest.mark.parametrize("loss", ["nll", nn.NLLLoss()])
def test_a_loss_of_labels_only_is_refused_before_the_first_batch(loss):
    seen = Seen()
    with pytest.raises(MismatchError, match=r"takes labels only\. Leave out the LogSoftmax.*loss='cross_entropy'"):
        compiled(make_net(), loss).fit(1, images(), callbacks=[CutMix(), seen], verbose=0)
    assert seen.batches == []


def test_weights_of_classes_of_fit_are_refused():
    with pytest.raises(MismatchError, match=r"type loss=nn\.CrossEntropyLoss\(weight=\.\.\.\)"):
        compiled(make_net()).fit(1, images(), callbacks=[MixUp()], class_weight={0: 2.0}, verbose=0)


def test_a_net_with_one_output_does_not_tell_the_classes():
    with pytest.raises(MismatchError, match=r"float32 \(20, 1\) cpu, does not tell.*binary targets as floats"):
        compiled(make_net(1), "bce_with_logits").fit(1, images(classes=2), callbacks=[MixUp()], verbose=0)


def test_transforms_come_in_the_order_of_the_list():
    seen = Seen()
    x = torch.randint(256, (12, 2, 6, 6), dtype=torch.uint8)
    scale = BatchTransform(v2.ToDtype(torch.float32, scale=True), phase="both")
    data = (x, torch.arange(12) % 3)
    compiled(make_net()).fit(1, data, data, callbacks=[scale, MixUp(), seen], verbose=0)
    assert seen.of("train")[0].x.max() <= 1
    assert seen.of("val")[0].x.max() <= 1


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0, -1, math.nan, math.inf])
def test_alpha_is_above_0(kind, alpha):
    with pytest.raises(ValueError, match="alpha is a number above 0"):
        kind(alpha)


@pytest.mark.parametrize("num_classes", [0, 1, 2.5])
def test_there_are_two_classes_or_more(num_classes):
    with pytest.raises(ValueError, match="num_classes is a whole number from 2"):
        MixUp(num_classes=num_classes)


def test_without_torchvision_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(MissingPackageError, match=r"CutMix needs the package 'torchvision'\. Type: pip install"):
        CutMix()


def test_repr_is_the_call():
    assert repr(MixUp()) == "MixUp(alpha=0.2, num_classes=None)"
    assert repr(CutMix(num_classes=10)) == "CutMix(alpha=1.0, num_classes=10)"


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (nn.MultiMarginLoss(), r"MultiMarginLoss takes labels only\. Type loss='cross_entropy'"),
        (functional.multi_margin_loss, r"multi_margin_loss takes labels only\. Type loss='cross_entropy'"),
        (nn.CrossEntropyLoss(ignore_index=0), r"CrossEntropyLoss takes them only without ignore_index=0\. .*leave out"),
        (functools.partial(functional.cross_entropy, ignore_index=255), r"cross_entropy takes them only .*=255"),
        ({0: "cross_entropy", 1: "nll"}, r"NLLLoss takes labels only"),
    ],
)
def test_losses_that_take_no_probabilities_are_refused_before_the_first_batch(kind, loss, text):
    seen = Seen()
    with pytest.raises(MismatchError, match=text):
        compiled(make_net(), loss).fit(1, images(), callbacks=[kind(num_classes=3), seen], verbose=0)
    assert seen.batches == []


def test_labels_below_zero_that_are_to_be_ignored_are_no_obstacle():
    loss = nn.CrossEntropyLoss(ignore_index=-1)
    assert len(compiled(make_net(), loss).fit(1, images(), callbacks=[MixUp()], verbose=0)) == 1


def test_a_loss_that_is_computed_by_the_model_is_left_to_it():
    class Computing(kt.Model):
        def compute_loss(self, batch, output):
            return functional.cross_entropy(output, batch.y)

    model = Computing(make_net())
    model.compile("nll", sgd)
    assert len(model.fit(1, images(), callbacks=[MixUp()], verbose=0)) == 1
