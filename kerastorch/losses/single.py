"""The loss of a batch, and the weight it has in the mean of the epoch.

A mean over batches equals the mean over all data only if each batch weighs what the loss itself divided by: samples,
elements, labels that are not ignored, or sums of class and sample weights.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError

Weight = float | Tensor | None  # None: the losses of the batches are added, as reduction="sum" does

_BY_LABEL = (nn.CrossEntropyLoss, nn.NLLLoss)
_BY_LABEL_FUNCTIONS = (functional.cross_entropy, functional.nll_loss)
_BY_ELEMENT = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
_BY_ELEMENT_FUNCTIONS = (
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
)


class Loss:
    """A loss function with the weight of each batch.

    Args:
        function: Called as `function(output, target)`, the order of `torch.nn`; gives one number.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.by_label = _works_as(function, _BY_LABEL) or _bare(function) in _BY_LABEL_FUNCTIONS
        self.by_element = _works_as(function, _BY_ELEMENT) or _bare(function) in _BY_ELEMENT_FUNCTIONS
        self.is_torch = (
            type(function).__module__.startswith("torch.nn") or _bare(function).__module__ == functional.__name__
        )
        self.ignore_index: int = _option(function, "ignore_index", -100)
        self._summed = _option(function, "reduction", "mean") == "sum"

    @property
    def class_weight(self) -> Tensor | None:
        """Weight of each class `(C,)`, where the loss has them; moves with the loss from device to device."""
        return _option(self.function, "weight", None) if self.by_label else None

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return getattr(_bare(self.function), "__name__", type(self.function).__name__)

    def to(self, device: torch.device) -> None:
        """Move class weights and whatever else the loss holds."""
        if isinstance(self.function, nn.Module):
            self.function.to(device)

    def __call__(self, output: Any, batch: Batch) -> tuple[Tensor, Weight]:
        """Return the loss of a batch, and its weight in the mean of the epoch."""
        if batch.weight is not None:
            return self._weighted(output, batch)
        value: Tensor = self.function(output, batch.y)
        if self._summed:
            return value, None
        if self.by_label:
            return value, self._weight_of_labels(output, batch.y)
        return value, output.numel() if self.by_element else batch.size

    def _weight_of_labels(self, output: Tensor, target: Tensor) -> float | Tensor:
        if target.is_floating_point():  # probabilities of classes: torch divides by their number, whatever the weights
            return output.numel() // output.shape[1 if output.ndim > 1 else 0]
        if self.class_weight is None:
            if self.ignore_index < 0 and _surely_not_negative(target):
                return target.numel()
            return torch.count_nonzero(self._counted(target))
        return self._label_weights(target).sum()

    def _label_weights(self, target: Tensor) -> Tensor:
        counted, weight = self._counted(target), self.class_weight
        return counted if weight is None else weight[target.where(counted, 0).long()] * counted

    def _counted(self, target: Tensor) -> Tensor:
        return target.long() != self.ignore_index  # as bytes, 156 would be -100

    def _weighted(self, output: Any, batch: Batch) -> tuple[Tensor, Weight]:
        each: Tensor = self._unreduced(output, batch.y)
        if each.ndim == 0 or len(each) != batch.weight.numel():
            raise MismatchError(
                f"The loss {self.name} gave {tuple(each.shape)} for {batch.weight.numel()} sample weights; "
                "it must give one loss per sample."
            )
        weight = batch.weight.to(each.dtype).reshape(-1, *(1,) * (each.ndim - 1))
        total = (each * weight).sum()
        if self._summed:
            return total, None
        labels = self.by_label and not batch.y.is_floating_point()
        divisor = (weight * (self._label_weights(batch.y) if labels else torch.ones_like(each))).sum()
        return total / divisor.clamp_min(torch.finfo(divisor.dtype).tiny), divisor.detach()

    @functools.cached_property
    def _unreduced(self) -> Callable[..., Any]:
        if isinstance(self.function, nn.Module) and hasattr(self.function, "reduction"):
            twin: Any = copy.copy(self.function)
            twin.reduction = "none"
            return twin  # type: ignore[no-any-return]
        if "reduction" in _parameters(self.function):
            return functools.partial(self.function, reduction="none")
        raise MismatchError(
            f"Batches with sample weights need one loss per sample, but {self.name} has no `reduction`. "
            "Use a loss of torch.nn, or give your function an argument reduction='mean' that also takes 'none'."
        )


def _works_as(function: Callable[..., Any], kinds: tuple[type[nn.Module], ...]) -> bool:
    # A subclass with a forward of its own may do anything
    return any(isinstance(function, kind) and type(function).forward is kind.forward for kind in kinds)


def _surely_not_negative(labels: Tensor) -> bool:
    # Only on the CPU, where there is no device to wait for, and reading costs less than the sums that it saves
    return labels.is_cpu and labels.numel() > 0 and bool(labels.min() >= 0)


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    return function.func if isinstance(function, functools.partial) else function


def _option(function: Callable[..., Any], name: str, default: Any) -> Any:
    if isinstance(function, functools.partial) and name in function.keywords:
        return function.keywords[name]
    return getattr(function, name, default)


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some builtins tell nothing
        return []
