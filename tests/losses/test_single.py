import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses import Loss
from kerastorch.metrics import MetricSet
from kerastorch.metrics import set as set_module
from kerastorch.metrics import sums as sums_module

CLASSES = 4
varied = settings(max_examples=30)
seeds = st.integers(0, 2**32 - 1)
sample_counts = st.integers(1, 9)
batch_sizes = st.integers(1, 6)
dtypes = st.sampled_from([torch.float32, torch.float64])
shapes = st.sampled_from([(), (3,), (2, 2)])

# name: (the loss for class weights w, its ignored label)
BY_LABEL = {
    "CrossEntropyLoss": (lambda w: nn.CrossEntropyLoss(), -100),
    "with class weights": (lambda w: nn.CrossEntropyLoss(weight=w), -100),
    "with ignore_index": (lambda w: nn.CrossEntropyLoss(ignore_index=1), 1),
    "with label_smoothing": (lambda w: nn.CrossEntropyLoss(label_smoothing=0.2), -100),
    "with everything": (lambda w: nn.CrossEntropyLoss(w, ignore_index=2, label_smoothing=0.1), 2),
    "summed": (lambda w: nn.CrossEntropyLoss(w, ignore_index=2, reduction="sum"), 2),
    "NLLLoss": (lambda w: nn.NLLLoss(), -100),
    "NLLLoss with everything": (lambda w: nn.NLLLoss(w, ignore_index=0), 0),
    "cross_entropy": (lambda w: functional.cross_entropy, -100),
    "nll_loss": (lambda w: functional.nll_loss, -100),
    "partial cross_entropy": (
        lambda w: functools.partial(functional.cross_entropy, weight=w, ignore_index=3, label_smoothing=0.3),
        3,
    ),
    "partial nll_loss": (lambda w: functools.partial(functional.nll_loss, weight=w, ignore_index=-1), -1),
    "partial, summed": (lambda w: functools.partial(functional.cross_entropy, weight=w, reduction="sum"), -100),
}

BY_ELEMENT = {
    "MSELoss": nn.MSELoss(),
    "L1Loss": nn.L1Loss(),
    "SmoothL1Loss": nn.SmoothL1Loss(beta=0.3),
    "HuberLoss": nn.HuberLoss(delta=0.4),
    "BCELoss": nn.BCELoss(),
    "BCEWithLogitsLoss": nn.BCEWithLogitsLoss(),
    "summed": nn.MSELoss(reduction="sum"),
    "mse_loss": functional.mse_loss,
    "l1_loss": functional.l1_loss,
    "smooth_l1_loss": functional.smooth_l1_loss,
    "huber_loss": functional.huber_loss,
    "binary_cross_entropy": functional.binary_cross_entropy,
    "binary_cross_entropy_with_logits": functional.binary_cross_entropy_with_logits,
    "partial huber_loss": functools.partial(functional.huber_loss, delta=0.1),
    "partial, summed": functools.partial(functional.l1_loss, reduction="sum"),
    "soft_margin_loss": functional.soft_margin_loss,
    "PoissonNLLLoss": nn.PoissonNLLLoss(),
    "KLDivLoss by sample": nn.KLDivLoss(reduction="batchmean"),
}


