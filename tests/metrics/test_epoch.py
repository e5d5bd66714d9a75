import functools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import Epoch, MetricSet, Task

varied = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


class Seen:
    """A function that keeps what it was given."""

    def __init__(self, value=1.0):
        self.calls, self.value = [], value

    def __call__(self, y_true, y_pred):
        self.calls.append((y_true, y_pred))
        return self.value


def weights_of(random, count, weighted):
    return torch.rand(count, generator=random) + 0.1 if weighted else None


@varied
@given(seed=seeds, count=st.integers(2, 20), sizes=sizes, shares=st.integers(1, 3), weighted=st.booleans())
@pytest.mark.parametrize("function", [sklearn.median_absolute_error, sklearn.max_error, sklearn.mean_pinball_loss])
def test_raw_outputs_are_given_as_they_are(*, function, over_epoch, seed, count, sizes, shares, weighted):
    random = torch.Generator().manual_seed(seed)
    output, target = torch.randn(2, count, generator=random)
    weight = weights_of(random, count, weighted)
    value = over_epoch(Epoch(function), output, target, sizes=sizes, weight=weight, shares=shares)
    weights = {"sample_weight": weight} if weighted and function is not sklearn.max_error else {}
    assert value == pytest.approx(function(target, output, **weights), abs=1e-6)


@varied
@given(
    seed=seeds,
    count=st.integers(4, 20),
    shape=st.sampled_from([(), (3,)]),
    sizes=sizes,
    shares=st.integers(1, 3),
    weighted=st.booleans(),
    ignores=st.booleans(),
)
@pytest.mark.parametrize("function", [sklearn.cohen_kappa_score, sklearn.matthews_corrcoef])
def test_labels_of_classes(*, function, over_epoch, seed, count, shape, sizes, shares, weighted, ignores):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, 3, *shape, generator=random)
    target = torch.randint(3, (count, *shape), generator=random)
    target.view(-1)[:3] = torch.arange(3)  # so that scikit-learn need not warn
    if ignores:
        target.view(-1)[3:][torch.rand(target.numel() - 3, generator=random) < 0.3] = -100
    weight = weights_of(random, count, weighted)
    metric = Epoch(function, outputs="labels").bound(Task("logits", True, -100))
    value = over_epoch(metric, output, target, sizes=sizes, weight=weight, shares=shares)
    kept = target != -100
    every = (torch.ones(count) if weight is None else weight).reshape(-1, *(1,) * len(shape)).expand(target.shape)
    weights = {"sample_weight": every[kept].numpy()} if weighted else {}
    assert value == pytest.approx(function(target[kept], output.argmax(1)[kept], **weights), abs=1e-6, nan_ok=True)


@varied
@given(seed=seeds, count=st.integers(4, 20), sizes=sizes, column=st.booleans(), weighted=st.booleans())
@pytest.mark.parametrize("outputs", ["logits", "probabilities", None])
def test_probabilities_of_one_label(*, outputs, over_epoch, seed, count, sizes, column, weighted):
    random = torch.Generator().manual_seed(seed)
    logits, target = torch.randn(count, generator=random) * 3, torch.arange(count) % 2
    given = logits.sigmoid() if outputs == "probabilities" else logits
    given = given.unsqueeze(1) if column else given
    weight = weights_of(random, count, weighted)
    metric = Epoch(sklearn.brier_score_loss, outputs="probabilities").bound(Task(outputs, False))
    value = over_epoch(metric, given, target.float(), sizes=sizes, weight=weight)
    in_doubt = outputs is None and logits.min() >= 0 and logits.max() <= 1
    expected = sklearn.brier_score_loss(target, logits if in_doubt else logits.sigmoid(), sample_weight=weight)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "log_probabilities"])
