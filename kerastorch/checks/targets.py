"""What the loss compares: outputs and targets of the first batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.errors import DataError, MismatchError, did_you_mean
from kerastorch.losses import Loss, Objective, SeveralLosses
from kerastorch.tree import describe, leaves, tensors


def first_batch(objective: Objective, output: Any, batch: Batch) -> None:
    """Compare the first output with its targets, as the loss will.

    Raises:
        MismatchError: They do not fit; the text says what to type.
    """
    if isinstance(objective, SeveralLosses) and isinstance(batch.weight, Mapping):
        _weights_are_of_outputs(objective, output, batch.weight)
    for loss, part, share in objective.parts(output, batch):
        _compare(loss, part, share)


def _weights_are_of_outputs(objective: SeveralLosses, output: Any, weight: Mapping[Any, Any]) -> None:
    known = [*objective.losses, *(output if isinstance(output, Mapping) else ())]
    for key in weight:
        if key not in known:
            names = ", ".join(dict.fromkeys(map(repr, known)))
            raise MismatchError(
                f"There are sample weights for {key!r}, which is no output.{did_you_mean(str(key), map(str, known))} "
                f"There are {names}."
            )


def _compare(loss: Loss, output: Any, batch: Batch) -> None:
    if loss.is_torch:
        _are_tensors(loss, output, batch)
    if not isinstance(output, Tensor) or not isinstance(batch.y, Tensor):
        return
    target = batch.y
    if output.ndim and target.ndim and len(output) != len(target):
        raise MismatchError(
            f"The net gave {len(output)} outputs for {len(target)} targets: {_both(output, target)}. Dimension 0 of "
            "both is the samples; to flatten the others in forward, type x.flatten(1)."
        )
    if output.device != target.device:
        raise MismatchError(
            f"Output and target are on different devices: {_both(output, target)}. The model moves the net and all "
            "batches: take away what moves them by hand, such as .cuda() or .to(...)."
        )
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


def _are_tensors(loss: Loss, output: Any, batch: Batch) -> None:
    if batch.y is None:
        raise MismatchError(
            f"The loss {loss.name} needs targets, but batch {batch.index} has none: {batch.describe()}. "
            "Batches are (x, y) or (x, y, sample_weight); whole tensors or arrays go into a tuple: fit(3, (x, y))."
        )
    if not isinstance(output, Tensor):
        raise MismatchError(_several_outputs(loss, output))
    if not isinstance(batch.y, Tensor):
        raise MismatchError(_no_tensor(loss, batch))


def _several_outputs(loss: Loss, output: Any) -> str:
    got = f"The loss {loss.name} compares one tensor with targets, but the net gave {describe(output)}."
    if isinstance(output, Mapping):
        first = next(iter(output), "name")
        hint = " A net that returns its own loss needs none: leave out loss." if "loss" in output else ""
        return f"{got} Say which loss is for which output: loss={{{first!r}: {loss.name!r}}}.{hint}"
    if isinstance(output, (tuple, list)):
        rest = ", None" * (len(output) - 1)
        return f"{got} Give each output its loss, or None: loss=[{loss.name!r}{rest}]."
    return f"{got} Return a tensor from forward, or a dict of them."


def _no_tensor(loss: Loss, batch: Batch) -> str:
    got = f"The loss {loss.name} compares with one tensor, but the targets of batch {batch.index} are"
    if isinstance(batch.y, Mapping):
        return f"{got} {describe(batch.y)}. Say which loss is for which output: loss={{name: {loss.name!r}}}."
    if any(isinstance(leaf, str) for leaf in leaves(batch.y)):
        return f"{got} text. Number the classes: {{name: number for number, name in enumerate(sorted(set(names)))}}."
    return f"{got} {describe(batch.y)}. Make them a tensor: torch.tensor(y)."


_LONG = "Type y.long(), or y.astype('int64') for an array."
_FLOAT = "Type y.float(), or y.astype('float32') for an array."


def _or_probabilities(loss: Loss) -> str:
    return "" if loss.name in ("NLLLoss", "nll_loss") else ", or a probability for each class"


def _labels(loss: Loss, output: Tensor, target: Tensor) -> None:
    if output.ndim < 2:
        raise MismatchError(f"{loss.name} needs outputs (N, C) with a score for each class; got {describe(output)}.")
    expected = (output.shape[0], *output.shape[2:])
    classes = output.shape[1]
    if loss.by_class is not None and len(loss.by_class) > classes:
        raise MismatchError(
            f"class_weight weighs {len(loss.by_class)} classes, labels 0 to {len(loss.by_class) - 1}, but the net has "
            f"{classes} outputs."
        )
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
        if target.shape == output.shape[:-1]:
            hint = " The scores of the classes belong in dimension 1: end forward with output.movedim(-1, 1)."
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
    low, high = (float(each) for each in values.detach().aminmax())
    if low < 0 or high > 1:
        raise MismatchError(f"{name} needs {what} between 0 and 1; got {low:.3g} to {high:.3g}. {hint}")


def nothing_missing(value: Tensor, batch: Batch) -> None:
    """See that a loss that is NaN does not come from NaN in the data, which would spoil every weight.

    Raises:
        DataError: It does.
    """
    if value.isfinite():
        return
    for what, tree in (("inputs", batch.x), ("targets", batch.y), ("sample weights", batch.weight)):
        for tensor in tensors(tree):
            strange = 0 if not tensor.is_floating_point() else int((~tensor.isfinite()).sum())
            if strange:
                raise DataError(
                    f"The first loss is {value.item():.3g}, and the {what} hold {strange} values that are NaN or "
                    f"infinite, of {tensor.numel()} in batch {batch.index}. Type torch.nan_to_num(x), or fillna(...) "
                    "or dropna() for a data frame."
                )


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
            "(requires_grad=False; type model.unfreeze()), or does forward detach its output?"
        )


def _both(output: Any, target: Any) -> str:
    return f"output {describe(output)}, target {describe(target)}"
