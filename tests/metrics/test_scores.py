import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from torch import nn

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import (
    AUROC,
    F1,
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    Dice,
    IoU,
    MetricSet,
    Precision,
    Recall,
    Task,
)
from kerastorch.metrics import counts as counts_module

PAIRS = [
    (Precision, sklearn.precision_score),
    (Recall, sklearn.recall_score),
    (F1, sklearn.f1_score),
    (Dice, sklearn.f1_score),
    (IoU, sklearn.jaccard_score),
]
ALL = [kind for kind, _ in PAIRS]
varied = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 12)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
shares = st.integers(1, 3)
averages = st.sampled_from(["macro", "micro", "weighted", None])
output_dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
every_pair = pytest.mark.parametrize(("kind", "reference"), PAIRS)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def weights_of(random, count):
    return torch.tensor([0.5, 1.0, 4.0])[torch.randint(3, (count,), generator=random)]


def expanded(weight, target, kept):
    every = torch.ones(len(target)) if weight is None else weight
    return every.reshape(-1, *(1,) * (target.ndim - 1)).expand(target.shape)[kept].numpy()


def same(value, expected):
    expected = torch.as_tensor(np.asarray(expected))
    if expected.numel() == 1:
        return value == pytest.approx(float(expected), abs=1e-6)
    return torch.allclose(value, expected.double(), atol=1e-6)


@pytest.fixture(params=["few classes", "many classes"])
def _layout(request, monkeypatch):
    monkeypatch.setattr(counts_module, "_MANY", 128 if request.param == "few classes" else 0)


@every_pair
@varied
@given(
    seed=seeds,
    count=counts,
    classes=st.integers(2, 5),
    used=st.integers(1, 5),
    shape=st.sampled_from([(), (3,), (2, 2)]),
    sizes=sizes,
    shares=shares,
    weighted=st.booleans(),
    ignored=st.sampled_from([None, -100, 255, 0]),
    average=averages,
    dtype=output_dtypes,
    label_dtype=st.sampled_from([torch.int64, torch.int32, torch.float32]),
    few=st.integers(0, 5),
)
def test_classes_are_scored_as_by_scikit_learn(
    *, kind, reference, over_epoch, seed, count, classes, used, shape, sizes, shares, weighted, ignored, average, dtype,
    label_dtype, few,
):  # fmt: skip
    random = generator(seed)
    output = torch.randn(count, classes, *shape, generator=random).to(dtype)
    target = torch.randint(min(used, classes), (count, *shape), generator=random)  # the others are absent
    if ignored is not None:
        target[torch.rand(target.shape, generator=random) < 0.3] = ignored
    weight = weights_of(random, count) if weighted else None
    metric = kind(average=average, ignore_index=ignored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts_module, "_MANY", few)
        value = over_epoch(metric, output, target.to(label_dtype), sizes=sizes, weight=weight, shares=shares)
    kept = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    if not kept.any():
        assert torch.as_tensor(value).isnan().all()
        return
    labels = {"labels": range(classes)} if average is None else {}
    truth, predicted = target[kept].numpy(), output.argmax(1)[kept].numpy()
    expected = reference(
        truth, predicted, average=average, zero_division=0, sample_weight=expanded(weight, target, kept), **labels
    )
    assert same(value, expected)


@every_pair
@varied
@given(
    seed=seeds,
    count=counts,
    form=st.sampled_from(["(N,)", "(N, 1)", "(N, 1) and (N,)", "(N, 1, 2, 2)", "(N, 1, 3) and (N, 3)"]),
    sizes=sizes,
    shares=shares,
    weighted=st.booleans(),
    ignored=st.sampled_from([None, -1, 255]),
    average=averages,
    threshold=st.sampled_from([None, 0.0, 0.5]),
    dtype=output_dtypes,
    label_dtype=st.sampled_from([torch.int64, torch.float32, torch.int16]),
)
def test_one_label_is_scored_as_by_scikit_learn(
    *, kind, reference, over_epoch, seed, count, form, sizes, shares, weighted, ignored, average, threshold, dtype,
    label_dtype,
):  # fmt: skip
    random = generator(seed)
    shape = {"(N,)": (), "(N, 1)": (1,), "(N, 1) and (N,)": (1,), "(N, 1, 2, 2)": (1, 2, 2)}.get(form, (1, 3))
    output = torch.randn(count, *shape, generator=random).to(dtype)
    target = torch.randint(2, (count, *shape), generator=random)
    if ignored is not None:
        target[torch.rand(target.shape, generator=random) < 0.3] = ignored
    weight = weights_of(random, count) if weighted else None
    given_target = (target.squeeze(1) if "and" in form else target).to(label_dtype)
    metric = kind(average=average, threshold=threshold, ignore_index=ignored)
    value = over_epoch(metric, output, given_target, sizes=sizes, weight=weight, shares=shares)
    kept = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    if not kept.any():
        assert math.isnan(value)
        return
    truth, predicted = target[kept].numpy(), (output > (threshold or 0.5 * (threshold is None)))[kept].numpy()
    expected = reference(truth, predicted, zero_division=0, sample_weight=expanded(weight, target, kept))
    assert same(value, expected)


