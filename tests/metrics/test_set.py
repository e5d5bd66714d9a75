import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kerastorch import checkpoint
from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses import Loss
from kerastorch.metrics import (
    AUROC,
    F1,
    Accuracy,
    ConfusionMatrix,
    Epoch,
    MeanAbsoluteError,
    MeanOf,
    MeanSquaredError,
    Metric,
    MetricSet,
    RootMeanSquaredError,
    Rows,
    Task,
    named,
)
from kerastorch.metrics import set as set_module
from kerastorch.metrics import sums as sums_module
from kerastorch.metrics.wrap import TorchMetric

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


def group(total, gather=None):
    """Two processes, of which this is the main one."""
    return SimpleNamespace(size=2, total=total, gather=gather, of_main=lambda value: value)


@pytest.fixture(autouse=True, scope="module", params=["on the CPU", "as on an accelerator"])
def place(request):
    """Sums on the CPU are Python numbers; tried as well is what is done where reading a tensor means waiting."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as on an accelerator":
            for module in (set_module, sums_module):
                patch.setattr(module, "read_if_free", lambda part: part)
        yield


@pytest.fixture
def readings(monkeypatch):
    """A list that grows by each transfer from a device without values, on which any other reading is an error."""
    made = []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: made.append(len(tensor)) or [6.0] * len(tensor))
    return made


class Given(Metric):
    """Sums as they are given, and their values as they are read."""

    def __init__(self, *sums, value=None, running=True):
        self.sums, self.given, self.running, self.read = sums, value, running, []

    def measure(self, output, target, weight, size):
        return tuple(part() if callable(part) else part for part in self.sums)

    def value(self, sums):
        self.read.append(sums)
        return sums[0] if self.given is None else self.given


def update(metrics, loss=1.0, weight=1, output=(1.0, 2.0), target=(1.0, 0.0)):
    output, target = torch.tensor(output), torch.tensor(target)
    metrics.update([("loss", torch.tensor(loss), weight)], output, Batch(0, None, target, size=len(output)))


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
        metrics.update([("loss", loss, weight)], None, Batch(0, None))
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
        metrics.update([("loss", *loss(output, batch))], output, batch)
    assert readings == []
    assert (metrics["own"], metrics["own"]) == (6 / 12, 6 / 12)
    assert len(dict(metrics)) == 3
    assert len(readings) == 1
    metrics.update([("loss", *loss(output, batch))], output, batch)
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

    assert metrics.result(group(total)) == {"loss": 18 / 14, "largest": 12 / 11 + 13, "accuracy": 11 / 12}
    assert asked == [[8.0, 4.0, 2.0, 3.0, 1.0, 1.0, 2.0]]
    assert all(type(number) is float for number in asked[0])
    assert metrics["loss"] == 2.0  # the running values are those of this process


def test_sums_may_have_any_shape():
    each, matrix, number = torch.tensor([1.0, 2.0]), torch.tensor([[1, 2], [3, 4]]), torch.tensor(3)
    metrics = MetricSet({"given": Given(each, matrix, number, torch.ones(1), 5)})
    for _ in range(3):
        update(metrics)
    read = metrics.result()["given"]
    assert torch.equal(read, each.double() * 3)
    vector, table, *numbers = metrics.metrics["given"].read[-1]
    assert (vector.dtype, table.dtype) == (torch.float64, torch.float64)
    assert torch.equal(table, matrix.double() * 3)
    assert numbers == [9.0, torch.tensor([3.0]), 15.0]
    assert torch.equal(each, torch.tensor([1.0, 2.0]))
    assert torch.equal(matrix, torch.tensor([[1, 2], [3, 4]]))


def test_sums_of_any_shape_are_added_up_in_one_list():
    metrics = MetricSet({"given": Given(torch.tensor([[1.0, 2.0]]), 3), "mae": MeanAbsoluteError()})
    update(metrics)
    asked = []
    read = metrics.result(group(lambda sums: asked.append(sums) or [2 * number for number in sums]))
    assert asked == [[1.0, 1.0, 1.0, 2.0, 3.0, 2.0, 2.0]]
    assert torch.equal(read["given"], torch.tensor([[2.0, 4.0]]).double())
    assert metrics.metrics["given"].read[-1][1] == 6.0


def test_sums_of_another_shape_are_named():
    shapes = iter([(2,), (3,)])
    metrics = MetricSet({"given": Given(lambda: torch.ones(next(shapes)))})
    update(metrics)
    with pytest.raises(MismatchError, match=r"^A sum of the metric 'given' is \(2,\) for one batch and \(3,\) for"):
        update(metrics)


def test_rows_are_kept_and_read_in_their_order():
    rows = iter([torch.ones(2, 3), torch.zeros(0, 3), torch.full((4, 3), 2.0)])
    metrics = MetricSet({"rows": Given(lambda: Rows(next(rows)), 1)})
    for _ in range(3):
        update(metrics)
    read = metrics.result()["rows"]
    assert torch.equal(read, torch.cat([torch.ones(2, 3), torch.full((4, 3), 2.0)]))
    assert metrics.metrics["rows"].read[-1][1] == 3.0
    asked = []
    read = metrics.result(group(list, lambda tensor: asked.append(tensor) or [tensor, tensor[:1]]))["rows"]
    assert (len(asked), asked[0].shape, read.shape) == (1, (6, 3), (7, 3))
    metrics.reset()
    assert metrics.result() == {}


def test_rows_need_no_memory_after_a_reset():
    metrics = MetricSet({"rows": Epoch(lambda y_true, y_pred: float(len(y_true)))})
    update(metrics)
    update(metrics)
    assert metrics.result()["rows"] == 4.0
    (kept,) = {id(part) for part in metrics._sums["rows"] if isinstance(part, Rows) and len(part.parts) == 2} and [True]
    assert kept
    metrics.reset()
    assert metrics._sums == {}
    update(metrics)
    assert metrics.result()["rows"] == 2.0


def test_several_values_of_one_metric_go_by_their_names():
    metrics = MetricSet({"pair": Given(1.0, value={"low": 1, "high": torch.ones(2)}), "mae": MeanAbsoluteError()})
    update(metrics)
    read = metrics.result()
    assert list(read) == ["loss", "low", "high", "mae"]
    assert (read["low"], read["high"].tolist()) == (1.0, [1.0, 1.0])


@pytest.mark.parametrize("key", ["loss", "mae", "twin"])
def test_two_values_of_one_name_are_refused(key):
    given = {"twin": Given(1.0, value={"twin": 1.0}), "pair": Given(1.0, value={key: 1.0})}
    metrics = MetricSet({**given, "mae": MeanAbsoluteError()})
    update(metrics)
    with pytest.raises(MismatchError, match=f"^The metric 'pair' gives a value '{key}', but there is another of that"):
        metrics.result()


def test_a_metric_may_give_a_value_of_its_own_name():
    metrics = MetricSet({"pair": Given(1.0, value={"pair": 1.0, "other": 2.0})})
    update(metrics)
    assert metrics.result() == {"loss": 1.0, "pair": 1.0, "other": 2.0}


def test_what_is_no_value_is_named():
    metrics = MetricSet({"strange": Given(1.0, value="high")})
    update(metrics)
    with pytest.raises(MismatchError, match=r"^The metric 'strange' must be a number, a tensor, or several of them by"):
        metrics.result()


def test_shown_while_an_epoch_runs_is_only_what_is_one_number_and_cheap():
    costly = Given(1.0, running=False)
    given = {"vector": Given(torch.ones(2)), "pair": Given(1.0, value={"a": 1.0}), "costly": costly, "one": Given(2)}
    metrics = MetricSet(given)
    update(metrics)
    assert dict(metrics) == {"loss": 1.0, "one": 2.0}
    assert list(metrics) == ["loss", "one"]
    assert len(metrics) == 2
    assert "costly" not in metrics
    assert metrics.get("vector") is None
    assert costly.read == []
    assert list(metrics.result()) == ["loss", "vector", "a", "costly", "one"]
    assert len(costly.read) == 1
    assert metrics.noted == {"loss", *given}


def test_whether_there_is_anything_is_known_without_reading(readings):
    metrics = MetricSet({})
    assert not metrics
    metrics.update([("loss", torch.ones((), device=ELSEWHERE), 1)], None, Batch(0, None))
    assert metrics
    assert readings == []


def test_several_losses_are_summed_up_with_their_factors():
    metrics = MetricSet({"mae": MeanAbsoluteError()}, {"a_loss": 0.5, "b_loss": 2.0})
    assert metrics.noted == {"loss", "a_loss", "b_loss", "mae"}
    assert dict(metrics) == {}
    batch = Batch(0, None, torch.zeros(2), size=2)
    metrics.update(
        [("a_loss", torch.tensor(1.0), 1), ("b_loss", torch.tensor(3.0), torch.tensor(2))], torch.ones(2), batch
    )
    metrics.update(
        [("a_loss", torch.tensor(4.0), 2), ("b_loss", torch.tensor(6.0), torch.tensor(1))], torch.ones(2), batch
    )
    values = {"loss": 0.5 * 3 + 2 * 4, "a_loss": 3.0, "b_loss": 4.0, "mae": 1.0}
    assert metrics.result() == values
    assert dict(metrics) == values
    assert list(metrics) == list(metrics.result()) == list(values)
    assert metrics.result(group(lambda sums: [number + 1 for number in sums]))["loss"] == 0.5 * 10 / 4 + 2 * 13 / 4


def test_losses_of_several_kinds_make_one():
    metrics = MetricSet({}, {"mean": 1.0, "sum": 10.0, "empty": 0.0})
    for _ in range(2):
        losses = [
            ("mean", torch.tensor(1.0), 3),
            ("sum", torch.tensor(2.0), None),
            ("empty", torch.tensor(math.nan), 0),
        ]
        metrics.update(losses, None, Batch(0, None))
    assert math.isnan(metrics["empty"])
    assert math.isnan(metrics["loss"])
    assert metrics["sum"] == 4.0


def test_a_loss_that_somebody_else_has_measured_stands_for_itself():
    metrics = MetricSet({}, {"a_loss": 1.0, "b_loss": 1.0})
    metrics.record({"a_loss": 1.0}, 2)
    assert dict(metrics) == {"a_loss": 1.0}
    metrics.record({"loss": 7.0, "b_loss": 2.0}, 2)
    assert dict(metrics) == {"loss": 7.0, "a_loss": 1.0, "b_loss": 2.0}


NAMES = [
    "accuracy",
    "top2",
    "precision",
    "recall",
    "f1",
    "iou",
    "dice",
    "confusion_matrix",
    "auroc",
    "average_precision",
    "perplexity",
]
ELEMENTS = [
    "mae",
    "mse",
    "rmse",
    "r2",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "iou",
    "dice",
    "confusion_matrix",
    "auroc",
    "average_precision",
]
WITHOUT_WEIGHTS = ("auroc", "average_precision")


@pytest.mark.parametrize("weighs_samples", [False, True])
@pytest.mark.parametrize("ignore_index", [None, -100, 1])
@pytest.mark.parametrize(
    ("names", "shape", "target", "task"),
    [
        (NAMES, (4, 3), torch.zeros(4, dtype=torch.int64), Task("logits", True)),
        (NAMES, (4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int64), Task("logits", True)),
        (ELEMENTS, (4, 3), torch.zeros(4, 3), Task("logits", False)),
        (ELEMENTS, (4, 1), torch.zeros(4, 1), Task("probabilities", False)),
        (ELEMENTS, (4,), torch.zeros(4), Task()),
    ],
)
def test_no_metric_waits_for_the_device(readings, names, shape, target, task, ignore_index, weighs_samples):
    task = Task(task.outputs, task.labels, ignore_index)
    names = [name for name in names if not (weighs_samples and name in WITHOUT_WEIGHTS)]
    metrics = {name: named(name).bound(task) for name in names}
    functions = {outputs: Epoch(max, outputs=outputs).bound(task) for outputs in ("raw", "labels", "probabilities")}
    metrics = MetricSet({**metrics, **functions})
    output, target = torch.randn(shape, device=ELSEWHERE), target.to(ELSEWHERE)
    batch = Batch(0, None, target, torch.ones(4, device=ELSEWHERE) if weighs_samples else None, 4)
    for _ in range(3):  # on this device any reading is an error
        metrics.update([("loss", torch.ones((), device=ELSEWHERE), 4)], output, batch)
    assert readings == []


@needs_gpu
@pytest.mark.parametrize("weighs_samples", [False, True])
def test_no_metric_waits_for_a_gpu(weighs_samples):
    names = [name for name in NAMES if not (weighs_samples and name in WITHOUT_WEIGHTS)]
    metrics = MetricSet({name: named(name).bound(Task("logits", True, -100)) for name in names})
    output, target = torch.randn(8, 3, device="cuda"), torch.randint(3, (8,), device="cuda")
    batch = Batch(0, None, target, torch.ones(8, device="cuda") if weighs_samples else None, 8)
    try:
        for mode in ("default", "error", "error"):
            torch.cuda.set_sync_debug_mode(mode)
            metrics.update([("loss", torch.ones((), device="cuda"), 8)], output, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 0 <= metrics["f1"] <= 1
    assert metrics.result()["confusion_matrix"].sum() == 24


def test_vectors_and_numbers_are_read_in_one_transfer(readings):
    metrics = MetricSet({"f1": F1(), "recall": named("recall"), "matrix": ConfusionMatrix()})
    output, target = torch.randn(4, 3, device=ELSEWHERE), torch.zeros(4, dtype=torch.int64, device=ELSEWHERE)
    metrics.update([("loss", torch.ones((), device=ELSEWHERE), 4)], output, Batch(0, None, target, size=4))
    with pytest.raises(MismatchError, match="The output has scores for labels"):  # every sum is said to be 6
        metrics.result()
    assert readings == [1 + 11 + 11 + 11]
    with pytest.raises(MismatchError):
        metrics["f1"]
    assert readings[1:] == [1 + 11 + 11]


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
        metrics.update([("loss", torch.tensor(3.0, device="cuda"), 2)], output, Batch(0, None, output * 2, size=2))
    assert dict(metrics) == {"loss": 3.0, "own": 0.5, "mse": 1.0}


def test_what_a_step_has_measured_itself_is_averaged_whatever_the_metric_makes_of_sums():
    metrics = MetricSet({"rmse": RootMeanSquaredError(), "f1": F1(), "auroc": AUROC()})
    metrics.record({"rmse": 1.0, "f1": 0.25, "auroc": 0.5}, 3)
    metrics.record({"rmse": 2.0, "f1": 0.75, "auroc": 0.5}, 1)
    assert metrics.result() == {"rmse": 1.25, "f1": 0.375, "auroc": 0.5}
    assert dict(metrics) == metrics.result()
    metrics.reset()
    metrics.record({"rmse": 4.0}, 1)
    assert metrics["rmse"] == 4.0


class Own:
    """A metric of the user's own, with plain attributes."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.total, self.parts = 0, []

    def update(self, output, target):
        self.total += len(target)
        self.parts.append(target.float().mean())

    def compute(self):
        return torch.stack(self.parts).mean() * self.total


