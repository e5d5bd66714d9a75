import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses import Loss, OutputLoss, SeveralLosses
from kerastorch.metrics import MetricSet

WEIGHTS = torch.tensor([0.5, 2.0, 0.25, 1.5])
seeds = st.integers(0, 2**32 - 1)
varied = settings(max_examples=30)


def batches(count, size):
    return [slice(start, start + size) for start in range(0, count, size)]


def epoch_value(loss, output, target, size, weight=None):
    metrics = MetricSet({})
    for index, part in enumerate(batches(len(output), size)):
        share = None if weight is None else weight[part]
        batch = Batch(index, None, target[part], share, len(output[part]))
        metrics.update(loss.terms(output[part], batch)[1], output[part], batch)
    return metrics["loss"]


@varied
@given(
    seed=seeds,
    count=st.integers(1, 9),
    size=st.integers(1, 5),
    shape=st.sampled_from([(), (2, 2)]),
    ignored=st.booleans(),
)
def test_labels_are_weighted_as_torch_weighs_them(*, seed, count, size, shape, ignored):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, 4, *shape, generator=random, dtype=torch.float64)
    target = torch.randint(4, (count, *shape), generator=random)
    if ignored:
        target[torch.rand(target.shape, generator=random) < 0.3] = -100
    expected = nn.CrossEntropyLoss(WEIGHTS.double())(output, target)
    loss = Loss(nn.CrossEntropyLoss()).by_classes(WEIGHTS.double())
    assert epoch_value(loss, output, target, size) == pytest.approx(float(expected), rel=1e-12, nan_ok=True)


@varied
@given(seed=seeds, count=st.integers(1, 9), size=st.integers(1, 5))
def test_weights_of_classes_are_weights_of_their_samples(seed, count, size):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, 4, generator=random)
    target, times = torch.randint(4, (2, count), generator=random)
    function = nn.CrossEntropyLoss(torch.rand(4, generator=random), label_smoothing=0.1)
    both = epoch_value(Loss(function).by_classes(WEIGHTS), output, target, size, times.float())
    by_sample = epoch_value(Loss(function), output, target, size, times * WEIGHTS[target])
    assert both == pytest.approx(by_sample, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("function", [nn.BCEWithLogitsLoss(), functional.binary_cross_entropy_with_logits])
@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 1, 2, 2)])
def test_two_classes_are_weighted_where_the_targets_are_zeros_and_ones(function, shape):
    output, target = torch.randn(shape), (torch.rand(shape) < 0.4).float()
    weight = torch.where(target == 1, 3.0, 0.5)
    each = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    loss = Loss(function).by_classes(torch.tensor([0.5, 3.0]))
    assert epoch_value(loss, output, target, 4) == pytest.approx(float((each * weight).sum() / weight.sum()))


def test_one_hot_targets_have_the_class_of_their_one():
    output, labels = torch.randn(9, 4), torch.randint(4, (9,))
    one_hot = functional.one_hot(labels, 4).float()
    loss = Loss(nn.CrossEntropyLoss()).by_classes(WEIGHTS)
    assert epoch_value(loss, output, one_hot, 4) == pytest.approx(epoch_value(loss, output, labels, 4))


def test_classes_behind_the_last_weigh_one():
    output, target = torch.randn(8, 4), torch.arange(8) % 4
    short = Loss(nn.CrossEntropyLoss()).by_classes(torch.tensor([2.0, 3.0]))
    expected = nn.CrossEntropyLoss(torch.tensor([2.0, 3.0, 1.0, 1.0]))(output, target)
    assert epoch_value(short, output, target, 3) == pytest.approx(float(expected))


def test_a_function_of_the_users_own_needs_one_loss_per_sample():
    def focal(output, target, reduction="mean"):
        each = functional.cross_entropy(output, target, reduction="none") ** 2
        return each.mean() if reduction == "mean" else each

    output, target = torch.randn(9, 4), torch.randint(4, (9,))
    weight = WEIGHTS[target]
    expected = (focal(output, target, "none") * weight).sum() / weight.sum()
    assert epoch_value(Loss(focal).by_classes(WEIGHTS), output, target, 4) == pytest.approx(float(expected))
    with pytest.raises(MismatchError, match="need one loss per sample, but <lambda> has no `reduction`"):
        epoch_value(Loss(lambda output, target: output.mean()).by_classes(WEIGHTS), output, target, 4)


def test_a_summed_loss_is_a_weighted_sum():
    output, target = torch.randn(9, 4), torch.randint(4, (9,))
    loss = Loss(functools.partial(functional.cross_entropy, reduction="sum")).by_classes(WEIGHTS)
    expected = functional.cross_entropy(output, target, WEIGHTS, reduction="sum")
    assert epoch_value(loss, output, target, 4) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("function", "output", "target"),
    [
        (nn.MSELoss(), torch.randn(5), torch.randn(5)),
        (nn.BCEWithLogitsLoss(), torch.randn(5, 3), torch.ones(5, 3)),
    ],
)
def test_targets_without_a_class_are_named(function, output, target):
    with pytest.raises(MismatchError, match=r"class_weight needs the class of each sample, as integers or one-hot"):
        epoch_value(Loss(function).by_classes(WEIGHTS), output, target, 5)


@pytest.mark.parametrize("objective", [OutputLoss(), SeveralLosses({"a": Loss(nn.MSELoss())}, {"a": 1})])
def test_weights_of_classes_are_for_one_loss(objective):
    with pytest.raises(MismatchError, match=r"class_weight is for one compiled loss.*CrossEntropyLoss\(weight="):
        objective.by_classes(WEIGHTS)