@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_of_classes(outputs, classes, over_epoch):
    random = torch.Generator().manual_seed(1)
    logits, target = torch.randn(20, classes, generator=random), torch.arange(20) % classes
    given = {"probabilities": logits.softmax(1), "log_probabilities": logits.log_softmax(1)}.get(outputs, logits)
    function = functools.partial(sklearn.roc_auc_score, multi_class="ovo")
    metric = Epoch(function, outputs="probabilities").bound(Task(outputs, True))
    probabilities = logits.double().softmax(1)
    expected = function(target, probabilities[:, 1] if classes == 2 else probabilities)
    assert over_epoch(metric, given, target, sizes=[3, 5], shares=3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("outputs", "output", "target", "given", "truth"),
    [
        ("labels", torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), (4,), (4,)),
        ("labels", torch.zeros(4, 3, 2), torch.zeros(4, 2, dtype=torch.uint8), (8,), (8,)),
        ("labels", torch.zeros(4), torch.ones(4), (4,), (4,)),
        ("labels", torch.zeros(4, 1), torch.ones(4, 1), (4,), (4,)),
        ("labels", torch.zeros(4, 1), torch.ones(4, dtype=torch.bool), (4,), (4,)),
        ("labels", torch.zeros(4, 5), torch.ones(4, 5), (4, 5), (4, 5)),
        ("labels", torch.zeros(4, 5, 2, 2), torch.ones(4, 5, 2, 2), (16, 5), (16, 5)),
        ("probabilities", torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), (4, 3), (4,)),
        ("probabilities", torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]), (4,), (4,)),
        ("probabilities", torch.zeros(4, 2, 3), torch.zeros(4, 3, dtype=torch.int64), (12,), (12,)),
        ("probabilities", torch.zeros(4, 1), torch.ones(4), (4,), (4,)),
        ("probabilities", torch.zeros(4, 5).half(), torch.ones(4, 5), (4, 5), (4, 5)),
        ("raw", torch.zeros(4, 5).half(), torch.ones(4, 2).bfloat16(), (4, 5), (4, 2)),
        ("raw", torch.zeros(4, 5, 6), torch.ones(4, dtype=torch.int32), (4, 5, 6), (4,)),
    ],
)
@pytest.mark.parametrize("sizes", [[4], [1, 2]])
def test_shapes_and_kinds_of_what_is_given(outputs, output, target, given, truth, sizes, over_epoch):
    seen = Seen()
    assert over_epoch(Epoch(seen, outputs=outputs), output, target, sizes=sizes) == 1.0
    ((y_true, y_pred),) = seen.calls
    assert (y_pred.shape, y_true.shape) == (given, truth)
    assert all(type(part) is np.ndarray for part in seen.calls[0])
    if outputs != "raw":
        assert y_true.dtype == np.int64
        assert y_pred.dtype == (np.int64 if outputs == "labels" else np.float64)
    else:
        assert y_pred.dtype == np.float32
        assert y_true.dtype == (np.float32 if target.is_floating_point() else np.int32)


def test_the_targets_come_first():
    assert Epoch(lambda y_true, y_pred: float(y_true.sum()))(torch.ones(3), torch.zeros(3)) == 0.0


def test_it_is_called_once_an_epoch_and_not_while_it_runs():
    seen = Seen()
    metrics = MetricSet({"seen": Epoch(seen)})
    for _ in range(3):
        metrics.update([("loss", torch.tensor(0.0), 2)], torch.ones(2), Batch(0, None, torch.ones(2), size=2))
        assert dict(metrics) == {"loss": 0.0}
    assert seen.calls == []
    assert metrics.result() == {"loss": 0.0, "seen": 1.0}
    assert len(seen.calls) == 1
    metrics.reset()
    assert metrics.result() == {}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (np.float64(2), 2.0),
        ({"a": 1, "b": np.float32(2)}, {"a": 1.0, "b": 2.0}),
        (np.array([2.0]), 2.0),
        (torch.tensor(2.0), 2.0),
    ],
)
def test_a_function_may_give_any_kind_of_value(given, value, over_epoch):
    found = over_epoch(Epoch(Seen(given)), torch.ones(2), torch.ones(2), every=True)
    assert found == (value if isinstance(value, dict) else {"value": value})


