"""The loss of a batch of which only parts are there at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kerastorch.data import Batch
from kerastorch.losses import Objective, Term
from kerastorch.losses.base import Weight
from kerastorch.memory.cutting import cut
from kerastorch.tree import map_leaves


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


def _added(weights: list[Any]) -> Weight:
    return None if weights[0] is None else sum(weights[1:], weights[0])


def _resized(output: Any, size: int, wanted: int) -> Any:
    """Return an output for another number of samples; its numbers mean nothing and take no memory."""

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) != size:
            return leaf
        return leaf.new_zeros(()).expand(wanted, *leaf.shape[1:])

    return map_leaves(of, output)