@pytest.fixture(autouse=True, scope="module", params=["on the CPU", "as on an accelerator"])
def place(request):
    """Sums on the CPU are Python numbers; tried as well is what is done where reading a tensor means waiting."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as on an accelerator":
            for module in (set_module, sums_module):
                patch.setattr(module, "read_if_free", lambda part: part)
        yield


def class_weights(dtype=torch.float32):
    return torch.tensor([0.5, 2.0, 0.25, 1.5], dtype=dtype)


def epoch_value(function, output, target, *, batch_size, weight=None):
    loss, metrics = Loss(function), MetricSet({})
    for index, start in enumerate(range(0, len(output), batch_size)):
        part = slice(start, start + batch_size)
        batch = Batch(index, None, target[part], None if weight is None else weight[part], len(output[part]))
        value, share = loss(output[part], batch)
        metrics.update([("loss", value.detach(), share)], output[part], batch)
    return metrics["loss"]


def labelled(seed, count, shape, dtype, ignored):
    random = torch.Generator().manual_seed(seed)
    output = torch.randn(count, CLASSES, *shape, generator=random, dtype=dtype)
    target = torch.randint(CLASSES, (count, *shape), generator=random)
    unseen = torch.rand(target.shape, generator=random) < 0.3
    return output, target.where(~unseen, ignored)


def fractions(seed, count, shape, dtype):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(2, count, 3, *shape, generator=random, dtype=dtype) * 0.98 + 0.01


def repetitions(seed, count):
    return torch.randint(4, (count,), generator=torch.Generator().manual_seed(seed))


def equal(value, dtype=torch.float64):
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    return pytest.approx(float(value), rel=tolerance, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("name", BY_LABEL)
@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, dtype=dtypes)
def test_a_loss_by_label_equals_the_loss_over_all_data(*, name, seed, count, batch_size, shape, dtype):
    make, ignored = BY_LABEL[name]
    function = make(class_weights(dtype))
    output, target = labelled(seed, count, shape, dtype, ignored)
    expected = function(output, target)
    assert epoch_value(function, output, target, batch_size=batch_size) == equal(expected, dtype)


@pytest.mark.parametrize("name", BY_LABEL)
@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, dtype=dtypes)
def test_a_sample_weight_counts_a_sample_by_label_as_often(*, name, seed, count, batch_size, shape, dtype):
    make, ignored = BY_LABEL[name]
    function = make(class_weights(dtype))
    output, target = labelled(seed, count, shape, dtype, ignored)
    times = repetitions(seed, count)
    expected = function(output.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
    value = epoch_value(function, output, target, batch_size=batch_size, weight=times.to(dtype))
    assert value == equal(expected, dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighs_classes", [False, True])
@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, dtype=dtypes)
def test_cross_entropy_of_probabilities_equals_the_loss_over_all_data(
    *, smoothing, weighs_classes, seed, count, batch_size, shape, dtype
):
    function = nn.CrossEntropyLoss(class_weights(dtype) if weighs_classes else None, label_smoothing=smoothing)
    output, _ = labelled(seed, count, shape, dtype, -100)
    target = output.roll(1, 0).softmax(1)
    times = repetitions(seed, count)
    repeated = function(output.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
    expected = function(output, target)
    assert epoch_value(function, output, target, batch_size=batch_size) == equal(expected, dtype)
    value = epoch_value(function, output, target, batch_size=batch_size, weight=times.to(dtype))
    assert value == equal(repeated, dtype)


@pytest.mark.parametrize("name", BY_ELEMENT)
@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, dtype=dtypes)
def test_a_loss_by_element_equals_the_loss_over_all_data(*, name, seed, count, batch_size, shape, dtype):
    function = BY_ELEMENT[name]
    output, target = fractions(seed, count, shape, dtype)
    expected = function(output, target)
    assert epoch_value(function, output, target, batch_size=batch_size) == equal(expected, dtype)


@pytest.mark.parametrize("name", [name for name in BY_ELEMENT if name != "KLDivLoss by sample"])
@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes, shape=shapes, dtype=dtypes)
def test_a_sample_weight_counts_the_elements_of_a_sample_as_often(*, name, seed, count, batch_size, shape, dtype):
    function = BY_ELEMENT[name]
    output, target = fractions(seed, count, shape, dtype)
    times = repetitions(seed, count)
    expected = function(output.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
    value = epoch_value(function, output, target, batch_size=batch_size, weight=times.to(dtype))
    assert value == equal(expected, dtype)


def test_batches_of_sequences_of_different_lengths_weigh_by_their_elements():
    parts = [(torch.randn(3, length, dtype=torch.float64), torch.randn(3, length).double()) for length in (5, 2, 7)]
    loss, metrics = Loss(nn.MSELoss()), MetricSet({})
    for index, (output, target) in enumerate(parts):
        batch = Batch(index, None, target, size=3)
        metrics.update(loss.terms(output, batch)[1], output, batch)
    outputs, targets = (torch.cat([part.flatten() for part in side]) for side in zip(*parts, strict=True))
    assert metrics["loss"] == equal(functional.mse_loss(outputs, targets))


@varied
@given(seed=seeds, count=sample_counts, batch_size=batch_sizes)
def test_a_function_of_the_users_own_is_a_mean_over_samples(seed, count, batch_size):
    def squared_error(output, target):
        return ((output - target) ** 2).sum(1).mean()

    output, target = fractions(seed, count, (), torch.float64)
    expected = squared_error(output, target)
    assert epoch_value(squared_error, output, target, batch_size=batch_size) == equal(expected)
    doubled = functools.partial(lambda output, target, factor: factor * squared_error(output, target), factor=2)
    assert epoch_value(doubled, output, target, batch_size=batch_size) == equal(2 * expected)


def test_a_function_of_the_users_own_weighs_by_samples_whatever_the_outputs_are():
    def largest_error(output, target):
        return (output["scores"] - target).abs().amax(1).mean()

    loss, metrics = Loss(largest_error), MetricSet({})
    errors = []
    for index, (count, length) in enumerate([(3, 5), (1, 9), (2, 2)]):
        output, target = torch.randn(2, count, length, dtype=torch.float64)
        errors.append((output - target).abs().amax(1))
        batch = Batch(index, None, target, size=count)
        metrics.update(loss.terms({"scores": output}, batch)[1], None, batch)
    assert metrics["loss"] == equal(torch.cat(errors).mean())

    def scores(output, target):
        return largest_error({"scores": output}, target)

    metrics.reset()
    for index, each in enumerate(errors):
        batch = Batch(index, None, torch.zeros(len(each), 7 - 3 * index).double(), size=len(each))
        output = each.unsqueeze(1).expand(-1, 7 - 3 * index)
        metrics.update(Loss(scores).terms(output, batch)[1], None, batch)
    assert metrics["loss"] == equal(torch.cat(errors).mean())


class Own(nn.CrossEntropyLoss):
    """A subclass that does something else, here a mean over samples of the largest score."""

    def forward(self, output, target):
        return output.amax(1).mean()


class OwnElements(nn.MSELoss):
    def forward(self, output, target):
        return (output - target).square().sum(1).mean()


class Renamed(nn.CrossEntropyLoss):
    """A subclass that is what it was."""


@pytest.mark.parametrize(("make", "expected"), [(Own, lambda o: o.amax(1)), (OwnElements, lambda o: o.square().sum(1))])
def test_a_subclass_with_a_forward_of_its_own_is_a_mean_over_samples(make, expected):
    output = torch.randn(5, 3, dtype=torch.float64)
    loss, metrics, first = Loss(make()), MetricSet({}), 0
    for count, labels in ((3, [-100, -100, 0]), (2, [0, 1])):
        part = output[first : first + count, : count + 1]
        target = torch.tensor(labels) if make is Own else torch.zeros_like(part)
        batch = Batch(0, None, target, size=count)
        metrics.update(loss.terms(part, batch)[1], part, batch)
        first += count
    parts = [expected(output[:3, :4]), expected(output[3:, :3])]
    assert metrics["loss"] == equal(torch.cat(parts).mean())
    assert not loss.is_torch


def test_a_subclass_without_a_forward_of_its_own_is_what_it_was():
    output, target = torch.randn(4, CLASSES, dtype=torch.float64), torch.tensor([0, -100, -100, 2])
    expected = functional.cross_entropy(output, target)
    assert epoch_value(Renamed(), output, target, batch_size=3) == equal(expected)


@pytest.mark.parametrize("target", [torch.tensor(2), torch.tensor([0.1, 0.2, 0.3, 0.4])])
def test_a_single_sample_without_a_batch_weighs_one(target):
    value, weight = Loss(nn.CrossEntropyLoss())(torch.randn(CLASSES), Batch(0, None, target))
    assert value.ndim == 0
    assert weight == 1


def test_a_function_of_the_users_own_with_reduction_takes_sample_weights():
    def squared_error(output, target, reduction="mean"):
        each = (output - target).square()
        return each if reduction == "none" else each.mean()

    output, target = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    value = epoch_value(squared_error, output, target, batch_size=2, weight=torch.tensor([0.5, 0.0, 2.0]))
    assert value == equal((0.5 * 1 + 2 * 9) / 2.5)


def test_a_batch_of_ignored_labels_only_adds_nothing():
    output, target = torch.randn(4, CLASSES), torch.tensor([-100, -100, 1, 2])
    expected = functional.cross_entropy(output, target)
    assert epoch_value(nn.CrossEntropyLoss(), output, target, batch_size=2) == equal(expected, torch.float32)
    assert epoch_value(nn.CrossEntropyLoss(), output, target, batch_size=1) == equal(expected, torch.float32)


@pytest.mark.parametrize("weight", [None, torch.ones(4)])
def test_a_batch_of_classes_without_weight_only_adds_nothing(weight):
    output, target = torch.randn(4, CLASSES), torch.tensor([3, 3, 1, 2])
    function = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 1.0, 0.0]))
    expected = function(output, target)
    assert epoch_value(function, output, target, batch_size=2, weight=weight) == equal(expected, torch.float32)


def test_an_epoch_of_ignored_labels_only_has_no_loss():
    output, target = torch.randn(3, CLASSES), torch.full((3,), -100)
    assert math.isnan(epoch_value(nn.CrossEntropyLoss(), output, target, batch_size=2))
    assert math.isnan(epoch_value(nn.CrossEntropyLoss(), output, target, batch_size=2, weight=torch.ones(3)))


@pytest.mark.parametrize("weight", [None, torch.ones(3)])
@pytest.mark.parametrize("function", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(torch.ones(CLASSES))])
def test_a_nan_stays_a_nan(function, weight):
    output = torch.zeros(3, CLASSES)
    output[1, 2] = math.nan
    assert math.isnan(epoch_value(function, output, torch.tensor([0, 1, 2]), batch_size=2, weight=weight))


@pytest.mark.parametrize("weighs_classes", [False, True])
@pytest.mark.parametrize("sample_weight", [None, torch.ones(2)])
def test_labels_as_bytes_count_like_labels_as_int64(weighs_classes, sample_weight):
    output = torch.randn(2, 200, dtype=torch.float64)
    target = torch.tensor([156, 3], dtype=torch.uint8)  # 156 is -100 as a byte, but is not ignored
    weight = torch.linspace(0.1, 2, 200, dtype=torch.float64) if weighs_classes else None
    expected = functional.cross_entropy(output, target.long(), weight=weight)
    value = epoch_value(nn.CrossEntropyLoss(weight), output, target, batch_size=1, weight=sample_weight)
    assert value == equal(expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float16])
@pytest.mark.parametrize("function", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(class_weights().double())])
def test_sample_weights_may_be_of_any_dtype(dtype, function):
    output, target = torch.randn(3, CLASSES, dtype=torch.float64), torch.tensor([0, 1, 3])
    chosen = torch.tensor([1, 0, 1])
    expected = function(output[[0, 2]], target[[0, 2]])
    assert epoch_value(function, output, target, batch_size=2, weight=chosen.to(dtype)) == equal(expected)
    errors = epoch_value(nn.MSELoss(), output, output + 2, batch_size=2, weight=chosen.to(dtype))
    assert errors == equal(4)


def test_sample_weights_may_be_a_column():
    output, target = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    weight = torch.tensor([[1.0], [0.0], [3.0]])
    assert epoch_value(nn.MSELoss(), output, target, batch_size=2, weight=weight) == equal((1 + 3 * 9) / 4)


def test_half_precision_does_not_overflow_in_the_sum_of_the_epoch():
    output = torch.full((100, 2000), 2.0, dtype=torch.float16)
    assert epoch_value(nn.MSELoss(), output, torch.zeros_like(output), batch_size=40) == 4.0


@pytest.mark.parametrize("function", [nn.CrossEntropyLoss(class_weights().double()), nn.MSELoss()])
def test_sample_weights_weigh_the_gradients_as_well(function):
    output = torch.randn(3, CLASSES, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 3, 1]) if isinstance(function, nn.CrossEntropyLoss) else torch.zeros(3, CLASSES).double()
    times = torch.tensor([2, 0, 1])
    value, _ = Loss(function)(output, Batch(0, None, target, times.double(), 3))
    (gradient,) = torch.autograd.grad(value, output)
    (expected,) = torch.autograd.grad(
        function(
            output.repeat_interleave(times, 0),
            target.repeat_interleave(times) if target.ndim == 1 else target.repeat_interleave(times, 0),
        ),
        output,
    )
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_the_loss_without_sample_weights_is_the_users_own_bit_for_bit():
    output, target = torch.randn(5, CLASSES), torch.tensor([0, 1, 2, 3, -100])
    function = nn.CrossEntropyLoss(class_weights(), label_smoothing=0.1)
    value, weight = Loss(function)(output, Batch(0, None, target, size=5))
    assert torch.equal(value, function(output, target))
    assert weight == 0.5 + 2.0 + 0.25 + 1.5


def test_sample_weights_leave_the_users_loss_as_it_is():
    function = nn.MSELoss()
    Loss(function)(torch.ones(2), Batch(0, None, torch.ones(2), torch.ones(2), 2))
    assert function.reduction == "mean"


def test_sample_weights_without_reduction_are_refused():
    def distance(output, target):
        return (output - target).norm()

    batch = Batch(0, None, torch.ones(2), torch.ones(2), 2)
    with pytest.raises(MismatchError) as error:
        Loss(distance)(torch.ones(2), batch)
    assert str(error.value) == (
        "Sample and class weights need one loss per sample, but distance has no `reduction`. "
        "Use a loss of torch.nn, or give your function an argument reduction='mean' that also takes 'none'."
    )
    with pytest.raises(MismatchError, match="but max has no `reduction`"):
        Loss(max)(torch.ones(2), batch)  # a builtin that tells nothing of its parameters


@pytest.mark.parametrize(
    ("function", "weight", "given"),
    [
        (nn.MSELoss(), torch.ones(3), r"\(2,\) for 3 sample weights"),
        (nn.MSELoss(), torch.ones(2, 2), r"\(2,\) for 4 sample weights"),
        (nn.MSELoss(), torch.tensor(1.0), r"\(2,\) for 1 sample weights"),
        (lambda output, target, reduction="mean": output.sum(), torch.ones(2), r"\(\) for 2 sample weights"),
    ],
)
def test_other_than_one_loss_per_sample_weight_is_refused(function, weight, given):
    with pytest.raises(MismatchError, match=f"^The loss .* gave {given}; it must give one loss per sample.$"):
        Loss(function)(torch.ones(2), Batch(0, None, torch.ones(2), weight, 2))


def test_one_sample_with_a_weight_per_element_is_refused():
    with pytest.raises(MismatchError, match=r"for 3 sample weights; it must give one loss per sample"):
        Loss(nn.MSELoss())(torch.ones(1, 3), Batch(0, None, torch.zeros(1, 3), torch.ones(1, 3), 1))


class Distance:
    def __call__(self, output, target):
        return (output - target).abs().mean()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.MSELoss(), "MSELoss"),
        (functional.mse_loss, "mse_loss"),
        (functools.partial(functional.cross_entropy, label_smoothing=0.1), "cross_entropy"),
        (Distance(), "Distance"),
    ],
)
def test_a_loss_has_a_name_for_messages(function, name):
    assert Loss(function).name == name


def test_class_weights_move_with_the_loss():
    loss = Loss(nn.CrossEntropyLoss(torch.ones(2)))
    loss.to(torch.device("meta"))
    assert loss.class_weight.device.type == "meta"
    function = Loss(functional.mse_loss)
    function.to(torch.device("meta"))
    assert function.class_weight is None


def test_weights_of_elements_are_no_class_weights():
    output, target = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    function = nn.BCELoss(weight=torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64))
    assert Loss(function).class_weight is None
    assert epoch_value(function, output, target, batch_size=2) == equal(function(output, target))


def test_class_weights_that_are_a_parameter_beside_a_buffer_are_found():
    function = nn.CrossEntropyLoss()
    function.register_buffer("other", torch.ones(1))
    function.weight = nn.Parameter(class_weights())
    assert Loss(function).class_weight is function.weight
