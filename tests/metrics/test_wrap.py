import copy
import math

import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kerastorch import resolve
from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import MetricSet, TorchMetric

CLASSIFICATION = {
    "binary AUROC": torchmetrics.classification.BinaryAUROC,
    "binary F1": torchmetrics.classification.BinaryF1Score,
}
MULTICLASS = {
    "accuracy": lambda: torchmetrics.classification.MulticlassAccuracy(3),
    "F1": lambda: torchmetrics.classification.MulticlassF1Score(3),
    "ignoring": lambda: torchmetrics.classification.MulticlassAccuracy(3, average="micro", ignore_index=1),
}


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.moves, self.seen = [], []

    def to(self, device):
        self.moves.append(device)
        return self

    def update(self, output, target):
        self.seen.append((output, target))

    def compute(self):
        return float(len(self.seen))

    def reset(self):
        self.seen.clear()


class Plain:
    def __init__(self):
        self.sum = 0.0

    def update(self, output, target):
        self.sum += float(output.sum())

    def compute(self):
        return self.sum

    def reset(self):
        self.sum = 0.0


def epoch_value(metric, output, target, batch_size):
    metrics = MetricSet({"value": TorchMetric(metric, "value")})
    for index, start in enumerate(range(0, len(output), batch_size)):
        part = slice(start, start + batch_size)
        batch = Batch(index, None, target[part], size=len(output[part]))
        metrics.update([("loss", torch.tensor(0.0), batch.size)], output[part], batch)
    return metrics.result()["value"]


@pytest.mark.parametrize("make", [*CLASSIFICATION.values(), *MULTICLASS.values()], ids=[*CLASSIFICATION, *MULTICLASS])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(4, 20), batch_size=st.integers(2, 7))
def test_a_metric_of_torchmetrics_gives_its_value_over_all_data(make, seed, count, batch_size):
    random = torch.Generator().manual_seed(seed)
    binary = make in CLASSIFICATION.values()
    output = torch.rand(count, generator=random) if binary else torch.randn(count, 3, generator=random)
    target = torch.randint(2 if binary else 3, (count,), generator=random)
    target[:3] = torch.tensor([0, 1, 0 if binary else 2])
    expected = make()
    expected.update(output, target)
    assert epoch_value(make(), output, target, batch_size) == pytest.approx(float(expected.compute()), abs=1e-6)


def test_a_regression_metric_gives_its_value_over_all_data():
    output, target = torch.randn(2, 11)
    expected = torchmetrics.R2Score()(output, target)
    assert epoch_value(torchmetrics.R2Score(), output, target, 4) == pytest.approx(float(expected), abs=1e-5)


def test_it_forgets_the_last_epoch():
    metrics = MetricSet({"mae": TorchMetric(torchmetrics.MeanAbsoluteError(), "mae")})
    for target in (1.0, 3.0):
        metrics.reset()
        batch = Batch(0, None, torch.tensor([target]))
        metrics.update([("loss", torch.tensor(0.0), 1)], torch.tensor([0.0]), batch)
        assert metrics["mae"] == target


def test_before_the_first_batch_it_is_nan_without_a_warning():
    metric = TorchMetric(torchmetrics.MeanAbsoluteError(), "mae")
    assert math.isnan(metric.value([]))
    metric.measure(torch.ones(1), torch.zeros(1), None, 1)
    assert metric.value([]) == 1.0
    metric.reset()
    assert math.isnan(metric.value([]))


def test_what_is_no_value_is_refused_by_name():
    metric = TorchMetric(torchmetrics.classification.BinaryROC(), "curve")
    metric.measure(torch.tensor([0.2, 0.8]), torch.tensor([0, 1]), None, 2)
    with pytest.raises(MismatchError) as error:
        metric.value([])
    assert str(error.value).startswith(
        "The metric 'curve' must be a number, a tensor, or several of them by name; got ("
    )


@pytest.mark.parametrize(
    ("metric", "running"),
    [
        (torchmetrics.MeanSquaredError(), True),
        (torchmetrics.classification.MulticlassF1Score(3), True),
        (torchmetrics.classification.BinaryAUROC(), False),
        (torchmetrics.classification.BinaryAUROC(thresholds=5), True),
        (torchmetrics.MetricCollection([torchmetrics.MeanSquaredError()]), False),
        (torchmetrics.MinMaxMetric(torchmetrics.classification.BinaryAUROC()), False),
        (torchmetrics.MinMaxMetric(torchmetrics.classification.BinaryF1Score()), True),
        (Plain(), True),
    ],
)
def test_what_keeps_lists_or_has_many_values_is_not_shown_while_an_epoch_runs(metric, running):
    assert TorchMetric(metric, "metric").running is running


