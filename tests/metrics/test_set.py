import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses import Loss
from kerastorch.metrics import Accuracy, MeanAbsoluteError, MeanOf, MeanSquaredError, Metric, MetricSet
from kerastorch.metrics import set as set_module

ELSEWHERE = torch.device("meta")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Largest(Metric):
    """Sums of another number than two, and a value of its own."""

    def __init__(self):
        self.resets = 0

    def measure(self, output, target, weight, size):
        return output.amax(), output.sum(), 1

    def value(self, sums):
        return sums[0] / sums[2] + sums[1]

    def reset(self):
        self.resets += 1


class Samples(Metric):
    def measure(self, output, target, weight, size):
        return (size,)


@pytest.fixture(autouse=True, scope="module", params=["on the CPU", "as on an accelerator"])
def place(request):
    """Sums on the CPU are Python numbers; tried as well is what is done where reading a tensor means waiting."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as on an accelerator":
            patch.setattr(set_module, "_read_if_free", lambda part: part)
        yield


@pytest.fixture
def readings(monkeypatch):
    """A list that grows by each transfer from a device without values, on which any other reading is an error."""
    made = []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: made.append(len(tensor)) or [6.0] * len(tensor))
    return made


def update(metrics, loss=1.0, weight=1, output=(1.0, 2.0), target=(1.0, 0.0)):
    output, target = torch.tensor(output), torch.tensor(target)
    metrics.update(torch.tensor(loss), weight, output, Batch(0, None, target, size=len(output)))


def test_before_the_first_batch_there_is_nothing():
    metrics = MetricSet({"mse": MeanSquaredError()})
    assert len(metrics) == 0
    assert list(metrics) == []
    assert metrics.result() == {}
    assert metrics.samples == 0
    assert "loss" not in metrics
    with pytest.raises(KeyError, match="loss"):
        metrics["loss"]


def test_it_is_a_mapping_with_the_loss_first():
    metrics = MetricSet({"mse": MeanSquaredError(), "accuracy": Accuracy()})
    update(metrics)
    assert list(metrics) == ["loss", "mse", "accuracy"]
    assert len(metrics) == 3
    assert dict(metrics) == {"loss": 1.0, "mse": 2.0, "accuracy": 0.5}
    assert metrics == metrics.result()
    assert metrics.get("mse") == 2.0
    assert metrics.get("mean") is None
    assert "accuracy" in metrics
    assert all(type(value) is float for value in metrics.values())
    with pytest.raises(KeyError, match="mean"):
        metrics["mean"]


def test_values_are_running_means():
    metrics = MetricSet({"mae": MeanAbsoluteError()})
    update(metrics, loss=1.0, weight=3)
    assert metrics["loss"] == 1.0
    update(metrics, loss=5.0, weight=1, output=(7.0,), target=(0.0,))
    assert metrics["loss"] == 2.0
    assert metrics["mae"] == pytest.approx((0 + 2 + 7) / 3)
    assert metrics.samples == 3


def test_losses_without_weight_are_added_up():
    metrics = MetricSet({})
    update(metrics, loss=2.0, weight=None)
    update(metrics, loss=3.0, weight=None)
    assert metrics["loss"] == 5.0


@pytest.mark.parametrize("weights", [(2, torch.tensor(1.0)), (torch.tensor(2), 1), (2.0, torch.tensor(1.0))])
def test_weights_may_be_numbers_and_tensors_in_turn(weights):
    metrics = MetricSet({})
    for loss, weight in zip((1.0, 4.0), weights, strict=True):
        update(metrics, loss=loss, weight=weight)
    assert metrics["loss"] == 2.0


def test_an_epoch_whose_batches_weigh_nothing_is_nan():
    metrics = MetricSet({})
    update(metrics, loss=math.nan, weight=torch.tensor(0))
    assert math.isnan(metrics["loss"])
    update(metrics, loss=3.0, weight=torch.tensor(2))
    assert metrics["loss"] == 3.0


def test_a_metric_may_have_any_number_of_sums():
    metrics = MetricSet({"largest": Largest(), "samples": Samples()})
    update(metrics, output=(1.0, 3.0))
    update(metrics, output=(0.0, 5.0))
    assert metrics["largest"] == (3 + 5) / 2 + 9
    assert metrics["samples"] == 4.0


def test_the_sums_keep_the_small_steps_of_a_long_epoch():
    metrics = MetricSet({"mae": MeanAbsoluteError()})
    update(metrics, loss=1.0, weight=2**24, output=(float(2**24),), target=(0.0,))
    for _ in range(100):  # float32 would stay at 2**24
        update(metrics, loss=1.0, weight=torch.tensor(1), output=(1.0,), target=(0.0,))
    assert metrics["mae"] == (2**24 + 100) / 101
    assert metrics["loss"] == 1.0
    update(metrics, loss=2.0**24 + 100, weight=1)
    assert metrics["loss"] == pytest.approx(2 * (2**24 + 100) / (2**24 + 101), rel=1e-15)


def test_an_update_leaves_the_loss_and_its_weight_as_they_are():
    metrics = MetricSet({})
    loss, weight = torch.tensor(2.0), torch.tensor(3.0)
    for _ in range(3):
        metrics.update(loss, weight, None, Batch(0, None))
    assert (loss, weight) == (2.0, 3.0)


@pytest.mark.parametrize("weighs_samples", [False, True])
@pytest.mark.parametrize(
    ("function", "target"),
    [
        (nn.CrossEntropyLoss(), torch.zeros(4, dtype=torch.int64, device=ELSEWHERE)),
        (nn.CrossEntropyLoss(torch.ones(3, device=ELSEWHERE)), torch.zeros(4, dtype=torch.int64, device=ELSEWHERE)),
        (nn.CrossEntropyLoss(), torch.ones(4, 3, device=ELSEWHERE)),
        (nn.MSELoss(), torch.ones(4, 3, device=ELSEWHERE)),
        (nn.MSELoss(reduction="sum"), torch.ones(4, 3, device=ELSEWHERE)),
    ],
)
def test_only_reading_waits_and_once_an_update(readings, function, target, weighs_samples):
    loss = Loss(function)
    right = Accuracy(classes=True, ignore_index=-100)
    metrics = MetricSet({"accuracy": right, "own": MeanOf(lambda y_pred, y_true: y_pred.mean(), "own")})
    output = torch.randn(4, 3, device=ELSEWHERE)
    batch = Batch(0, None, target, torch.ones(4, device=ELSEWHERE) if weighs_samples else None, 4)
    for _ in range(3):
        metrics.update(*loss(output, batch), output, batch)
    assert readings == []
    assert (metrics["own"], metrics["own"]) == (6 / 12, 6 / 12)
    assert len(dict(metrics)) == 3
    assert len(readings) == 1
    metrics.update(*loss(output, batch), output, batch)
    assert metrics["own"] == 6 / 16
    metrics.record({"own": torch.ones((), device=ELSEWHERE)}, 4)
    assert len(readings) == 2
    assert metrics["own"] == 6 / 20
    assert len(readings) == 3
    metrics.result()
    assert len(readings) == 4
    with pytest.raises((RuntimeError, NotImplementedError)):  # the device is one on which this is no idle test
        output.mean().item()


def test_an_update_forgets_the_values_that_were_read():
    metrics = MetricSet({})
    update(metrics, loss=1.0)
    assert metrics["loss"] == 1.0
    update(metrics, loss=3.0)
    assert metrics["loss"] == 2.0
    metrics.record({"loss": 8.0}, 1)
    assert metrics["loss"] == 4.0


def test_sums_are_added_up_over_processes_before_they_are_divided():
    metrics = MetricSet({"largest": Largest(), "accuracy": Accuracy()})
    update(metrics, loss=2.0, weight=4)
    asked = []

    def total(sums):
        asked.append(sums)
        return [number + 10 for number in sums]

    assert metrics.result(total) == {"loss": 18 / 14, "largest": 12 / 11 + 13, "accuracy": 11 / 12}
    assert asked == [[8.0, 4.0, 2.0, 3.0, 1.0, 1.0, 2.0]]
    assert all(type(number) is float for number in asked[0])
    assert metrics["loss"] == 2.0  # the running values are those of this process


def test_reset_forgets_everything_and_resets_the_metrics():
    largest = Largest()
    metrics = MetricSet({"largest": largest})
    update(metrics)
    assert metrics["loss"] == 1.0
    before = largest.resets
    metrics.reset()
    assert largest.resets == before + 1
    assert (len(metrics), metrics.samples) == (0, 0)
    with pytest.raises(KeyError):
        metrics["loss"]
    update(metrics, loss=7.0)
    assert metrics["loss"] == 7.0


def test_the_metrics_are_used_and_not_copied():
    metric, given_metrics = Largest(), {}
    given_metrics["largest"] = metric
    metrics = MetricSet(given_metrics)
    assert metrics.metrics["largest"] is metric
    given_metrics["later"] = metric
    assert list(metrics.metrics) == ["largest"]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 50), st.booleans()), min_size=1, max_size=8))
def test_recorded_values_are_means_over_samples(batches):
    metrics = MetricSet({})
    for value, size, as_tensor in batches:
        metrics.record({"value": torch.tensor(value, dtype=torch.float64) if as_tensor else value}, size)
    count = sum(size for _, size, _ in batches)
    expected = math.fsum(value * size for value, size, _ in batches) / count
    assert metrics["value"] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert metrics.samples == count


@pytest.mark.parametrize(
    "value",
    [3, 3.0, np.float64(3), np.float32(3), np.array([3.0]), torch.tensor(3.0), torch.tensor([3.0]), torch.tensor(3)],
)
def test_any_kind_of_number_can_be_recorded(value):
    metrics = MetricSet({})
    metrics.record({"value": value}, 4)
    metrics.record({"value": 0.0}, 2)
    assert metrics["value"] == 2.0


@pytest.mark.parametrize("value", [None, "3", torch.ones(2), {"loss": 3.0}, [1.0, 2.0]])
def test_a_recorded_value_that_is_no_number_is_named(value):
    metrics = MetricSet({})
    with pytest.raises(MismatchError, match=r"^The value 'strange' of a step must be one number; got "):
        metrics.record({"strange": value}, 2)


def test_values_beside_the_loss_need_count_no_samples_anew():
    metrics = MetricSet({"mse": MeanSquaredError()})
    update(metrics, output=(1.0, 2.0))
    metrics.record({"norm": 3.0}, 2, counts=False)
    assert metrics.samples == 2
    assert dict(metrics) == {"loss": 1.0, "mse": 2.0, "norm": 3.0}
    assert metrics.noted == {"loss", "mse"}


def test_a_recorded_value_lets_go_of_its_graph():
    metrics = MetricSet({})
    parameter = torch.ones((), requires_grad=True)
    for _ in range(2):
        metrics.record({"loss": parameter * 2}, 1)
    assert metrics["loss"] == 2.0
    assert not any(part.requires_grad for part in metrics._sums["loss"] if isinstance(part, torch.Tensor))


@needs_gpu
def test_sums_may_be_on_several_devices():
    metrics = MetricSet({"own": MeanOf(lambda y_pred, y_true: torch.tensor(0.5), "own"), "mse": MeanSquaredError()})
    output = torch.ones(2, device="cuda")
    for _ in range(2):
        metrics.update(torch.tensor(3.0, device="cuda"), 2, output, Batch(0, None, output * 2, size=2))
    assert dict(metrics) == {"loss": 3.0, "own": 0.5, "mse": 1.0}
