"""What a metric is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from kerastorch.data.batch import count_samples
from kerastorch.errors import MismatchError, did_you_mean
from kerastorch.metrics.task import Task
from kerastorch.tree import describe

On = Literal["both", "train", "val"]
Value = float | Tensor | Mapping[str, float | Tensor]
Gather = Callable[[Tensor], list[Tensor]]


class Group(Protocol):
    """Processes that sum up together."""

    size: int

    def total(self, sums: list[float]) -> list[float]:
        """Add up numbers over all processes."""

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the tensors of all processes."""

    def of_main(self, value: Any) -> Any:
        """Return the value that the main process has."""


class Rows:
    """Rows `(M, ...)` of an epoch: a sum that grows longer, not larger.

    Args:
        rows: Those of one batch. They stay on their device, and are copied: a loader may use its memory again.
    """

    __slots__ = ("parts",)

    def __init__(self, rows: Tensor) -> None:
        self.parts = [rows.detach().clone()]

    def joined(self) -> Tensor:
        """Return all rows.

        Raises:
            MismatchError: Those of the batches differ in more than their number.
        """
        if len({part.shape[1:] for part in self.parts}) > 1:
            shapes = ", ".join(sorted({str(tuple(part.shape[1:])) for part in self.parts}))
            raise MismatchError(
                "A metric that keeps the whole epoch cannot join its batches: their shapes after the first dimension "
                f"differ ({shapes}). Pad them to one shape."
            )
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)


Sum = float | Tensor | Rows


class Metric(ABC):
    """A value over an epoch, made of sums that grow batch by batch on the device.

    A metric holds no state: it says what a batch adds to the sums, and how the sums become a value. So the value over
    an epoch, or over several processes, is the value over all samples at once.

    Attributes:
        on: What it is measured on: `"train"`, `"val"` or `"both"`.
        running: Whether it is shown while an epoch runs. One that keeps all rows is too costly for that.
        whole: Whether it is given all that the net gave, also where that holds a loss beside the predictions.

    Example:
        >>> class Bias(kt.metrics.Metric):
        ...     def measure(self, output, target, weight, size):
        ...         return (output - target).sum(), output.numel()
    """

    on: On = "both"
    running: bool = True
    whole: bool = False

    def __init__(self, *, on: On = "both") -> None:
        if on not in get_args(On):
            hint = did_you_mean(str(on), get_args(On))
            raise ValueError(f"A metric is measured on 'both', 'train' or 'val'; got on={on!r}.{hint}")
        self.on = on

    @abstractmethod
    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Return what one batch adds to the sums, without waiting for the device.

        Args:
            output: What the net gave, detached.
            target: The targets.
            weight: Weight of each sample `(N,)`, or None.
            size: Number of samples N.

        Returns:
            Numbers, tensors or `Rows`: always as many, and tensors always of the same shapes.
        """

    def value(self, sums: Sequence[Any]) -> Value:
        """Make a value of the sums: here the first over the second.

        Args:
            sums: A float for each number or tensor without dimensions; for other tensors and rows a tensor on the CPU.

        Returns:
            A number; a tensor, such as one number for each class; or several of them by name.
        """
        return ratio(sums)

    def value_of_all(self, sums: Sequence[Any], gather: Gather) -> Value:
        """Make the value over several processes, whose sums are together already.

        Args:
            sums: As for `value`.
            gather: Returns a tensor of every process; only a metric with state of its own needs it.
        """
        return self.value(sums)

    def bound(self, task: Task) -> Metric:
        """Return a metric whose options that were left out are as the loss has them; explicit ones stay."""
        return self

    def reset(self) -> None:
        """Prepare for a new epoch; only a metric with state of its own needs it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint in the middle of an epoch keeps beside the sums; for state of its own."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def twin(self) -> Metric:
        """Return a metric for another run at the same time; only one with state of its own must be another."""
        return self

    def __call__(self, output: Any, target: Any) -> Value:
        """Return the value for one batch; waits for the device."""
        size = count_samples(target, output)
        return as_value(self.value([_read(part) for part in self.measure(output, target, None, size)]), repr(self))

    def __repr__(self) -> str:
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, getattr(self, f"_{name}", parameter.default))
            if value is parameter.empty:  # a metric of the user's own need not keep what it was given
                continue
            if parameter.default is parameter.empty:
                shown.append(getattr(value, "__name__", repr(value)))
            elif repr(value) != repr(parameter.default):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _read(part: Sum) -> float | Tensor:
    if isinstance(part, Rows):
        return part.joined().cpu()
    if isinstance(part, Tensor):
        return part.detach().cpu().double() if part.ndim else float(part.item())
    return float(part)


def ratio(sums: Sequence[Any]) -> float | Tensor:
    """Divide the first sum by the second, NaN for nothing by nothing; a single sum stands for itself."""
    if len(sums) == 1:
        return sums[0]  # type: ignore[no-any-return]
    total, count = sums
    if isinstance(total, Tensor) or isinstance(count, Tensor):
        return torch.where(torch.as_tensor(count) == 0, torch.nan, total / count)
    return total / count if count else float("nan")


def as_value(value: Any, name: str) -> Value:
    """Turn what a metric made of its sums into floats, and tensors on the CPU where there are several numbers.

    Raises:
        MismatchError: It is something else.
    """
    if isinstance(value, Mapping):
        return {str(key): _number_or_tensor(part, f"{name}[{key!r}]") for key, part in value.items()}
    return _number_or_tensor(value, name)


def _number_or_tensor(value: Any, name: str) -> float | Tensor:
    if type(value) is float:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.size > 1:
        value = torch.tensor(value)
    if isinstance(value, Tensor) and value.numel() > 1:
        return value.detach().cpu()
    return float(one_number(value, name, "a number, a tensor, or several of them by name"))


def one_number(value: Any, name: str, kind: str = "one number") -> float | Tensor:
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
    raise MismatchError(f"{name} must be {kind}; got {got}.")