def test_a_value_for_each_class_is_a_tensor_on_the_cpu():
    metric = TorchMetric(torchmetrics.classification.MulticlassAccuracy(3, average=None), "by_class")
    metric.measure(torch.eye(3), torch.tensor([0, 1, 1]), None, 3)
    assert torch.equal(metric.value([]), torch.tensor([1.0, 0.5, 0.0]))


def test_a_collection_gives_its_values_by_their_names():
    parts = [torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()]
    metrics = MetricSet({"errors": TorchMetric(torchmetrics.MetricCollection(parts, prefix="my_"), "errors")})
    for value in (1.0, 3.0):
        metrics.update([("loss", torch.tensor(0.0), 1)], torch.tensor([value]), Batch(0, None, torch.zeros(1)))
    assert metrics.result() == {"loss": 0.0, "my_MeanSquaredError": 5.0, "my_MeanAbsoluteError": 2.0}
    assert dict(metrics) == {"loss": 0.0}


@pytest.mark.parametrize("shares", [1, 2, 3])
@pytest.mark.parametrize(
    "make",
    [
        torchmetrics.MeanSquaredError,
        torchmetrics.PearsonCorrCoef,
        torchmetrics.classification.BinaryAUROC,
        torchmetrics.classification.BinaryF1Score,
        lambda: torchmetrics.MetricCollection(
            [torchmetrics.classification.BinaryPrecision(), torchmetrics.classification.BinaryRecall()]
        ),
    ],
)
def test_the_objects_of_several_processes_are_put_together(over_epoch, make, shares):
    random = torch.Generator().manual_seed(0)
    output, target = torch.rand(11, generator=random), torch.tensor([0, 1] * 5 + [1])
    target = target.float() if make is torchmetrics.PearsonCorrCoef else target
    whole = make()
    whole.update(output, target)
    expected = whole.compute()
    found = over_epoch(TorchMetric(make(), "value"), output, target, sizes=[2, 3], shares=shares, every=True)
    expected = expected if isinstance(expected, dict) else {"value": expected}
    assert found == {name: pytest.approx(float(value), abs=1e-6) for name, value in expected.items()}


def test_a_running_value_is_not_remembered_for_all_processes(over_epoch):
    metric = TorchMetric(torchmetrics.MeanSquaredError(), "mse")
    metric.measure(torch.ones(1), torch.zeros(1), None, 1)
    assert metric.value(()) == 1.0
    assert metric.value_of_all((), lambda tensor: [tensor, tensor * 0 + 3]) == 4 / 4
    assert metric.value(()) == 1.0


def test_an_object_of_another_kind_cannot_be_put_together():
    metric = TorchMetric(Plain(), "plain")
    with pytest.raises(MismatchError, match=r"^The metric 'plain' is of a kind, Plain, that cannot be put together"):
        metric.value_of_all((), lambda tensor: [tensor])


def test_a_twin_is_measured_on_the_same_data():
    assert TorchMetric(torchmetrics.MeanSquaredError(), "mse", on="val").twin().on == "val"


def test_it_goes_once_an_epoch_to_where_the_outputs_are():
    counting = Counting()
    metric = TorchMetric(counting, "counting")
    for _ in range(2):
        metric.measure(torch.ones(1, device="meta"), None, None, 1)
    assert counting.moves == [torch.device("meta")]
    assert metric.value([]) == 2.0
    metric.reset()
    metric.measure(torch.ones(1), None, None, 1)
    assert counting.moves == [torch.device("meta"), torch.device("cpu")]


def test_outputs_that_are_no_tensor_reach_it_as_they_are():
    counting, output = Counting(), {"logits": torch.ones(1)}
    TorchMetric(counting, "counting").measure(output, None, None, 1)
    assert counting.seen[0][0] is output
    assert counting.moves == []


def test_an_object_with_the_same_verbs_need_be_no_module():
    assert epoch_value(Plain(), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3), 2) == 6.0


def test_a_copy_keeps_sums_of_its_own():
    metric = TorchMetric(torchmetrics.MeanAbsoluteError(), "mae")
    twin = copy.deepcopy(metric)
    metric.measure(torch.ones(1), torch.zeros(1), None, 1)
    assert metric.value([]) == 1.0
    assert math.isnan(twin.value([]))


def test_compile_knows_torchmetrics_by_their_verbs():
    made = resolve.metrics([torchmetrics.classification.BinaryAUROC(), Plain()], resolve.loss("mse"))
    assert list(made) == ["binary_auroc", "plain"]
    assert all(isinstance(metric, TorchMetric) for metric in made.values())


def test_called_by_hand_it_gives_the_value_of_one_batch_and_keeps_what_it_has():
    metric = TorchMetric(torchmetrics.MeanSquaredError(), "mse")
    metric.measure(torch.zeros(2), torch.ones(2), None, 2)
    assert metric(torch.zeros(2), torch.full((2,), 3.0)) == 9.0
    assert metric.value(()) == 1.0
