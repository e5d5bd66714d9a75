import math
import re

import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import MetricSet, Perplexity, Task

CLASSES = 5
varied = settings(max_examples=60)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@varied
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 9),
    shape=st.sampled_from([(), (3,), (2, 3)]),
    last=st.booleans(),
    sizes=sizes,
    shares=st.integers(1, 3),
    weighted=st.booleans(),
    ignored=st.sampled_from([None, -100, 0, 255]),
    outputs=st.sampled_from([None, "logits", "probabilities", "log_probabilities"]),
    label_dtype=st.sampled_from([torch.int64, torch.int32]),
)
def test_it_is_the_exponential_of_the_mean_loss(
    *, over_epoch, seed, count, shape, last, sizes, shares, weighted, ignored, outputs, label_dtype
):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, CLASSES, *shape, generator=random)
    target = torch.randint(CLASSES, (count, *shape), generator=random)
    if ignored is not None:
        target[torch.rand(target.shape, generator=random) < 0.3] = ignored
    weight = torch.rand(count, generator=random) + 0.1 if weighted else None
    given = {"probabilities": logits.softmax(1), "log_probabilities": logits.log_softmax(1)}.get(outputs, logits)
    given = given.movedim(1, -1) if last else given
    metric = Perplexity(ignore_index=ignored).bound(Task(outputs))
    value = over_epoch(metric, given, target.to(label_dtype), sizes=sizes, weight=weight, shares=shares)
    ignored = -100 if ignored is None else ignored
    each = functional.cross_entropy(logits.double(), target, reduction="none", ignore_index=ignored)
    every = (torch.ones(count) if weight is None else weight).reshape(-1, *(1,) * len(shape)).expand(target.shape)
    kept = (target != ignored).double() * every
    expected = float(((each * kept).sum() / kept.sum()).exp())
    assert value == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_it_is_that_of_torchmetrics(over_epoch):
    random = torch.Generator().manual_seed(0)
    output, target = torch.randn(7, 4, CLASSES, generator=random), torch.randint(CLASSES, (7, 4), generator=random)
    expected = float(torchmetrics.text.Perplexity()(output, target))
    assert over_epoch(Perplexity(), output, target, sizes=[2, 3]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("labels", [True, None])
def test_where_both_fit_dimension_1_holds_the_classes(labels):
    output, target = torch.randn(3, 4, 4), torch.randint(4, (3, 4))
    expected = float(functional.cross_entropy(output, target).exp())
    assert Perplexity().bound(Task("logits", labels))(output, target) == pytest.approx(expected)


def test_half_precision_does_not_overflow(over_epoch):
    output, target = torch.zeros(2000, 60_000, dtype=torch.bfloat16), torch.zeros(2000, dtype=torch.int64)
    output[:, 0] = -100
    assert over_epoch(Perplexity(), output, target, sizes=[2000]) == pytest.approx(math.exp(100) * 6e4, rel=1e-2)


def test_what_was_thought_impossible_is_infinitely_perplexing():
    metric = Perplexity().bound(Task("probabilities"))
    assert metric(torch.tensor([[0.0, 1.0]]), torch.tensor([0])) == math.inf


def test_without_a_label_that_counts_it_is_nan():
    assert math.isnan(Perplexity()(torch.randn(2, 3), torch.tensor([-100, -100])))
    metrics = MetricSet({"perplexity": Perplexity()})
    batch = Batch(0, None, torch.zeros(0, dtype=torch.int64), size=0)
    metrics.update([("loss", torch.tensor(0.0), 0)], torch.zeros(0, 3), batch)
    assert math.isnan(metrics["perplexity"])


def test_labels_as_bytes_are_not_ignored_for_a_negative_number():
    output, target = torch.zeros(3, 200), torch.tensor([156, 156, 0], dtype=torch.uint8)  # -100 as a byte is 156
    assert Perplexity()(output, target) == pytest.approx(200)


@pytest.mark.parametrize("label", [7, -1])
def test_labels_out_of_range_are_explained(label):
    text = (
        f"Perplexity has scores for labels 0 to 2. Target {label} is out of bounds. Say ignore_index= for a label that "
        "is not to be counted."
    )
    with pytest.raises(MismatchError, match=re.escape(text)):
        Perplexity().measure(torch.randn(2, 3), torch.tensor([0, label]), None, 2)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.randn(2, 3), torch.zeros(2)),
        (torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.int64)),
        (torch.randn(2), torch.zeros(2, dtype=torch.int64)),
        (torch.randn(2, 3), None),
        ({"logits": torch.randn(2, 3)}, torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_shapes_that_do_not_fit_are_named(output, target):
    text = r"^Perplexity needs labels \(N, ...\), and scores \(N, C, ...\) or \(N, ..., C\) for them; got output "
    with pytest.raises(MismatchError, match=text):
        Perplexity().measure(output, target, None, 2)


def test_the_loss_says_that_the_last_dimension_holds_no_classes():
    with pytest.raises(MismatchError, match="Perplexity needs labels"):
        Perplexity().bound(Task("logits", True))(torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))
