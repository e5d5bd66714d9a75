import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torch import nn

from kerastorch import resolve
from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import Accuracy, MetricSet, Task

CLASSES = 3
varied = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)
sample_counts = st.integers(1, 9)
batch_sizes = st.integers(1, 6)
shapes = st.sampled_from([(), (4,), (2, 3)])
label_dtypes = st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool])


def epoch_value(metric, output, target, *, batch_size, weight=None):
    metrics = MetricSet({"accuracy": metric})
    for index, start in enumerate(range(0, len(output), batch_size)):
        part = slice(start, start + batch_size)
        batch = Batch(index, None, target[part], None if weight is None else weight[part], len(output[part]))
        metrics.update([("loss", torch.tensor(0.0), batch.size)], output[part], batch)
    return metrics["accuracy"]


def expected(truth, predicted, weight=None):
    weights = None if weight is None else weight.reshape(-1, *(1,) * (truth.ndim - 1)).expand(truth.shape).flatten()
    if weights is not None and not weights.any():
        return pytest.approx(math.nan, nan_ok=True)
    return pytest.approx(accuracy_score(truth.flatten(), predicted.flatten(), sample_weight=weights), abs=1e-12)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_labels(seed, count, *shape):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed + 1))


def weights_of(seed, count):
    return torch.tensor([0.0, 0.5, 1.0, 4.0])[some_labels(seed, 4, count)].double()


@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, weighted=st.booleans())
def test_the_largest_score_is_the_class(seed, count, batch_size, shape, weighted):
    output, target = draw(seed, count, CLASSES, *shape), some_labels(seed, CLASSES, count, *shape)
    weight = weights_of(seed, count) if weighted else None
    value = epoch_value(Accuracy(), output, target, batch_size=batch_size, weight=weight)
    assert value == expected(target, output.argmax(1), weight)


@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, weighted=st.booleans())
def test_ignored_labels_are_not_counted(seed, count, batch_size, shape, weighted):
    output, target = draw(seed, count, CLASSES, *shape), some_labels(seed, CLASSES, count, *shape)
    target[draw(seed, *target.shape) > 0] = -100
    weight = weights_of(seed, count) if weighted else None
    value = epoch_value(Accuracy(ignore_index=-100), output, target, batch_size=batch_size, weight=weight)
    counted = target != -100
    if not counted.any():
        assert math.isnan(value)
        return
    every = torch.ones(count) if weight is None else weight
    spread = every.reshape(-1, *(1,) * (target.ndim - 1)).expand(target.shape)[counted]
    assert value == expected(target[counted], output.argmax(1)[counted], spread)


@varied
@given(
    seed=seeds, batch_size=batch_sizes, shape=shapes, weighted=st.booleans(), dtype=label_dtypes, column=st.booleans()
)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_an_output_above_the_threshold_is_a_one(*, threshold, seed, batch_size, shape, weighted, dtype, column):
    output, target = draw(seed, 7, *shape), some_labels(seed, 2, 7, *shape).to(dtype)
    weight = weights_of(seed, 7) if weighted else None
    given_output = output.unsqueeze(1) if column else output
    value = epoch_value(Accuracy(threshold=threshold), given_output, target, batch_size=batch_size, weight=weight)
    assert value == expected(target.bool(), output > threshold, weight)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_an_output_at_the_threshold_is_a_zero(threshold):
    output, target = torch.tensor([threshold, threshold]), torch.tensor([0.0, 0.5])
    assert epoch_value(Accuracy(threshold=threshold), output, target, batch_size=2) == 1.0


@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, weighted=st.booleans())
def test_several_labels_a_sample_are_compared_one_by_one(seed, count, batch_size, weighted):
    output, target = draw(seed, count, 5), some_labels(seed, 2, count, 5).float()
    weight = weights_of(seed, count) if weighted else None
    value = epoch_value(Accuracy(threshold=0.0), output, target, batch_size=batch_size, weight=weight)
    assert value == expected(target.bool(), output > 0, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("ignore_index", [None, -100])
@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, weighted=st.booleans())
def test_one_hot_targets_count_by_sample(*, dtype, ignore_index, seed, count, batch_size, shape, weighted):
    output, labels = draw(seed, count, CLASSES, *shape), some_labels(seed, CLASSES, count, *shape)
    target = nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).to(dtype)
    weight = weights_of(seed, count) if weighted else None
    metric = Accuracy(classes=True, ignore_index=ignore_index)
    value = epoch_value(metric, output, target, batch_size=batch_size, weight=weight)
    assert value == expected(labels, output.argmax(1), weight)


