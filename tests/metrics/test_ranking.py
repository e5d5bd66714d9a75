import math
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from kerastorch.data import Batch
from kerastorch.errors import MismatchError, MissingPackageError
from kerastorch.metrics import AUROC, AveragePrecision, MetricSet, Task

PAIRS = [(AUROC, roc_auc_score), (AveragePrecision, average_precision_score)]
varied = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
every_pair = pytest.mark.parametrize(("kind", "reference"), PAIRS)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


def expected_mean(reference, pairs):
    """The mean over those of the pairs of truth and scores that have a value."""
    values = [
        reference(truth, scores)
        for truth, scores in pairs
        if truth.any() and not (reference is roc_auc_score and truth.all())
    ]
    return pytest.approx(float(np.mean(values)) if values else math.nan, abs=1e-6, nan_ok=True)


@every_pair
@varied
@given(
    seed=seeds,
    count=st.integers(1, 20),
    shape=st.sampled_from([(), (1,), (1, 2, 2)]),
    sizes=sizes,
    shares=st.integers(1, 3),
    ignored=st.sampled_from([None, -1, 255]),
    outputs=st.sampled_from([None, "logits", "probabilities"]),
    dtype=dtypes,
    label_dtype=st.sampled_from([torch.int64, torch.float32, torch.int16]),
)
def test_one_label_is_ranked_as_by_scikit_learn(
    *, kind, reference, over_epoch, seed, count, shape, sizes, shares, ignored, outputs, dtype, label_dtype
):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, *shape, generator=random).mul(4).round().div(4).to(dtype)  # with ties
    target = torch.randint(2, (count, *shape), generator=random)
    if ignored is not None:
        target[torch.rand(target.shape, generator=random) < 0.3] = ignored
    metric = kind(ignore_index=ignored).bound(Task(outputs, False))
    value = over_epoch(metric, output, target.to(label_dtype), sizes=sizes, shares=shares)
    kept = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    assert value == expected_mean(reference, [(target[kept].numpy(), output.float()[kept].numpy())])


@every_pair
@varied
@given(
    seed=seeds,
    count=st.integers(1, 20),
    classes=st.integers(2, 5),
    shape=st.sampled_from([(), (3,)]),
    sizes=sizes,
    shares=st.integers(1, 3),
    ignored=st.sampled_from([None, -100, 0]),
    outputs=st.sampled_from([None, "logits", "probabilities", "log_probabilities"]),
)
def test_each_class_is_ranked_against_the_rest(
    *, kind, reference, over_epoch, seed, count, classes, shape, sizes, shares, ignored, outputs
):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, *shape, generator=random) * 2
    target = torch.randint(classes, (count, *shape), generator=random)
    if ignored is not None:
        target[torch.rand(target.shape, generator=random) < 0.3] = ignored
    given = {"probabilities": logits.softmax(1), "log_probabilities": logits.log_softmax(1)}.get(outputs, logits)
    if outputs is None and given.min() >= 0 and given.max() <= 1:
        return
    metric = kind(ignore_index=ignored).bound(Task(outputs, True))
    value = over_epoch(metric, given, target, sizes=sizes, shares=shares)
    kept = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    rows = (given.double() if outputs == "probabilities" else logits.double().softmax(1)).movedim(1, -1)[kept]
    truth = target[kept]
    pairs = [((truth == place).numpy(), rows[:, place].numpy()) for place in range(classes)]
    assert value == expected_mean(reference, pairs)


@every_pair
@varied
@given(seed=seeds, count=st.integers(1, 20), labels=st.integers(2, 4), sizes=sizes, shares=st.integers(1, 3))
def test_several_labels_give_their_mean(*, kind, reference, over_epoch, seed, count, labels, sizes, shares):
    random = torch.Generator().manual_seed(seed)
    output = torch.rand(count, labels, generator=random)
    target = torch.randint(2, (count, labels), generator=random)
    value = over_epoch(kind(), output, target, sizes=sizes, shares=shares)
    pairs = [(target[:, place].numpy(), output[:, place].numpy()) for place in range(labels)]
    assert value == expected_mean(reference, pairs)


