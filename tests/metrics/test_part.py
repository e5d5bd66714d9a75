import re
from collections import namedtuple

import pytest
import torch
import torchmetrics

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import AUROC, Accuracy, MeanAbsoluteError, MetricSet, OnOutput, Task, TorchMetric

Heads = namedtuple("Heads", "label depth")
LABEL, DEPTH = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([1.0, 5.0])
LABELS, DEPTHS = torch.tensor([0, 0]), torch.tensor([2.0, 2.0])


@pytest.mark.parametrize(
    ("output", "target", "keys"),
    [
        ({"label": LABEL, "depth": DEPTH}, {"label": LABELS, "depth": DEPTHS}, ("label", "depth")),
        ((LABEL, DEPTH), (LABELS, DEPTHS), (0, 1)),
        ([LABEL, DEPTH], [LABELS, DEPTHS], (0, 1)),
        (Heads(LABEL, DEPTH), Heads(LABELS, DEPTHS), ("label", "depth")),
        (Heads(LABEL, DEPTH), {"label": LABELS, "depth": DEPTHS}, ("label", "depth")),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_measures_its_part(output, target, keys, weighted):
    metrics = MetricSet({"right": OnOutput(Accuracy(), keys[0]), "far": OnOutput(MeanAbsoluteError(), keys[1])})
    weight = torch.tensor([3.0, 1.0]) if weighted else None
    metrics.update([("loss", torch.tensor(0.0), 2)], output, Batch(0, None, target, weight, 2))
    assert metrics["right"] == (0.75 if weighted else 0.5)
    assert metrics["far"] == (1.5 if weighted else 2.0)


def test_one_target_is_that_of_every_output():
    metric = OnOutput(Accuracy(), "second")
    assert metric({"first": None, "second": LABEL}, LABELS) == 0.5


def test_weights_may_be_parts_as_well():
    weights = {"label": torch.tensor([0.0, 1.0])}
    sums = OnOutput(Accuracy(), "label").measure({"label": LABEL}, LABELS, weights, 2)
    assert [float(part) for part in sums] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ({"labels": LABELS}, "There is no target 'label': the target is {'labels': int64 (2,) cpu}."),
        ((LABELS,), "There is no target 'label'"),
    ],
)
def test_a_missing_part_is_named(target, text):
    with pytest.raises(MismatchError, match=re.escape(text)):
        OnOutput(Accuracy(), "label").measure({"label": LABEL}, target, None, 2)
    with pytest.raises(MismatchError, match=re.escape("There is no output 'depth'")):
        OnOutput(Accuracy(), "depth").measure({"label": LABEL}, LABELS, None, 2)


def test_it_learns_from_the_loss_of_its_output():
    bound = OnOutput(Accuracy(), "label").bound(Task("logits", True, 7))
    assert (bound.key, bound.metric.classes, bound.metric.ignore_index) == ("label", True, 7)


def test_it_is_shown_as_its_metric_is():
    assert OnOutput(Accuracy(), 0).running
    assert not OnOutput(AUROC(), 0).running
    assert OnOutput(Accuracy(on="val"), 0).on == "val"


def test_a_metric_with_state_keeps_it():
    metric = OnOutput(TorchMetric(torchmetrics.MeanAbsoluteError(), "far"), 1)
    metric.measure((LABEL, DEPTH), (LABELS, DEPTHS), None, 2)
    twin = metric.twin()
    assert twin.metric.metric is not metric.metric.metric
    assert metric((LABEL, DEPTH), (LABELS, DEPTHS + 1)) == 2.0
    assert metric.value(()) == 2.0
    assert metric.value_of_all((), lambda tensor: [tensor, tensor]) == 2.0
    metric.reset()
    assert not metric.metric.measured
