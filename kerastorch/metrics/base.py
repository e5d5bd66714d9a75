"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kerastorch.errors import MismatchError
from kerastorch.tree import describe

Sum = float | Tensor


class Metric(ABC):
    """A value over an epoch, made of sums that grow batch by batch on the device.

    A metric holds no state: it says what a batch adds to the sums, and how the sums become a value. So the value over
    an epoch, or over several processes, is the value over all samples at once.

    Example:
        >>> class Bias(kt.metrics.Metric):
        ...     def measure(self, output, target, weight, size):
        ...         return (output - target).sum(), output.numel()
    """

    @abstractmethod
    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return what one batch adds to the sums, without waiting for the device.

        Args:
            output: What the net gave, detached.
            target: The targets.
            weight: Weight of each sample `(N,)`, or None.
            size: Number of samples N.

        Returns:
            Numbers or tensors without dimensions, always as many.
        """

    def value(self, sums: Sequence[float]) -> float:
        """Make a value of the sums: here the first over the second."""
        return ratio(sums)

    def reset(self) -> None:
        """Prepare for a new epoch; only a metric with state of its own needs it."""

    def twin(self) -> Metric:
        """Return a metric for another run at the same time; only one with state of its own must be another."""
        return self

    def __call__(self, output: Any, target: Any) -> float:
        """Return the value for one batch; waits for the device."""
        return self.value([float(part) for part in self.measure(output, target, None, len(target))])


def ratio(sums: Sequence[float]) -> float:
    """Divide the first sum by the second, NaN for nothing by nothing; a single sum stands for itself."""
    if len(sums) == 1:
        return sums[0]
    total, count = sums
    return total / count if count else float("nan")


def one_number(value: Any, name: str) -> Sum:
    """Turn what a metric function gave into a number or a tensor without dimensions.

    Raises:
        MismatchError: It is something else.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, (Tensor, str)):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    got = describe(value) if isinstance(value, (Tensor, tuple, list, dict)) else repr(value)
    raise MismatchError(f"{name} must be one number; got {got}.")
