"""Losses that are computed elsewhere: by the net itself, or by the user's own method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses.base import Objective, Term, Weight, cut
from kerastorch.tree import describe

_UNCOUNTED = -100  # the label that torch's losses leave out


class OutputLoss(Objective):
    """The loss that the net returns: `output.loss`, `output["loss"]`, the first of a tuple, or a single number.

    A batch weighs as many as it has labels other than -100, where the batch is a dict with integer `"labels"`; else as
    many as it has samples.
    """

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "that the net returns"

    def terms(self, output: Any, batch: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Return the net's loss."""
        loss = _loss_in(output)
        if loss is None:
            raise MismatchError(_no_loss(output, batch))
        return loss, (("loss", cut(loss), _weight(batch)),)

    def weights(self, output: Any, batch: Batch) -> Sequence[Weight]:
        """Return what a batch weighs in the mean of the epoch."""
        return (_weight(batch),)

    def to(self, device: torch.device) -> None:
        """Hold nothing."""

    def prediction(self, output: Any, target: Any) -> Any:
        """Return the net's `logits`, where it names them or they follow the loss; scores of classes in dimension 1."""
        if isinstance(output, tuple) and not hasattr(output, "_fields") and len(output) > 1:
            output = output[1]
        logits = _field(output, "logits")
        output = output if logits is None else logits
        if isinstance(output, Tensor) and isinstance(target, Tensor) and output.ndim > 2:
            # Language models keep the classes last, torch's losses and our metrics have them in dimension 1
            return output.movedim(-1, 1) if output.shape[:-1] == target.shape else output
        return output


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _loss_in(output: Any) -> Any:
    if isinstance(output, Tensor):
        return None if output.ndim else output
    loss = _field(output, "loss")
    if loss is None and isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return None if output[0].ndim else output[0]
    return loss


def _weight(batch: Batch) -> Weight:
    labels = batch.y
    if isinstance(batch.x, Mapping) and isinstance(labels, Tensor) and not labels.is_floating_point():
        return torch.count_nonzero(labels != _UNCOUNTED)
    return batch.size


def _no_loss(output: Any, batch: Batch) -> str:
    got = f"the net gave {describe(output)}"
    if hasattr(output, "loss") or (isinstance(output, Mapping) and "loss" in output):
        return (
            f"No loss was compiled, so the net must return one; {got} with no loss in it. Such nets compute it from "
            f"labels: a batch is a dict with 'labels'. Batch {batch.index} is {batch.describe()}."
        )
    return (
        f"No loss was compiled, so the net must return one, as output.loss or output['loss']; {got}. "
        "Type model.compile(loss='cross_entropy'), or whatever fits."
    )


class ComputedLoss(Objective):
    """What a method of the user's own computes from batch and output.

    Args:
        function: Called as `function(batch, output)`; gives the loss, or `{"loss": ..., name: ...}` to log more. Each
            is a mean over the batch, and weighs as many as the batch has samples.
        origin: What is compiled; tells what metrics see.
    """

    def __init__(self, function: Callable[[Batch, Any], Any], origin: Objective) -> None:
        self.function = function
        self.origin = origin

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "of compute_loss"

    def terms(self, output: Any, batch: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Call the function."""
        values = self.function(batch, output)
        if not isinstance(values, Mapping):
            values = {"loss": values}
        if "loss" not in values:
            raise MismatchError(
                f"compute_loss must return a loss, or a dict with 'loss'; got a dict of {', '.join(map(repr, values))}."
            )
        named = [(name, cut(value), batch.size) for name, value in values.items()]
        return values["loss"], sorted(named, key=lambda term: term[0] != "loss")

    def to(self, device: torch.device) -> None:
        """Move what is compiled."""
        self.origin.to(device)

    def prediction(self, output: Any, target: Any) -> Any:
        """Return what metrics would see without the method."""
        return self.origin.prediction(output, target)
