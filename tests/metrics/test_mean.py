import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.metrics import R2, MeanAbsoluteError, MeanOf, MeanSquaredError, MetricSet, RootMeanSquaredError

ERRORS = [(MeanAbsoluteError, mean_absolute_error), (MeanSquaredError, mean_squared_error)]
varied = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)
batch_sizes = st.integers(1, 6)


def epoch_value(metric, output, target, *, batch_size, weight=None):
    metrics = MetricSet({"value": metric})
    for index, start in enumerate(range(0, len(output), batch_size)):
        part = slice(start, start + batch_size)
        batch = Batch(index, None, target[part], None if weight is None else weight[part], len(output[part]))
        metrics.update([("loss", torch.tensor(0.0), batch.size)], output[part], batch)
    return metrics["value"]


@pytest.mark.parametrize(("metric", "reference"), ERRORS)
@varied
@given(
    seed=seeds,
    count=st.integers(1, 9),
    batch_size=batch_sizes,
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
)
def test_a_mean_error_equals_that_of_scikit_learn_over_all_data(
    *, metric, reference, seed, count, batch_size, shape, weighted, dtype
):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, *shape, generator=random)
    target = torch.randint(-2, 3, (count, *shape), generator=random).to(dtype)
    weight = torch.rand(count, generator=random) + 0.01 if weighted else None
    value = epoch_value(metric(), output, target, batch_size=batch_size, weight=weight)
    flat = (part.reshape(count, -1).double().numpy() for part in (target, output))
    assert value == pytest.approx(reference(*flat, sample_weight=weight), rel=1e-6)


@pytest.mark.parametrize(("metric", "value"), [(MeanAbsoluteError, 30.0), (MeanSquaredError, 900.0)])
@pytest.mark.parametrize("weight", [None, torch.ones(3000, dtype=torch.float16)])
def test_half_precision_does_not_overflow_in_the_sum_of_a_batch(metric, value, weight):
    output = torch.full((3000,), 30.0, dtype=torch.float16)
    assert epoch_value(metric(), output, torch.zeros_like(output), batch_size=3000, weight=weight) == value


@pytest.mark.parametrize("metric", [MeanAbsoluteError(), MeanSquaredError()])
def test_a_mean_error_of_samples_without_weight_is_nan(metric):
    assert math.isnan(epoch_value(metric, torch.ones(3), torch.ones(3), batch_size=2, weight=torch.zeros(3)))


@pytest.mark.parametrize("metric", [MeanAbsoluteError(), MeanSquaredError()])
@pytest.mark.parametrize(
    ("output", "target", "text"),
    [
        (torch.ones(3, 1), torch.ones(3), "output float32 (3, 1) cpu with target float32 (3,) cpu."),
        (torch.ones(3), None, "output float32 (3,) cpu with target None."),
        ({"a": torch.ones(3)}, torch.ones(3), "output {'a': float32 (3,) cpu} with target float32 (3,) cpu."),
    ],
)
def test_shapes_that_do_not_fit_are_named(metric, output, target, text):
    with pytest.raises(MismatchError) as error:
        metric.measure(output, target, None, 3)
    assert str(error.value) == (
        f"A mean error cannot compare {text} Both must be tensors of one shape: type y[..., None], or "
        "output.squeeze(-1) at the end of forward."
    )


@pytest.mark.parametrize("metric", [MeanAbsoluteError(), MeanSquaredError()])
def test_sample_weights_of_another_length_are_refused(metric):
    with pytest.raises(MismatchError, match=r"6 sample weights for values of the shape \(2, 3\)\. Weights are \(N,\)"):
        metric.measure(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), 2)


@varied
@given(seed=seeds, count=st.integers(1, 9), batch_size=batch_sizes)
def test_the_mean_of_a_mean_over_samples_is_exact(seed, count, batch_size):
    random = torch.Generator().manual_seed(seed)
    output, target = torch.randn(2, count, 3, generator=random, dtype=torch.float64)
    largest = MeanOf(lambda y_pred, y_true: (y_pred - y_true).abs().amax(1).mean(), "largest")
    expected = float((output - target).abs().amax(1).mean())
    assert epoch_value(largest, output, target, batch_size=batch_size) == pytest.approx(expected, rel=1e-12)


KINDS = {
    "a tensor": torch.tensor,
    "a tensor of float64": lambda value: torch.tensor(value, dtype=torch.float64),
    "a tensor (1,)": lambda value: torch.tensor([value]),
    "a tensor (1, 1)": lambda value: torch.tensor([[value]]),
    "a tensor with a gradient": lambda value: torch.tensor(value, requires_grad=True),
    "a parameter": lambda value: torch.nn.Parameter(torch.tensor(value)),
    "a float": float,
    "np.float64": np.float64,
    "np.float32": np.float32,
    "an array ()": np.array,
    "an array (1,)": lambda value: np.array([value]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_may_return_any_kind_of_number(kind):
    metric = MeanOf(lambda y_pred, y_true: KINDS[kind](float(y_pred.mean())), "mean")
    output = torch.tensor([1.0, 2.0, 6.0])
    assert epoch_value(metric, output, output, batch_size=2) == 3.0


@pytest.mark.parametrize("kind", [bool, int, np.int64, np.bool_, torch.tensor])
def test_a_function_may_return_a_whole_number(kind):
    metric = MeanOf(lambda y_pred, y_true: kind(bool(y_pred[0] > 0)), "positive")
    output = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    assert epoch_value(metric, output, output, batch_size=2) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("0.5", "'0.5'"),
        (torch.ones(2), "float32 (2,) cpu"),
        (torch.ones(0), "float32 (0,) cpu"),
        ([0.5, 0.5], "(float, float)"),
        ((0.5,), "(float)"),
        ({"precision": torch.tensor(1.0), "recall": 0.5}, "{'precision': float32 () cpu, 'recall': float}"),
        (np.array([1.0, 2.0]), "array([1., 2.])"),
        (np.array([None]), "None"),
        (object, "<class 'object'>"),
    ],
)
def test_what_is_not_one_number_is_named(value, text):
    metric = MeanOf(lambda y_pred, y_true: value, "strange")
    with pytest.raises(MismatchError) as error:
        metric.measure(torch.ones(2), torch.ones(2), None, 2)
    assert str(error.value) == f"The metric 'strange' must be one number; got {text}."


