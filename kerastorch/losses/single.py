"""One loss of a batch, and the weight it has in the mean of the epoch.

A mean over batches equals the mean over all data only if each batch weighs what the loss itself divided by: samples,
elements, labels that are not ignored, or sums of class and sample weights.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses.base import Objective, Term, Weight, cut
from kerastorch.tree import describe, surely_not_negative

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
_BINARY = ("BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits")


class Loss(Objective):
    """A loss function with the weight of each batch.

    Args:
        function: Called as `function(output, target)`, the order of `torch.nn`; gives one number.
        by_class: Weights of the samples `(C,)` by the class of their target; classes behind the last weigh 1.
    """

    def __init__(self, function: Callable[..., Any], by_class: Tensor | None = None) -> None:
        self.function = function
        self.by_class = by_class
        self.by_label = _works_as(function, _BY_LABEL) or _bare(function) in _BY_LABEL_FUNCTIONS
        self.by_element = _works_as(function, _BY_ELEMENT) or _bare(function) in _BY_ELEMENT_FUNCTIONS
        self.is_torch = (
            type(function).__module__.startswith("torch.nn") or _bare(function).__module__ == functional.__name__
        )
        self.ignore_index: int = _option(function, "ignore_index", -100)
        self._summed = _option(function, "reduction", "mean") == "sum"

    @property
    def class_weight(self) -> Tensor | None:
        """Weight of each class `(C,)`, where the function has them; moves with it from device to device."""
        if not self.by_label:
            return None
        buffers = getattr(self.function, "_buffers", {})  # in every step: Module.__getattr__ takes longer
        return buffers["weight"] if "weight" in buffers else _option(self.function, "weight", None)  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return getattr(_bare(self.function), "__name__", type(self.function).__name__)

    def to(self, device: torch.device) -> None:
        """Move class weights and whatever else the loss holds."""
        if isinstance(self.function, nn.Module):
            self.function.to(device)
        if self.by_class is not None:
            self.by_class = self.by_class.to(device)

    def terms(self, output: Any, batch: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Return the loss of a batch."""
        value, weight = self(output, batch)
        return value, (("loss", cut(value), weight),)

    def by_classes(self, weights: Tensor) -> Loss:
        """Return the same function with weights of classes."""
        return Loss(self.function, weights)

    def parts(self, output: Any, batch: Batch) -> Iterator[tuple[Loss, Any, Batch]]:
        """Yield this loss."""
        yield self, output, batch

    def __call__(self, output: Any, batch: Batch) -> tuple[Tensor, Weight]:
        """Return the loss of a batch, and its weight in the mean of the epoch."""
        if batch.weight is not None or self.by_class is not None:
            return self._weighted(output, batch)
        return self.function(output, batch.y), self._plain_weight(output, batch)

    def weights(self, output: Any, batch: Batch) -> Sequence[Weight]:
        """Return what a batch weighs in the mean of the epoch."""
        if batch.weight is None and self.by_class is None:
            return (self._plain_weight(output, batch),)
        with torch.no_grad():
            return (self._weighted(output, batch)[1],)

    def _plain_weight(self, output: Any, batch: Batch) -> Weight:
        if self._summed:
            return None
        if self.by_label:
            return self._weight_of_labels(output, batch.y)
        return output.numel() if self.by_element else batch.size

    def _weight_of_labels(self, output: Tensor, target: Tensor) -> float | Tensor:
        if target.is_floating_point():  # probabilities of classes: torch divides by their number, whatever the weights
            return output.numel() // output.shape[1 if output.ndim > 1 else 0]
        if self.class_weight is not None:
            return self._label_weights(target).sum()
        if self.ignore_index < 0 and surely_not_negative(target):
            return target.numel()
        return torch.count_nonzero(self._counted(target))

    def _label_weights(self, target: Tensor) -> Tensor:
        counted, weight = self._counted(target), self.class_weight
        return counted if weight is None else weight[target.where(counted, 0).long()] * counted

    def _counted(self, target: Tensor) -> Tensor:
        return target.long() != self.ignore_index  # as bytes, 156 would be -100

    def _weighted(self, output: Any, batch: Batch) -> tuple[Tensor, Weight]:
        each: Tensor = self._unreduced(output, batch.y)
        weight = self._factors(each, batch)
        total = (each * weight).sum()
        if self._summed:
            return total, None
        labels = self.by_label and not batch.y.is_floating_point()
        divisor = (weight * (self._label_weights(batch.y) if labels else torch.ones_like(each))).sum()
        return total / divisor.clamp_min(torch.finfo(divisor.dtype).tiny), divisor.detach()

    def _factors(self, each: Tensor, batch: Batch) -> Tensor:
        """Return what each value is multiplied with: the weight of its sample, and of its class."""
        if not isinstance(batch.weight, (Tensor, type(None))):
            raise MismatchError(
                f"The sample weights are {describe(batch.weight)}, one for each of several outputs, but there is one "
                f"loss, {self.name}. Pass a tensor (N,), or say loss={{name: ...}}."
            )
        count = batch.size if batch.weight is None else batch.weight.numel()
        if each.ndim == 0 or len(each) != count:
            weighted = "samples with class weights" if batch.weight is None else "sample weights"
            raise MismatchError(
                f"The loss {self.name} gave {tuple(each.shape)} for {count} {weighted}; "
                "it must give one loss per sample."
            )
        factors = torch.ones_like(each) if self.by_class is None else self._factors_by_class(each, batch.y)
        if batch.weight is None:
            return factors
        by_sample: Tensor = batch.weight.to(each.dtype).reshape(-1, *(1,) * (each.ndim - 1))
        return by_sample * factors

    def _factors_by_class(self, each: Tensor, target: Any) -> Tensor:
        classes = self.classes_in(target)
        if self.by_class is None or classes is None or classes.shape != each.shape:
            raise MismatchError(
                f"class_weight needs the class of each sample, as integers or one-hot; {self.name} gave losses of the "
                f"shape {tuple(each.shape)} for targets {describe(target)}. For other weights pass sample weights, as "
                "the third item of a batch."
            )
        factors = functional.pad(self.by_class, (0, 1), value=1.0).to(each.dtype)  # the last is that of the others
        counted = classes != self.ignore_index if self.by_label else torch.ones_like(classes, dtype=torch.bool)
        return factors[classes.where(counted, 0).clamp_max(len(factors) - 1)]

    def classes_in(self, target: Any) -> Tensor | None:
        """Return the class of each value of the loss, where the targets tell it."""
        if not isinstance(target, Tensor):
            return None
        if not target.is_floating_point():
            return target.long()
        if self.by_label and target.ndim > 1:  # probabilities, or one-hot
            return target.argmax(1)
        is_binary = self.name in _BINARY and (target.ndim != 2 or target.shape[1] == 1)  # (N, L) are L labels a sample
        return (target > 0.5).long() if is_binary else None

    @functools.cached_property
    def _unreduced(self) -> Callable[..., Any]:
        if isinstance(self.function, nn.Module) and hasattr(self.function, "reduction"):
            twin: Any = copy.copy(self.function)
            twin.reduction = "none"
            return twin  # type: ignore[no-any-return]
        if "reduction" in _parameters(self.function):
            return functools.partial(self.function, reduction="none")
        raise MismatchError(
            f"Sample and class weights need one loss per sample, but {self.name} has no `reduction`. "
            "Use a loss of torch.nn, or give your function an argument reduction='mean' that also takes 'none'."
        )


def _works_as(function: Callable[..., Any], kinds: tuple[type[nn.Module], ...]) -> bool:
    # A subclass with a forward of its own may do anything
    return any(isinstance(function, kind) and type(function).forward is kind.forward for kind in kinds)


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
