"""Means: of a function's values over batches, and of errors over elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Metric, On, Sum, one_number, ratio
from kerastorch.metrics.forms import exact, spread
from kerastorch.tree import describe


class MeanOf(Metric):
    """The mean over samples of a function `f(y_pred, y_true)`.

    The function's value for a batch counts as often as the batch has samples. That is exact where the function is
    itself a mean over samples, such as accuracy; sample weights do not reach it. For a function that needs the whole
    epoch at once there is `Epoch`.

    Args:
        function: Gives one number for a batch: a tensor, or a Python or NumPy number.
        name: What to call it in messages.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str, *, on: On = "both") -> None:
        super().__init__(on=on)
        self.function = function
        self.name = name

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the function's value times the number of samples, and that number."""
        value = self.function(output, target)
        if type(value) is not Tensor or value.ndim:
            value = one_number(value, f"The metric {self.name!r}")
        return value * size, size


class MeanAbsoluteError(Metric):
    """The mean of the absolute differences of output and target, which have one shape."""

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the sum of the absolute differences, and how many they are."""
        return _sum_and_count(_difference(output, target).abs(), weight)


class MeanSquaredError(Metric):
    """The mean of the squared differences of output and target, which have one shape."""

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the sum of the squared differences, and how many they are."""
        return _sum_and_count(_difference(output, target).square(), weight)


class RootMeanSquaredError(Metric):
    """The root of the mean of the squared differences of all elements of output and target, which have one shape."""

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the sum of the squared differences, and how many they are."""
        return _sum_and_count(_difference(output, target).square(), weight)

    def value(self, sums: Sequence[Any]) -> float:
        """Return the root of the first over the second."""
        return math.sqrt(float(ratio(sums)))


class R2(Metric):
    """The share of the variance of the targets that the outputs explain: 1 is perfect, 0 is as good as their mean.

    It is `1 - sum((y - f)^2) / sum((y - mean(y))^2)`; of several columns `(N, ...)` the mean, as in scikit-learn. A
    column that is constant gives 1 if it is met, else 0. Less than two samples give NaN.

    The sums are in float64; targets whose mean is more than a million times their spread need to be centred.
    """

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return the sums `(3, ...)` of targets, their squares and squared errors; weight and number of samples."""
        _see_one_shape(output, target)
        truth = target.to(exact(target.device))
        error = truth - output.to(truth.dtype)
        each = torch.stack([truth, truth * truth, error * error])
        if weight is None:
            return each.sum(1), len(truth), len(truth)
        weight = weight.to(truth.dtype)
        return (each * spread(weight, truth)).sum(1), weight.sum(), len(truth)

    def value(self, sums: Sequence[Any]) -> float:
        """Return the mean over the columns."""
        (total, squares, unexplained), weight, number = sums
        if number < 2 or not weight:
            return math.nan
        varied = squares - total.square() / weight
        constant = varied <= 1e-13 * squares  # nothing but rounding
        each = torch.where(constant, (unexplained == 0).double(), 1 - unexplained / varied)
        return float(each.mean())


def weighted_sum(each: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum values `(N, ...)` with the weights `(N,)`; return it and the sum of the weights of all values.

    Raises:
        MismatchError: There are more or fewer weights than values.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))  # sums in half precision would overflow
    weight = spread(weight, each)
    return (each * weight).sum(), weight.sum()


def _sum_and_count(each: Tensor, weight: Tensor | None) -> tuple[Sum, ...]:
    return (each.sum(), each.numel()) if weight is None else weighted_sum(each, weight)


def _see_one_shape(output: Any, target: Any) -> None:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or output.shape != target.shape:
        raise MismatchError(
            f"A mean error cannot compare output {describe(output)} with target {describe(target)}. Both must be "
            "tensors of one shape: type y[..., None], or output.squeeze(-1) at the end of forward."
        )


def _difference(output: Any, target: Any) -> Tensor:
    _see_one_shape(output, target)
    # At least float32: in half precision the sum over a batch would overflow, and bytes and bools do not subtract
    dtype = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
    return output.to(dtype) - target.to(dtype)  # type: ignore[no-any-return]