@pytest.mark.parametrize("ignored", [255, -1])
@pytest.mark.parametrize("weight", [None, torch.ones(4)])
def test_binary_labels_can_be_ignored(ignored, weight):
    output, target = torch.tensor([0.9, 0.9, 0.1, 0.1]), torch.tensor([1, ignored, ignored, 1])
    assert epoch_value(Accuracy(ignore_index=ignored), output, target, batch_size=3, weight=weight) == 0.5


def test_labels_as_bytes_are_not_ignored_for_a_negative_number():
    output, target = torch.zeros(3, 200), torch.tensor([156, 156, 0], dtype=torch.uint8)  # -100 as a byte is 156
    output[0, 156] = 1
    assert epoch_value(Accuracy(ignore_index=-100), output, target, batch_size=2) == pytest.approx(2 / 3)


def test_a_net_with_a_single_class_is_always_right():
    metric = Accuracy(classes=True, ignore_index=-100)
    assert epoch_value(metric, torch.randn(3, 1), torch.zeros(3, dtype=torch.int64), batch_size=2) == 1.0


def test_an_epoch_of_ignored_labels_only_has_no_accuracy():
    target = torch.full((3,), -100)
    assert math.isnan(epoch_value(Accuracy(ignore_index=-100), torch.randn(3, 2), target, batch_size=2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float16])
def test_sample_weights_may_be_of_any_dtype(dtype):
    output, target = torch.eye(3), torch.tensor([0, 0, 2])
    assert epoch_value(Accuracy(), output, target, batch_size=2, weight=torch.tensor([1, 2, 1]).to(dtype)) == 0.5


def test_half_precision_counts_exactly():
    output = torch.ones(5000, dtype=torch.float16)
    target = torch.cat([torch.ones(4999), torch.zeros(1)]).half()
    assert epoch_value(Accuracy(), output, target, batch_size=4500) == 4999 / 5000


@pytest.mark.parametrize(
    ("output", "target", "text"),
    [
        (torch.randn(4, 3), torch.zeros(1), "output float32 (4, 3) cpu with target float32 (1,) cpu"),
        (torch.randn(4, 3), torch.zeros(4, 1), "output float32 (4, 3) cpu with target float32 (4, 1) cpu"),
        (torch.randn(4, 3, 5), torch.zeros(4, 1), "output float32 (4, 3, 5) cpu with target float32 (4, 1) cpu"),
        (torch.randn(4, 1, 5), torch.zeros(4, 1), "output float32 (4, 1, 5) cpu with target float32 (4, 1) cpu"),
        (torch.randn(4, 3, 5, 5), torch.zeros(4, 2, 2), "(4, 3, 5, 5) cpu with target float32 (4, 2, 2) cpu"),
        (torch.randn(4), torch.tensor(1.0), "output float32 (4,) cpu with target float32 () cpu"),
        (torch.tensor(1.0), torch.zeros(1), "output float32 () cpu with target float32 (1,) cpu"),
        (torch.randn(4), None, "output float32 (4,) cpu with target None"),
        (torch.randn(4, 3), torch.zeros(4, 2), "output float32 (4, 3) cpu with target float32 (4, 2) cpu"),
        ((torch.randn(4), 1), torch.zeros(4), "output (float32 (4,) cpu, int) with target float32 (4,) cpu"),
    ],
)
@pytest.mark.parametrize("metric", [Accuracy(), Accuracy(ignore_index=-100)])
def test_shapes_that_do_not_fit_are_named(metric, output, target, text):
    with pytest.raises(MismatchError, match=re.escape(text)) as error:
        metric.measure(output, target, None, 4)
    assert str(error.value).startswith("accuracy cannot compare output ")
    assert str(error.value).endswith(" It takes labels (N, ...) for scores (N, C, ...), or two tensors of one shape.")


def test_classes_without_a_dimension_of_their_own_are_refused():
    with pytest.raises(MismatchError, match=r"^accuracy cannot compare output float32 \(4,\) cpu with target"):
        Accuracy(classes=True).measure(torch.randn(4), torch.zeros(4), None, 4)


def test_sample_weights_of_another_length_are_refused():
    with pytest.raises(MismatchError, match="3 sample weights for values of the shape \\(4,\\)"):
        Accuracy().measure(torch.randn(4, 3), torch.zeros(4), torch.ones(3), 4)