def with_objects():
    torchmetrics = pytest.importorskip("torchmetrics")
    options = {"task": "multiclass", "num_classes": 3}
    kinds = [torchmetrics.Accuracy(**options), torchmetrics.F1Score(**options, average="macro")]
    collection = torchmetrics.MetricCollection(kinds)
    objects = {"collection": collection, "auroc": torchmetrics.AUROC(**options), "own": Own()}
    return MetricSet({"accuracy": Accuracy(), **{name: TorchMetric(each, name) for name, each in objects.items()}})


def take_in(metrics, seeds):
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(8, 3, generator=generator), torch.randint(3, (8,), generator=generator)
        loss = torch.nn.functional.cross_entropy(x, y)
        metrics.update([("loss", loss, 8)], x, Batch(seed, x, y, None, 8))


def test_sums_go_on_from_a_checkpoint_in_the_middle_of_an_epoch(tmp_path):
    whole, first, second = with_objects(), with_objects(), with_objects()
    take_in(whole, range(4))
    take_in(first, range(2))
    checkpoint.save(first.state_dict(), tmp_path / "sums.pt")
    take_in(second, [9])  # forgotten
    second.load_state_dict(checkpoint.load(tmp_path / "sums.pt"))
    assert second.samples == 16
    take_in(second, range(2, 4))
    assert second.result() == whole.result()
    assert dict(second) == dict(whole)
