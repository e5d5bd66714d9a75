"""What is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError

if TYPE_CHECKING:
    from kerastorch.losses.single import Loss

Weight = float | Tensor | None  # None: the losses of the batches are added, as reduction="sum" does
Term = tuple[str, Tensor, Weight]


class Objective(ABC):
    """One number for a batch, and the terms that its mean over an epoch is made of.

    Attributes:
        factors: Where the number is a sum of several losses: the name of each, and how often it counts.
    """

    factors: Mapping[str, float] | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in a message."""

    @abstractmethod
    def terms(self, output: Any, batch: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Return what to differentiate, and `(name, value, weight)` of each part, cut off the graph."""

    def weights(self, output: Any, batch: Batch) -> Sequence[Weight]:
        """Return what the terms of a batch weigh, without its loss: of the output only the shape counts."""
        return (batch.size,)

    def share(self, output: Any, batch: Batch, whole: Sequence[Weight]) -> tuple[Tensor, Sequence[Term]]:
        """Do what `terms` does for a part of a batch; what is to differentiate adds up to that of the batch.

        Args:
            output: What the net gave for the part.
            batch: The part.
            whole: What the terms of the whole batch weigh.
        """
        loss, terms = self.terms(output, batch)
        return scaled(loss, terms[0][2], whole[0]), terms

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move what it holds."""

    def by_classes(self, weights: Tensor) -> Objective:
        """Return the same with samples weighted by the class of their target.

        Raises:
            MismatchError: It has no one target.
        """
        raise MismatchError(
            f"class_weight is for one compiled loss that compares outputs with labels; here the loss is {self.name}. "
            "Give weights to each loss, such as nn.CrossEntropyLoss(weight=...), or compute with them."
        )

    def parts(self, output: Any, batch: Batch) -> Iterator[tuple[Loss, Any, Batch]]:
        """Yield each loss that compares an output with targets, and what it compares, for the check of a batch."""
        return iter(())

    def prediction(self, output: Any, target: Any) -> Any:
        """Return what metrics compare with the targets: here all that the net gave."""
        return output


def cut(value: Any) -> Any:
    """Cut a value off its graph."""
    return value.detach() if isinstance(value, Tensor) else value


def scaled(value: Tensor, weight: Weight, whole: Weight) -> Tensor:
    """Return the share of a part in the loss of its batch; nothing, where nothing in the batch counts."""
    if weight is None or whole is None:
        return value
    if isinstance(whole, Tensor):
        return value * torch.where(whole == 0, 0.0, weight / whole)
    return value * (weight / whole if whole else 0.0)