@every_pair
@varied
@given(
    seed=seeds,
    count=counts,
    labels=st.integers(2, 4),
    shape=st.sampled_from([(), (2, 2)]),
    sizes=sizes,
    shares=shares,
    weighted=st.booleans(),
    average=averages,
    label_dtype=st.sampled_from([torch.int64, torch.float32, torch.bool, torch.uint8]),
)
def test_several_labels_are_scored_as_by_scikit_learn(
    *, kind, reference, over_epoch, seed, count, labels, shape, sizes, shares, weighted, average, label_dtype
):
    random = generator(seed)
    output = torch.randn(count, labels, *shape, generator=random)
    target = torch.randint(2, (count, labels, *shape), generator=random)
    weight = weights_of(random, count) if weighted else None
    metric = kind(average=average, threshold=0.0)
    value = over_epoch(metric, output, target.to(label_dtype), sizes=sizes, weight=weight, shares=shares)
    truth, predicted = (part.movedim(1, -1).reshape(-1, labels).numpy() for part in (target, output > 0))
    repeated = None if weight is None else weight.repeat_interleave(math.prod(shape)).numpy()
    assert same(value, reference(truth, predicted, average=average, zero_division=0, sample_weight=repeated))


@pytest.mark.parametrize("kind", ALL)
def test_ignored_elements_of_several_labels_are_left_out_one_by_one(kind, over_epoch):
    random = generator(0)
    output, target = torch.randn(9, 3, generator=random), torch.randint(2, (9, 3), generator=random).float()
    target[torch.rand(9, 3, generator=random) < 0.4] = -1.0
    value = over_epoch(kind(average=None, threshold=0.0, ignore_index=-1), output, target, sizes=[2])
    columns = [kind(threshold=0.0)(output[keep, at], target[keep, at]) for at, keep in enumerate((target >= 0).T)]
    assert value.tolist() == columns


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_one_hot_targets_are_labels_if_the_loss_says_so(kind, dtype, over_epoch):
    random = generator(3)
    output, labels = torch.randn(9, 4, generator=random), torch.randint(4, (9,), generator=random)
    metric = kind(average=None).bound(Task("logits", True, -100))
    one_hot = nn.functional.one_hot(labels, 4).to(dtype)
    assert torch.equal(over_epoch(metric, output, one_hot, sizes=[4]), over_epoch(metric, output, labels))


@pytest.mark.parametrize("kind", [*ALL, Accuracy, ConfusionMatrix, AUROC, AveragePrecision])
def test_one_hot_targets_ignore_no_label(kind, over_epoch):
    random = generator(3)
    output, labels = torch.randn(20, 3, generator=random), torch.randint(3, (20,), generator=random)
    target = nn.functional.one_hot(labels, 3)
    every, some = (kind().bound(Task("logits", True, ignore_index)) for ignore_index in (None, 1))
    value, whole = (over_epoch(metric, output, target, sizes=[7]) for metric in (some, every))
    assert torch.equal(torch.as_tensor(value), torch.as_tensor(whole))


@pytest.mark.parametrize("kind", ALL)
def test_a_single_class_is_always_right(kind, over_epoch):
    metric = kind().bound(Task("logits", True))
    assert over_epoch(metric, torch.randn(3, 1), torch.zeros(3, dtype=torch.int64), sizes=[2]) == 1.0


@pytest.mark.parametrize("kind", ALL)
def test_the_loss_tells_the_threshold(kind, over_epoch):
    output, target = torch.tensor([0.2, -0.2]), torch.tensor([1.0, 0.0])
    assert over_epoch(kind().bound(Task("logits", False)), output, target) == 1.0
    assert over_epoch(kind().bound(Task("probabilities", False)), output, target) == 0.0
    assert over_epoch(kind(threshold=-1.0).bound(Task("logits", False)), output, target) < 1.0 or kind is Recall


@pytest.mark.usefixtures("_layout")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("output", [torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 1)])
def test_a_batch_without_samples_adds_nothing(kind, output, over_epoch):
    target = torch.zeros(0, dtype=torch.int64)
    metrics = MetricSet({"value": kind()})
    metrics.update([("loss", torch.tensor(0.0), 0)], output, Batch(0, None, target, size=0))
    assert math.isnan(metrics["value"])
    ones = torch.ones(2, *output.shape[1:])
    metrics.update([("loss", torch.tensor(0.0), 2)], ones, Batch(0, None, torch.zeros(2, dtype=torch.int64), size=2))
    assert metrics["value"] == (1.0 if output.shape[1:] == (3,) else 0.0)