def test_an_error_of_the_function_reaches_the_user():
    def broken(y_pred, y_true):
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        MeanOf(broken, "broken").measure(torch.ones(2), torch.ones(2), None, 2)


def test_the_function_gets_what_the_net_gave_and_the_targets():
    seen = []
    metric = MeanOf(functools.partial(lambda log, *given: log.append(given) or 1.0, seen), "seen")
    output, target = {"a": torch.ones(2)}, (torch.zeros(2), None)
    assert metric.measure(output, target, None, 2) == (2.0, 2)
    assert len(seen) == 1
    assert seen[0][0] is output
    assert seen[0][1] is target


def test_nan_of_one_batch_is_nan_of_the_epoch():
    metric = MeanOf(lambda y_pred, y_true: math.nan if y_pred[0] > 1 else 1.0, "sometimes")
    output = torch.tensor([1.0, 1.0, 2.0])
    assert math.isnan(epoch_value(metric, output, output, batch_size=2))


@varied
@given(
    seed=seeds,
    count=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    shares=st.integers(1, 3),
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_the_root_is_that_of_the_mean_over_all_elements(
    *, over_epoch, seed, count, sizes, shares, shape, weighted, dtype
):
    random = torch.Generator().manual_seed(seed)
    output, target = torch.randn(2, count, *shape, generator=random).to(dtype)
    weight = torch.rand(count, generator=random) + 0.01 if weighted else None
    value = over_epoch(RootMeanSquaredError(), output, target, sizes=sizes, weight=weight, shares=shares)
    flat = (part.reshape(count, -1).double().numpy() for part in (target, output))
    assert value == pytest.approx(math.sqrt(mean_squared_error(*flat, sample_weight=weight)), rel=1e-6)


@varied
@given(
    seed=seeds,
    count=st.integers(2, 12),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    shares=st.integers(1, 3),
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    target_dtype=st.sampled_from([torch.float32, torch.int64, torch.bool, torch.uint8]),
    far=st.sampled_from([0.0, 1000.0]),
)
def test_the_explained_variance_is_that_of_scikit_learn(
    *, over_epoch, seed, count, sizes, shares, shape, weighted, dtype, target_dtype, far
):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, *shape, generator=random).to(dtype)
    target = torch.randint(0, 5, (count, *shape), generator=random).to(target_dtype)
    if target_dtype == torch.float32:
        output, target = output + far, target + far
    weight = torch.rand(count, generator=random) + 0.01 if weighted else None
    value = over_epoch(R2(), output, target, sizes=sizes, weight=weight, shares=shares)
    flat = (part.reshape(count, -1).double().numpy() for part in (target, output))
    assert value == pytest.approx(r2_score(*flat, sample_weight=weight), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("number", [0.1, 1.0, -7.3, 1e6])
@pytest.mark.parametrize("right", [True, False])
def test_a_constant_target_is_met_or_not(number, right, over_epoch):
    target = torch.full((101,), number)
    output = target if right else target + 1
    assert over_epoch(R2(), output, target, sizes=[7, 3]) == float(right)


@pytest.mark.parametrize(("count", "weight"), [(0, None), (1, None), (3, torch.zeros(3))])
def test_less_than_two_samples_have_no_variance(count, weight, over_epoch):
    metrics = MetricSet({"value": R2()})
    batch = Batch(0, None, torch.ones(count), weight, count)
    metrics.update([("loss", torch.tensor(0.0), 1)], torch.ones(count), batch)
    assert math.isnan(metrics["value"])


def test_nan_is_no_explanation(over_epoch):
    assert math.isnan(over_epoch(R2(), torch.tensor([math.nan, 1.0, 2.0]), torch.tensor([0.0, 1.0, 2.0]), sizes=[2]))
    output = torch.tensor([math.nan, 1.0])
    assert math.isnan(RootMeanSquaredError()(output, torch.ones(2)))


@pytest.mark.parametrize("metric", [R2(), RootMeanSquaredError()])
def test_shapes_that_do_not_fit_are_named_by_all(metric):
    with pytest.raises(MismatchError, match=r"^A mean error cannot compare output float32 \(3, 1\) cpu with target"):
        metric.measure(torch.ones(3, 1), torch.ones(3), None, 3)
    with pytest.raises(MismatchError, match=r"2 sample weights for values of the shape \(3, 1\)"):
        metric.measure(torch.ones(3, 1), torch.ones(3, 1), torch.ones(2), 3)


def test_samples_of_the_explained_variance_are_those_of_the_target(over_epoch):
    output, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])
    sums = R2().measure(output, target, None, 1)  # a graph of three nodes, say
    assert R2().value([sums[0], *map(float, sums[1:])]) == pytest.approx(r2_score(target, output))