def test_a_function_may_give_an_array(over_epoch):
    function = functools.partial(sklearn.f1_score, average=None)
    output, target = torch.eye(3), torch.tensor([0, 1, 1])
    value = over_epoch(Epoch(function, outputs="labels"), output, target, sizes=[2])
    assert torch.allclose(value, torch.tensor(function(target, output.argmax(1))))


def test_what_is_no_value_is_named():
    with pytest.raises(MismatchError, match=r"^The metric 'sums' must be a number, a tensor, or several of them by"):
        Epoch(Seen((1.0, 2.0)), name="sums")(torch.ones(2), torch.ones(2))


def test_some_batches_with_weights_and_some_without_are_refused():
    metrics = MetricSet({"seen": Epoch(sklearn.mean_pinball_loss)})
    for weight in (None, torch.ones(2)):
        batch = Batch(0, None, torch.ones(2), weight, 2)
        metrics.update([("loss", torch.tensor(0.0), 2)], torch.ones(2), batch)
    text = (
        "The metric 'mean_pinball_loss' got sample weights with some batches, and none with others. Give all batches "
        "weights, ones where nothing else is known, or none."
    )
    with pytest.raises(MismatchError, match=text):
        metrics.result()


def test_single_ignored_labels_cannot_be_taken_from_a_row():
    metric = Epoch(Seen(), outputs="labels", name="seen").bound(Task("logits", False, -1))
    target = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    with pytest.raises(MismatchError, match=r"^The metric 'seen' gets whole rows of 2 labels, from which single"):
        metric(torch.ones(2, 2), target)
    assert metric(torch.ones(2, 2), target.abs()) == 1.0
    seen = Seen()
    metric = Epoch(seen, outputs="labels").bound(Task("logits", False, -1))
    assert metric(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, -1.0, 0.0])) == 1.0
    assert [part.tolist() for part in seen.calls[0]] == [[1, 0], [1, 1]]


def test_an_epoch_in_which_nothing_counts_is_nan_and_asks_nobody():
    seen = Seen()
    metric = Epoch(seen, outputs="labels").bound(Task("logits", True, -100))
    assert math.isnan(metric(torch.ones(2, 3), torch.tensor([-100, -100])))
    assert math.isnan(metric(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64)))
    assert seen.calls == []


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.ones(2), None),
        ({"a": torch.ones(2)}, torch.ones(2)),
        (torch.ones(2), torch.ones(3)),
    ],
)
def test_raw_outputs_and_targets_are_tensors_of_one_length(output, target):
    text = r"^Epoch\(seen\) needs a tensor of outputs \(N, ...\) and one of targets \(N, ...\); got output "
    with pytest.raises(MismatchError, match=text):
        Epoch(Seen(), name="seen").measure(output, target, None, 2)


@pytest.mark.parametrize("outputs", ["labels", "probabilities"])
def test_shapes_that_do_not_fit_are_named(outputs):
    with pytest.raises(MismatchError, match=r"^Epoch\(seen\) cannot compare output float32 \(2, 3\) cpu with target"):
        Epoch(Seen(), outputs=outputs, name="seen").measure(torch.ones(2, 3), torch.ones(3), None, 2)
    with pytest.raises(MismatchError, match=r"^Epoch\(seen\) cannot tell whether"):
        Epoch(Seen(), outputs=outputs, name="seen").measure(torch.ones(2, 3, 4), torch.ones(2, 3, 4), None, 2)


def test_what_is_unknown_is_named():
    text = "outputs is 'raw', 'labels' or 'probabilities'; got 'label'. Did you mean 'labels'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        Epoch(max, outputs="label")


def test_functions_that_tell_nothing_of_themselves_are_called_without_weights():
    metric = Epoch(dict, name="builtin")
    sums = [torch.ones(2), torch.ones(2), torch.ones(2)]
    with pytest.raises(TypeError):  # of dict itself
        metric.value(sums)


def test_a_function_in_the_other_order_is_not_taken_for_one_in_ours():
    assert not hasattr(Epoch(max), "function")
    assert Epoch(max).name == "max"
    assert Epoch(functools.partial(max)).name == "partial"