@pytest.mark.usefixtures("_layout")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("label", "count"), [(3, 2), (-1, 2), (-100, 1), (9, 4)])
def test_labels_that_are_no_class_are_told_when_the_value_is_read(kind, label, count, over_epoch):
    target = torch.tensor([0, 1, 2, 0, *[label] * count])
    text = (
        f"The output has scores for labels 0 to 2, but there are others: {count} of them. Labels begin at 0; say "
        "ignore_index= for one that is not to be counted."
    )
    with pytest.raises(MismatchError, match=re.escape(text)):
        over_epoch(kind(), torch.randn(len(target), 3), target, sizes=[2])
    value = over_epoch(kind(ignore_index=label), torch.randn(len(target), 3), target, sizes=[2])
    assert 0 <= value <= 1


def test_labels_as_bytes_are_not_ignored_for_a_negative_number(over_epoch):
    output, target = torch.zeros(3, 200), torch.tensor([156, 156, 0], dtype=torch.uint8)  # -100 as a byte is 156
    output[0, 156] = 1
    assert over_epoch(Recall(ignore_index=-100), output, target) == pytest.approx((1 / 2 + 1) / 2)


def test_half_precision_counts_exactly(over_epoch):
    output = torch.ones(5000, dtype=torch.float16)
    target = torch.cat([torch.ones(4999), torch.zeros(1)]).half()
    assert over_epoch(Precision(), output, target, sizes=[4500]) == 4999 / 5000


def test_weights_in_half_precision_count_exactly(over_epoch):
    output, target = torch.eye(2).repeat(3000, 1), torch.tensor([0, 0] * 3000)
    weight = torch.full((6000,), 0.5, dtype=torch.float16)
    assert over_epoch(Recall(average="micro"), output, target, weight=weight) == 0.5


@pytest.mark.parametrize("kind", ALL)
def test_pictures_without_channels_are_told_from_labels(kind, over_epoch):
    output, target = torch.randn(4, 5, 6), torch.randint(2, (4, 5, 6))
    text = (
        f"{kind.__name__} cannot tell whether (4, 5, 6) are pictures, or labels along dimension 1. Give labels a "
        "dimension of their own: (N, 1, H, W) for pictures, (N, L, T, 1) for labels."
    )
    with pytest.raises(MismatchError) as error:
        over_epoch(kind(), output, target)
    assert str(error.value) == f"{text} Or type average='micro' to count all elements alike."
    with pytest.raises(MismatchError) as error:
        over_epoch(kind(average=None), output, target)
    assert str(error.value) == text
    whole = over_epoch(kind(threshold=0.0), output.unsqueeze(1), target.unsqueeze(1))
    assert over_epoch(kind(average="micro", threshold=0.0), output, target, sizes=[3]) == whole


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("output", "target", "text"),
    [
        (torch.ones(4, 3), torch.ones(4, 1), "output float32 (4, 3) cpu with target float32 (4, 1) cpu."),
        (torch.ones(4), torch.ones(4, 1), "output float32 (4,) cpu with target float32 (4, 1) cpu."),
        (torch.ones(4), None, "output float32 (4,) cpu with target None."),
        ((torch.ones(4),), torch.ones(4), "output (float32 (4,) cpu) with target float32 (4,) cpu."),
    ],
)
def test_shapes_that_do_not_fit_are_named(kind, output, target, text):
    with pytest.raises(MismatchError) as error:
        kind().measure(output, target, None, 4)
    assert str(error.value).startswith(f"{kind.__name__} cannot compare {text} It takes labels (N, ...) for scores")


@pytest.mark.parametrize("output", [torch.ones(4, 3), torch.ones(4)])
def test_sample_weights_of_another_length_are_refused(output):
    with pytest.raises(MismatchError, match="3 sample weights for values of the shape \\(4,\\)"):
        F1().measure(output, torch.zeros(4, dtype=torch.int64), torch.ones(3), 4)


@pytest.mark.parametrize("kind", ALL)
def test_an_unknown_average_is_named(kind):
    text = "average is 'macro', 'micro', 'weighted' or None; got 'marco'. Did you mean 'macro'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        kind(average="marco")


def test_batches_of_other_numbers_of_classes_are_named():
    metrics = MetricSet({"f1": F1()})
    for classes in (3, 4):
        batch = Batch(0, None, torch.zeros(2, dtype=torch.int64), size=2)
        if classes == 4:
            with pytest.raises(MismatchError, match=r"^A sum of the metric 'f1' is \(11,\) for one batch and \(18,\)"):
                metrics.update([("loss", torch.tensor(0.0), 2)], torch.ones(2, classes), batch)
            return
        metrics.update([("loss", torch.tensor(0.0), 2)], torch.ones(2, classes), batch)


def test_a_value_for_each_class_is_not_shown_while_an_epoch_runs():
    assert F1().running
    assert not F1(average=None).running
