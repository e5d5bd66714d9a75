import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import ConfusionMatrix, MetricSet, Task

varied = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
normalizes = st.sampled_from([None, "true", "pred", "all"])


def reference(truth, predicted, **options):
    with warnings.catch_warnings():  # a single class, in small samples
        warnings.simplefilter("ignore")
        return torch.as_tensor(confusion_matrix(truth, predicted, **options)).double()


def expanded(weight, target, kept):
    every = torch.ones(len(target)) if weight is None else weight
    return every.reshape(-1, *(1,) * (target.ndim - 1)).expand(target.shape)[kept].numpy()


@varied
@given(
    seed=seeds,
    count=st.integers(1, 12),
    classes=st.integers(2, 5),
    shape=st.sampled_from([(), (3,), (2, 2)]),
    sizes=sizes,
    shares=st.integers(1, 3),
    weighted=st.booleans(),
    ignored=st.sampled_from([None, -100, 255, 0]),
    normalize=normalizes,
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_classes_are_counted_as_by_scikit_learn(
    *, over_epoch, seed, count, classes, shape, sizes, shares, weighted, ignored, normalize, dtype
):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, classes, *shape, generator=random).to(dtype)
    target = torch.randint(classes, (count, *shape), generator=random)
    if ignored is not None:
        target[torch.rand(target.shape, generator=random) < 0.3] = ignored
    weight = torch.rand(count, generator=random) + 0.1 if weighted else None
    metric = ConfusionMatrix(normalize=normalize, ignore_index=ignored)
    matrix = over_epoch(metric, output, target, sizes=sizes, weight=weight, shares=shares)
    assert matrix.shape == (classes, classes)
    assert matrix.dtype == (torch.float64 if weighted or normalize else torch.int64)
    kept = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    if not kept.any():
        assert not matrix.any()
        return
    expected = reference(
        target[kept],
        output.argmax(1)[kept],
        labels=range(classes),
        normalize=normalize,
        sample_weight=expanded(weight, target, kept),
    )
    assert torch.allclose(matrix.double(), expected, atol=1e-6)


@varied
@given(
    seed=seeds,
    count=st.integers(1, 12),
    shape=st.sampled_from([(), (1,), (1, 2, 2)]),
    sizes=sizes,
    shares=st.integers(1, 3),
    weighted=st.booleans(),
    normalize=normalizes,
)
def test_one_label_is_counted_as_by_scikit_learn(*, over_epoch, seed, count, shape, sizes, shares, weighted, normalize):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, *shape, generator=random)
    target = torch.randint(-1, 2, (count, *shape), generator=random)
    weight = torch.rand(count, generator=random) + 0.1 if weighted else None
    metric = ConfusionMatrix(threshold=0.0, normalize=normalize, ignore_index=-1)
    matrix = over_epoch(metric, output, target.float(), sizes=sizes, weight=weight, shares=shares)
    assert matrix.shape == (2, 2)
    assert matrix.dtype == (torch.float64 if weighted or normalize else torch.int64)
    kept = target >= 0
    if not kept.any():
        assert not matrix.any()
        return
    options = {"normalize": normalize, "sample_weight": expanded(weight, target, kept)}
    expected = reference(target[kept], (output > 0)[kept], labels=[0, 1], **options)
    assert torch.allclose(matrix.double(), expected, atol=1e-6)


@varied
@given(seed=seeds, count=st.integers(1, 12), labels=st.integers(2, 4), sizes=sizes, weighted=st.booleans())
def test_several_labels_have_a_matrix_each(*, over_epoch, seed, count, labels, sizes, weighted):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, labels, generator=random)
    target = torch.randint(2, (count, labels), generator=random)
    weight = torch.rand(count, generator=random) + 0.1 if weighted else None
    matrix = over_epoch(ConfusionMatrix(threshold=0.0), output, target, sizes=sizes, weight=weight)
    expected = multilabel_confusion_matrix(target, output > 0, sample_weight=weight)
    assert torch.allclose(matrix.double(), torch.as_tensor(expected).double(), atol=1e-6)
    assert (matrix >= 0).all()


def test_rows_are_true_labels():
    output, target = torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 1])
    assert ConfusionMatrix()(output, target).tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_a_single_class_is_one_number(over_epoch):
    metric = ConfusionMatrix().bound(Task("logits", True))
    assert over_epoch(metric, torch.randn(3, 1), torch.zeros(3, dtype=torch.int64)) == 3.0


def test_an_empty_batch_adds_nothing():
    metrics = MetricSet({"matrix": ConfusionMatrix()})
    batch = Batch(0, None, torch.zeros(0, dtype=torch.int64), size=0)
    metrics.update([("loss", torch.tensor(0.0), 0)], torch.zeros(0, 2), batch)
    assert not metrics.result()["matrix"].any()


@pytest.mark.parametrize("label", [-1, 3, -100, 50])
def test_labels_that_are_no_class_are_told_when_the_value_is_read(label, over_epoch):
    target = torch.tensor([0, 1, 2, label])
    with pytest.raises(MismatchError, match=r"^The output has scores for labels 0 to 2, but there are others: 1 of"):
        over_epoch(ConfusionMatrix(), torch.randn(4, 3), target, sizes=[3])


def test_many_classes_and_samples_count_exactly(over_epoch):
    output = torch.zeros(1, 2).expand(2**24 + 2, 2)  # float32 would stay at 2**24
    target = torch.zeros(1, dtype=torch.int64).expand(2**24 + 2)
    assert over_epoch(ConfusionMatrix(), output, target, sizes=[2**24 + 2]).tolist() == [[2**24 + 2, 0], [0, 0]]


def test_what_is_unknown_is_named():
    text = "normalize is 'true', 'pred', 'all' or None; got 'truee'. Did you mean 'true'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        ConfusionMatrix(normalize="truee")


@pytest.mark.parametrize("shape", [(4, 5, 6)])
def test_pictures_without_channels_are_told_from_labels(shape):
    with pytest.raises(MismatchError, match=r"^ConfusionMatrix cannot tell whether \(4, 5, 6\) are pictures"):
        ConfusionMatrix().measure(torch.ones(shape), torch.ones(shape), None, 4)


def test_it_is_not_shown_while_an_epoch_runs():
    assert not ConfusionMatrix().running