@pytest.mark.parametrize(
    ("loss", "output", "target", "value"),
    [
        ("cross_entropy", [[0.1, 0.2], [0.3, 0.4]], [1, -100], 1.0),
        ("bce_with_logits", [0.3, -0.3], [1.0, 0.0], 1.0),
        (nn.BCEWithLogitsLoss(), [[0.3], [-0.3]], [[1.0], [1.0]], 0.5),
        (nn.functional.binary_cross_entropy_with_logits, [0.3, -0.3], [1.0, 0.0], 1.0),
        (nn.MultiLabelSoftMarginLoss(), [[0.3, -0.3]], [[1.0, 0.0]], 1.0),
        (type("Focal", (nn.BCEWithLogitsLoss,), {})(), [0.3, -0.3], [1.0, 0.0], 1.0),
        ("bce", [0.3, 0.6], [0.0, 1.0], 1.0),
        (nn.MultiMarginLoss(), [[0.1, 0.2], [0.3, 0.4]], [1, 0], 0.5),
    ],
)
def test_accuracy_by_name_knows_from_the_loss_what_an_output_means(loss, output, target, value):
    metric = resolve.metrics(["accuracy"], resolve.loss(loss))["accuracy"]
    assert epoch_value(metric, torch.tensor(output), torch.tensor(target), batch_size=1) == value


@varied
@given(
    seed=seeds,
    count=sample_counts,
    k=st.integers(1, 4),
    shape=shapes,
    weighted=st.booleans(),
    ignores=st.booleans(),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    shares=st.integers(1, 3),
)
def test_one_of_several_guesses_may_be_right(*, over_epoch, seed, count, k, shape, weighted, ignores, sizes, shares):
    output, target = draw(seed, count, 5, *shape), some_labels(seed, 5, count, *shape)
    if ignores:
        target[draw(seed, *target.shape) > 0.5] = 1
    weight = weights_of(seed, count) + 0.5 if weighted else None
    metric = Accuracy(top_k=k, ignore_index=1 if ignores else None)
    value = over_epoch(metric, output, target, sizes=sizes, weight=weight, shares=shares)
    kept = target != 1 if ignores else torch.ones_like(target, dtype=torch.bool)
    if not kept.any():
        assert math.isnan(value)
        return
    rows = output.movedim(1, -1)[kept]
    every = torch.ones(count).double() if weight is None else weight
    spread = every.reshape(-1, *(1,) * len(shape)).expand(target.shape)[kept]
    reference = top_k_accuracy_score(target[kept], rows, k=k, labels=range(5), sample_weight=spread)
    assert value == pytest.approx(reference, abs=1e-12)


def test_guesses_count_for_one_hot_targets_as_well():
    output, labels = draw(3, 9, 5), some_labels(3, 5, 9)
    one_hot = nn.functional.one_hot(labels, 5).float()
    expected = Accuracy(top_k=2)(output, labels)
    assert Accuracy(top_k=2, classes=True)(output, one_hot) == expected
    assert Accuracy(top_k=2).bound(Task("logits", True, -100))(output, one_hot) == expected


@pytest.mark.parametrize(
    ("k", "output", "target"),
    [(5, torch.ones(2, 5), torch.ones(2)), (2, torch.ones(2, 1), torch.ones(2)), (2, torch.ones(2), torch.ones(2))],
)
def test_more_guesses_than_classes_are_refused(k, output, target):
    text = f"top_k={k} needs labels, and outputs (N, C) with more than {k} scores; got output float32"
    with pytest.raises(MismatchError, match=re.escape(text)):
        Accuracy(top_k=k).measure(output, target, None, 2)


def test_there_is_at_least_one_guess():
    with pytest.raises(ValueError, match="top_k is at least 1; got 0"):
        Accuracy(top_k=0)


def test_unset_options_are_those_of_the_loss():
    metric = Accuracy()
    assert (metric.threshold, metric.classes, metric.ignore_index) == (None, None, None)
    bound = metric.bound(Task("logits", False, 3))
    assert (bound.threshold, bound.classes, bound.ignore_index) == (0.0, False, 3)
    bound = Accuracy(threshold=0.3, classes=False, ignore_index=1).bound(Task("logits", True, 3))
    assert (bound.threshold, bound.classes, bound.ignore_index) == (0.3, False, 1)
    assert (metric.threshold, metric.classes, metric.ignore_index) == (None, None, None)


@pytest.mark.parametrize("column", [False, True])
def test_ignored_elements_may_be_floats(column):
    output, target = torch.tensor([0.9, 0.9, 0.1, 0.1]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    output = output.unsqueeze(1) if column else output
    assert epoch_value(Accuracy(ignore_index=-1), output, target, batch_size=3) == 0.5
    weight = torch.tensor([3.0, 1.0, 1.0, 1.0])
    assert epoch_value(Accuracy(ignore_index=-1), output, target, batch_size=3, weight=weight) == 0.75


@pytest.mark.parametrize("output", [torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 1)])
def test_a_batch_without_samples_adds_nothing(output):
    assert math.isnan(Accuracy()(output, torch.zeros(0, dtype=torch.int64)))
    assert math.isnan(Accuracy(ignore_index=-100)(output, torch.zeros(0, dtype=torch.int64)))
