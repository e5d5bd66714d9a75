"""Means: of a function's values over batches, and of errors over elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Metric, Sum, one_number
from kerastorch.tree import describe


class MeanOf(Metric):
    """The mean over samples of a function `f(y_pred, y_true)`.

    The function's value for a batch counts as often as the batch has samples. That is exact where the function is
    itself a mean over samples, such as accuracy; sample weights do not reach it.

    Args:
        function: Gives one number for a batch: a tensor, or a Python or NumPy number.
        name: What to call it in messages.
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str) -> None:
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


def weighted_sum(each: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum values `(N, ...)` with the weights `(N,)`; return it and the sum of the weights of all values.

    Raises:
        MismatchError: There are more or fewer weights than values.
    """
    if each.shape[:1] != (weight.numel(),):
        raise MismatchError(f"There are {weight.numel()} sample weights for values of the shape {tuple(each.shape)}.")
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))  # sums in half precision would overflow
    weight = weight.reshape(-1, *(1,) * (each.ndim - 1)).expand_as(each)
    return (each * weight).sum(), weight.sum()


def _sum_and_count(each: Tensor, weight: Tensor | None) -> tuple[Sum, ...]:
    return (each.sum(), each.numel()) if weight is None else weighted_sum(each, weight)


def _difference(output: Any, target: Any) -> Tensor:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or output.shape != target.shape:
        raise MismatchError(f"A mean error cannot compare output {describe(output)} with target {describe(target)}.")
    # At least float32: in half precision the sum over a batch would overflow, and bytes and bools do not subtract
    dtype = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
    return output.to(dtype) - target.to(dtype)
