"""Before the first step: clear errors for what cannot work. They look at the first batch only."""

from __future__ import annotations

import inspect
import warnings
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch.data.batch import Batch
from kerastorch.data.source import DataSource
from kerastorch.errors import DataError, MismatchError
from kerastorch.losses import Loss
from kerastorch.tree import describe


def first_batch(loss: Loss, output: Any, batch: Batch) -> None:
    """Compare the first output with its targets, as the loss will.

    Raises:
        MismatchError: They do not fit; the text says what to type.
    """
    if batch.y is None and loss.is_torch:
        raise MismatchError(
            f"The loss {loss.name} needs targets, but batch {batch.index} has none: {batch.describe()}. "
            "Batches are (x, y) or (x, y, sample_weight); whole tensors or arrays go into a tuple: fit(3, (x, y))."
        )
    if not isinstance(output, Tensor) or not isinstance(batch.y, Tensor):
        return
    target = batch.y
    if output.ndim and target.ndim and len(output) != len(target):
        raise MismatchError(f"The net gave {len(output)} outputs for {len(target)} targets: {_both(output, target)}.")
    if output.device != target.device:
        raise MismatchError(f"Output and target are on different devices: {_both(output, target)}.")
    if loss.by_label:
        _labels(loss, output, target)
    elif loss.by_element:
        _elements(loss, output, target)
    elif sorted((output.shape, target.shape)) == [(len(output),), (len(output), 1)] and len(output) > 1:
        warnings.warn(
            f"{_both(output, target)}: if the loss {loss.name} compares element by element, torch compares each with "
            "each. Type y[..., None], or output.squeeze(-1) at the end of forward.",
            stacklevel=2,
        )


_LONG = "Type y.long(), or y.astype('int64') for an array."
_FLOAT = "Type y.float(), or y.astype('float32') for an array."


def _or_probabilities(loss: Loss) -> str:
    return "" if loss.name in ("NLLLoss", "nll_loss") else ", or a probability for each class"


def _labels(loss: Loss, output: Tensor, target: Tensor) -> None:
    if output.ndim < 2:
        raise MismatchError(f"{loss.name} needs outputs (N, C) with a score for each class; got {describe(output)}.")
    expected = (output.shape[0], *output.shape[2:])
    classes = output.shape[1]
    if target.is_floating_point():
        if target.shape != output.shape or loss.name in ("NLLLoss", "nll_loss"):
            raise MismatchError(
                f"{loss.name} needs labels as int64{_or_probabilities(loss)}; got {_both(output, target)}. "
                f"If the targets are labels: {_LONG}"
            )
        return
    if tuple(target.shape) != expected:
        hint = " Type y.squeeze(1)." if tuple(target.shape) == (expected[0], 1, *expected[1:]) else ""
        hint = " One-hot labels: type y.argmax(1)." if target.shape == output.shape else hint
        raise MismatchError(f"{loss.name} needs labels of the shape {expected}; got {_both(output, target)}.{hint}")
    if target.dtype != torch.int64 and not (target.dtype == torch.uint8 and target.ndim == 1):  # as torch has it
        raise MismatchError(f"{loss.name} needs labels as int64; got {describe(target)}. {_LONG}")
    _range(loss, target, classes)


def _range(loss: Loss, target: Tensor, classes: int) -> None:
    target = target.long()  # as bytes, 156 would be -100
    labels = target[target != loss.ignore_index]
    if not labels.numel():
        return
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < classes:
        return
    hint = f"the last layer needs {high + 1} outputs"
    if low == 1 and high == classes:
        hint = "labels begin at 0: type y - 1"
    elif low < 0:
        hint = f"labels begin at 0; say ignore_index={low} if it marks what is not to be counted"
    raise MismatchError(
        f"The labels go from {low} to {high}, but the net has {classes} outputs, for labels 0 to {classes - 1}: {hint}."
    )


_PROBABILITIES = ("BCELoss", "binary_cross_entropy")
_LOGITS = ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits")


