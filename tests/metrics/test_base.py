import copy
import math
import re

import numpy as np
import pytest
import torch

from kerastorch.errors import MismatchError
from kerastorch.metrics import (
    AUROC,
    F1,
    R2,
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    Dice,
    Epoch,
    IoU,
    MeanAbsoluteError,
    MeanOf,
    MeanSquaredError,
    Metric,
    OnOutput,
    Perplexity,
    Precision,
    Recall,
    RootMeanSquaredError,
    Rows,
    Task,
    TorchMetric,
)
from kerastorch.metrics.base import as_value, ratio

OPTIONLESS = [MeanAbsoluteError, MeanSquaredError, R2, RootMeanSquaredError]
WITH_TASK = [AUROC, Accuracy, AveragePrecision, ConfusionMatrix, Dice, F1, IoU, Perplexity, Precision, Recall]


class Bias(Metric):
    def __init__(self, scale=1.0):  # does not call the base class
        self.scale = scale

    def measure(self, output, target, weight, size):
        return (output - target).sum() * self.scale, output.numel()


class Forgetful(Metric):
    def __init__(self, one, *two, **three):
        pass

    def measure(self, output, target, weight, size):
        return (1,)


def own_metric(y_pred, y_true):
    return 1.0


def test_a_metric_of_the_users_own_needs_no_call_of_the_base_class():
    metric = Bias()
    assert (metric.on, metric.running, metric.bound(Task()), metric.twin()) == ("both", True, metric, metric)
    assert metric(torch.tensor([1.0, 4.0]), torch.zeros(2)) == 2.5


@pytest.mark.parametrize("kind", [*OPTIONLESS, *WITH_TASK])
@pytest.mark.parametrize("on", ["both", "train", "val"])
def test_every_metric_knows_what_it_is_measured_on(kind, on):
    metric = kind(on=on)
    assert (metric.on, metric.twin().on, metric.bound(Task("logits", True, -1)).on) == (on, on, on)
    assert copy.deepcopy(metric).on == on
    assert OnOutput(metric, "a").on == on
    assert kind().on == "both"


def test_metrics_of_functions_and_objects_know_what_they_are_measured_on():
    for metric in (MeanOf(max, "largest", on="val"), Epoch(max, on="val"), TorchMetric(None, "none", on="val")):
        assert metric.on == "val"


@pytest.mark.parametrize("kind", [*OPTIONLESS, *WITH_TASK])
def test_data_that_nobody_knows_are_named(kind):
    text = "A metric is measured on 'both', 'train' or 'val'; got on='vall'. Did you mean 'val'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        kind(on="vall")


@pytest.mark.parametrize("kind", WITH_TASK)
def test_a_bound_metric_is_a_copy_and_what_was_said_stays(kind):
    metric = kind(ignore_index=3)
    bound = metric.bound(Task("probabilities", True, -100))
    assert bound is not metric
    assert bound.ignore_index == 3
    assert kind().bound(Task("probabilities", True, -100)).ignore_index == -100
    assert kind().bound(Task()).ignore_index is None
    assert bound.bound(Task("logits", False, 5)).ignore_index == 3
    if hasattr(metric, "threshold"):
        assert kind(threshold=0.25).bound(Task("logits", False)).threshold == 0.25
        assert kind().bound(Task("logits", False)).threshold == 0.0
        assert metric.threshold is None


@pytest.mark.parametrize("kind", OPTIONLESS)
def test_what_has_nothing_to_learn_from_the_loss_stays_itself(kind):
    metric = kind()
    assert metric.bound(Task("logits", True, 3)) is metric


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Accuracy(), "Accuracy()"),
        (Accuracy(threshold=0.0, top_k=1, on="val"), "Accuracy(threshold=0.0, on='val')"),
        (F1(average=None), "F1(average=None)"),
        (TorchMetric(3, "three"), "TorchMetric(3, 'three')"),
        (MeanOf(own_metric, "own"), "MeanOf(own_metric, 'own')"),
        (Epoch(own_metric, outputs="labels"), "Epoch(own_metric, outputs='labels', name='own_metric')"),
        (OnOutput(R2(on="val"), "depth"), "OnOutput(R2(on='val'), 'depth')"),
        (Bias(), "Bias()"),
        (Bias(2.0), "Bias(scale=2.0)"),
        (Forgetful(1, 2, 3, four=4), "Forgetful()"),
    ],
)
def test_it_shows_as_what_made_it(metric, text):
    assert repr(metric) == text


