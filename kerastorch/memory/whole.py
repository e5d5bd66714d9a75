"""The loss of a batch of which only parts are there at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kerastorch.data import Batch
from kerastorch.losses import Objective, Term
from kerastorch.losses.base import Weight
from kerastorch.memory.cutting import cut
from kerastorch.metrics.forms import exact
from kerastorch.tree import map_leaves, tensors


class Group(Protocol):
    """Processes that train together."""

    size: int

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Make of tensors, in place, their sums over all processes."""


class Whole:
    """What the loss of a batch divides by: samples, elements, labels that count, or sums of weights.

    It must be known before the backward pass of the first part. So it is found by the shape of the output of one part,
    and the targets and weights of all.

    Args:
        batch: The whole batch.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._weights: list[Weight] = []

    @property
    def weight(self) -> Weight:
        """What the first loss divides by; known after the first `share`."""
        return self._weights[0]

    def share(self, objective: Objective, output: Any, part: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Return the share of a part in what is to differentiate, and its own terms."""
        if not self._weights:
            parts = cut(self.batch, part.size)
            each = [objective.weights(_resized(output, part.size, other.size), other) for other in parts]
            self._weights = [_added(list(column)) for column in zip(*each, strict=True)]
        return objective.share(output, part, self._weights)


class WholeOfAll:
    """The same where several processes each have a part: it is asked of all of them, in one message.

    So each of several losses has its own share, where one number for the part would not be right for all.

    Args:
        batch: The part of this process.
        group: The processes.

    Attributes:
        batch: The part of this process.
        weight: What the first loss divides by, in all processes; known after `share`.
    """

    def __init__(self, batch: Batch, group: Group) -> None:
        self.batch = batch
        self.weight: Weight = None
        self._group = group

    def share(self, objective: Objective, output: Any, part: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Return what is to differentiate here, where gradients become the mean of the processes, and its own terms."""
        own = objective.weights(output, part)
        device = next((leaf.device for leaf in tensors(output)), torch.device("cpu"))
        counts = torch.zeros(len(own), dtype=exact(device), device=device)
        for place, weight in enumerate(own):
            if weight is not None and not part.is_filler:
                counts[place] = weight
        self._group.add([counts])
        whole = [None if weight is None else count for weight, count in zip(own, counts, strict=True)]
        loss, terms = objective.share(output, part, whole)
        self.weight = whole[0]
        if part.is_filler:
            loss = loss * 0.0
        return loss if self.weight is None else loss * self._group.size, terms


def _added(weights: list[Any]) -> Weight:
    return None if weights[0] is None else sum(weights[1:], weights[0])


def _resized(output: Any, size: int, wanted: int) -> Any:
    """Return an output for another number of samples; its numbers mean nothing and take no memory."""

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) != size:
            return leaf
        return leaf.new_zeros(()).expand(wanted, *leaf.shape[1:])

    return map_leaves(of, output)