def _elements(loss: Loss, output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        hint = "Pad or crop one of them."
        if output.shape == (*target.shape, 1):
            hint = "Type y[..., None] for the targets, or output.squeeze(-1) at the end of forward."
        elif target.shape == (*output.shape, 1):
            hint = "Type y.squeeze(-1) for the targets."
        elif output.numel() == target.numel():
            hint = f"Type y.reshape({', '.join(map(str, (-1, *output.shape[1:])))})."
        raise MismatchError(
            f"{loss.name} compares element by element, so output and target need one shape; got "
            f"{_both(output, target)}. torch would compare each with each without a word. {hint}"
        )
    if not target.is_floating_point():
        raise MismatchError(f"{loss.name} needs targets of a floating dtype; got {describe(target)}. {_FLOAT}")
    if loss.name in _PROBABILITIES + _LOGITS:
        _within(
            target,
            "targets",
            loss.name,
            "Type y - 1 for labels 1 and 2, (y + 1) / 2 for -1 and 1; for more classes use 'cross_entropy'.",
        )
    if loss.name in _PROBABILITIES:
        _within(output, "outputs", loss.name, "These are logits: use loss='bce_with_logits'.")


def _within(values: Tensor, what: str, name: str, hint: str) -> None:
    if not values.numel():
        return
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise MismatchError(f"{name} needs {what} between 0 and 1; got {low:.3g} to {high:.3g}. {hint}")


def loss_value(value: Any, name: str, *, training: bool) -> None:
    """See that a loss is one number that can be trained on.

    Raises:
        MismatchError: It is not.
    """
    if not isinstance(value, Tensor) or value.ndim:
        got = describe(value) if isinstance(value, Tensor) else repr(value)
        hint = (
            " Type loss.mean(), or leave out reduction='none'."
            if isinstance(value, Tensor)
            else " Compute it with torch."
        )
        raise MismatchError(f"The loss {name} must be one number, a tensor without dimensions; got {got}.{hint}")
    if training and not value.requires_grad:
        raise MismatchError(
            f"The loss {name} does not depend on any trainable parameter. Is every parameter frozen "
            "(requires_grad=False), or does forward detach its output?"
        )


def epochs(count: Any, initial: Any) -> None:
    """See that there is an epoch to train.

    Raises:
        TypeError: `count` is no whole number; often the data were given first.
        ValueError: There is none.
    """
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise TypeError(
            f"epochs is a whole number and comes first: fit(3, dl_train, dl_val); got {type(count).__name__}."
        )
    if not 0 <= initial < count:
        raise ValueError(
            f"There is no epoch to train: epochs={count}, initial_epoch={initial}; epochs is where to end."
        )


def positive(**numbers: int | None) -> None:
    """See that what is given is at least 1.

    Raises:
        ValueError: It is not.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is at least 1; got {number}.")


def same_parameters(module: nn.Module, before: list[nn.Parameter]) -> None:
    """See that a net has no parameter that it did not have when its optimizer was built.

    Raises:
        MismatchError: It has, and that would not be trained.
    """
    known = {id(parameter) for parameter in before}
    new = [name for name, parameter in module.named_parameters() if id(parameter) not in known]
    if new:
        raise MismatchError(
            f"The net has new parameters, {new[0]} for one, which its optimizer does not know. "
            "Call model.compile(...) again after the last change of layers."
        )


def needs_no_closure(optimizer: Optimizer) -> None:
    """See that `optimizer.step()` can be called as it is.

    Raises:
        MismatchError: It needs a closure.
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise MismatchError(
            f"{type(optimizer).__name__} evaluates the loss several times a step, through a closure. "
            "Subclass kt.Model, override train_step(batch), and call self.optimizer.step(closure) there."
        )


def optimizer_fits(optimizer: Optimizer, module: nn.Module) -> None:
    """See that an optimizer trains parameters of this net, and warn where it holds others in place of some.

    Raises:
        MismatchError: It holds none of them.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in module.parameters()):
        raise MismatchError(
            f"The optimizer {type(optimizer).__name__} holds no parameter of this net, so nothing would be trained. "
            "Build it from model.parameters(), after the last change of layers."
        )
    own = {id(parameter): name for name, parameter in module.named_parameters() if parameter.requires_grad}
    left_out = [name for key, name in own.items() if key not in held]
    if left_out and held - {id(parameter) for parameter in module.parameters()}:
        warnings.warn(
            f"The optimizer does not train {left_out[0]}, but holds parameters that are not in the net. "
            "Were layers replaced after it was built? Then build it anew and compile again.",
            stacklevel=2,
        )


def enough_data(source: DataSource, epochs: int) -> None:
    """See that data for several epochs can be read more than once.

    Raises:
        DataError: A generator, or another iterator that has an end.
    """
    if source.one_shot and epochs > 1:
        raise DataError(
            f"{source.name} is a generator or iterator, which can be read once, but {epochs} epochs were asked for. "
            "Pass a list or a DataLoader, or say steps_per_epoch=."
        )


def _both(output: Any, target: Any) -> str:
    return f"output {describe(output)}, target {describe(target)}"