@pytest.mark.parametrize(("sums", "value"), [([3.0], 3.0), ([3.0, 2.0], 1.5), ([3, 2], 1.5)])
def test_a_ratio_is_the_first_over_the_second(sums, value):
    assert ratio(sums) == value


def test_a_ratio_of_nothing_is_nan():
    assert math.isnan(ratio([0.0, 0.0]))
    assert math.isnan(ratio([0.0, 0]))


def test_a_ratio_of_many_is_many():
    total, count = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2.0, 0.0, 1.0])
    assert torch.equal(ratio([total, count]).nan_to_num(7.0), torch.tensor([0.5, 7.0, 2.0]))
    assert torch.equal(ratio([total, 2.0]), total / 2)
    assert ratio([total, 0]).isnan().all()
    assert torch.equal(ratio([6.0, count]).nan_to_num(7.0), torch.tensor([3.0, 7.0, 6.0]))


@pytest.mark.parametrize(
    "given",
    [1, 1.0, True, np.float64(1), np.float32(1), np.array(1), np.array([1.0]), torch.tensor(1), torch.ones(1, 1)],
)
def test_one_number_of_any_kind_is_a_float(given):
    value = as_value(given, "it")
    assert (type(value), value) == (float, 1.0)


@pytest.mark.parametrize("given", [torch.ones(2, requires_grad=True), np.ones(2), np.ones((2, 3), dtype=int)])
def test_several_numbers_are_a_tensor(given):
    value = as_value(given, "it")
    assert isinstance(value, torch.Tensor)
    assert value.shape == given.shape
    assert not value.requires_grad


def test_numbers_by_name_stay_so():
    value = as_value({"a": np.float32(1), 2: torch.ones(2), "c": np.array([1])}, "it")
    assert (list(value), value["a"], value["2"].tolist(), value["c"]) == (["a", "2", "c"], 1.0, [1.0, 1.0], 1.0)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "it must be a number, a tensor, or several of them by name; got None."),
        ("1", "it must be a number, a tensor, or several of them by name; got '1'."),
        ([1.0, 2.0], "it must be a number, a tensor, or several of them by name; got (float, float)."),
        (torch.ones(0), "it must be a number, a tensor, or several of them by name; got float32 (0,) cpu."),
        (np.array(["a", "b"]), "it must be a number, a tensor, or several of them by name; got array(['a', 'b']"),
        ({"a": {"b": 1}}, "it['a'] must be a number, a tensor, or several of them by name; got {'b': int}."),
    ],
)
def test_what_is_no_value_is_named(given, text):
    with pytest.raises(MismatchError) as error:
        as_value(given, "it")
    assert str(error.value).startswith(text)


def test_rows_are_copied_and_let_go_of_their_graph():
    given = torch.ones(2, 3, requires_grad=True) * 1
    rows = Rows(given)
    with torch.no_grad():
        given.fill_(7)
    assert torch.equal(rows.joined(), torch.ones(2, 3))
    assert not rows.joined().requires_grad


def test_rows_of_other_widths_cannot_be_joined():
    rows = Rows(torch.ones(2, 3))
    rows.parts += Rows(torch.ones(4, 2)).parts
    with pytest.raises(MismatchError, match=re.escape("differ ((2,), (3,)). Pad them to one shape.")):
        rows.joined()


def test_called_by_hand_it_gives_the_value_of_one_batch():
    output, target = {"a": torch.tensor([[2.0, 1.0], [0.0, 3.0]])}, {"a": torch.tensor([0, 0]), "b": None}
    assert Accuracy()(output["a"], target["a"]) == 0.5
    assert OnOutput(Accuracy(), "a")(output, target) == 0.5
    assert F1(average=None)(output["a"], target["a"]).tolist() == pytest.approx([2 / 3, 0.0])
    assert AUROC()(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])) == 1.0
    assert R2()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])) == 1.0


def test_called_by_hand_it_takes_outputs_with_a_graph():
    output, target = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    for metric in (Perplexity(), F1(), Accuracy(), AUROC(), ConfusionMatrix()):
        assert not torch.as_tensor(metric(output, target)).requires_grad
    assert type(R2()(output, torch.randn(4, 3))) is float
    assert type(MeanSquaredError()(output, torch.randn(4, 3))) is float