@every_pair
def test_ignored_elements_of_several_labels_are_left_out_one_by_one(kind, reference, over_epoch):
    random = torch.Generator().manual_seed(5)
    output, target = torch.randn(30, 3, generator=random), torch.randint(-1, 2, (30, 3), generator=random)
    value = over_epoch(kind(ignore_index=-1), output, target.float(), sizes=[7])
    columns = [(target[keep, at].numpy(), output[keep, at].numpy()) for at, keep in enumerate((target >= 0).T)]
    assert value == expected_mean(reference, columns)


@every_pair
def test_large_logits_keep_their_order(kind, reference, over_epoch):
    output, target = torch.tensor([30.0, 40.0, 50.0, 60.0]), torch.tensor([0, 1, 0, 1])  # all 1 after a sigmoid
    expected = pytest.approx(reference(target, output))
    assert over_epoch(kind().bound(Task("logits", False)), output, target) == expected
    both = torch.stack([torch.zeros(4), output / 2], 1)
    pairs = [((target == 0).numpy(), -output.numpy()), (target.bool().numpy(), output.numpy())]
    assert over_epoch(kind().bound(Task("logits", True)), both, target) == expected_mean(reference, pairs)


@pytest.mark.parametrize("kind", [AUROC, AveragePrecision])
@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.tensor([0.1, 0.2]), torch.tensor([0, 0])),
        (torch.zeros(0), torch.zeros(0)),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
        (torch.tensor([math.nan, 0.2]), torch.tensor([0, 1])),
        (torch.tensor([[math.nan, 0.2], [0.3, 0.4]]), torch.tensor([0, 1])),
    ],
)
def test_what_has_no_value_is_nan_without_a_warning(kind, output, target):
    metrics = MetricSet({"value": kind()})
    metrics.update([("loss", torch.tensor(0.0), 1)], output, Batch(0, None, target, size=len(output)))
    assert math.isnan(metrics.result()["value"])


def test_without_a_zero_there_is_no_area():
    assert math.isnan(AUROC()(torch.tensor([0.1, 0.2]), torch.tensor([1, 1])))
    assert AveragePrecision()(torch.tensor([0.1, 0.2]), torch.tensor([1, 1])) == 1.0


@pytest.mark.parametrize("kind", [AUROC, AveragePrecision])
def test_one_hot_targets_are_labels_if_the_loss_says_so(kind):
    output, labels = torch.randn(9, 3), torch.arange(9) % 3
    metric = kind().bound(Task("logits", True, -100))
    assert metric(output, torch.eye(3)[labels]) == metric(output, labels)


@pytest.mark.parametrize("kind", [AUROC, AveragePrecision])
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_are_told(kind, label):
    with pytest.raises(MismatchError, match=r"^The output has scores for labels 0 to 2, but there are others: 1 of"):
        kind()(torch.randn(3, 3), torch.tensor([0, 1, label]))


@pytest.mark.parametrize("kind", [AUROC, AveragePrecision])
def test_sample_weights_are_refused_with_what_takes_them(kind):
    text = (
        f"{kind.__name__} takes no sample weights, since torchmetrics has none for it. A function of scikit-learn "
        "takes them: Epoch(sklearn.metrics.roc_auc_score, outputs='probabilities')."
    )
    with pytest.raises(MismatchError, match=re.escape(text)):
        kind().measure(torch.ones(2), torch.ones(2), torch.ones(2), 2)


@pytest.mark.parametrize("kind", [AUROC, AveragePrecision])
def test_shapes_that_do_not_fit_are_named(kind):
    with pytest.raises(MismatchError, match=f"^{kind.__name__} cannot compare output float32"):
        kind().measure(torch.ones(2, 3), torch.ones(3), None, 2)
    with pytest.raises(MismatchError, match=f"^{kind.__name__} cannot tell whether"):
        kind().measure(torch.ones(2, 3, 4), torch.ones(2, 3, 4), None, 2)


@pytest.mark.parametrize("kind", [AUROC, AveragePrecision])
def test_without_torchmetrics_it_says_what_to_install_before_training(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    with pytest.raises(MissingPackageError, match=f"^{kind.__name__} needs the package 'torchmetrics'. Type: pip"):
        kind()
