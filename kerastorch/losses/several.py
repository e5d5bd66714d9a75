"""Several outputs, each with a loss of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch.data.batch import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses.base import Objective, Term, Weight, cut, scaled
from kerastorch.losses.single import Loss
from kerastorch.tree import describe, pick

Key = str | int


class SeveralLosses(Objective):
    """A sum of losses, one for each output that has one.

    Args:
        losses: By the name of the output, or by its place.
        factors: How often each counts in the sum.
    """

    factors: Mapping[str, float]

    def __init__(self, losses: Mapping[Key, Loss], factors: Mapping[Key, float]) -> None:
        self.losses = dict(losses)
        self.factors = {f"{label(key)}_loss": float(factors[key]) for key in self.losses}

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "{" + ", ".join(f"{key!r}: {loss.name}" for key, loss in self.losses.items()) + "}"

    def terms(self, output: Any, batch: Batch) -> tuple[Tensor, Sequence[Term]]:
        """Return the sum, and each loss as it is, uncounted."""
        return self.share(output, batch, (None,) * len(self.losses))

    def weights(self, output: Any, batch: Batch) -> Sequence[Weight]:
        """Return what each loss weighs."""
        return [loss.weights(part, share)[0] for loss, part, share in self.parts(output, batch)]

    def share(self, output: Any, batch: Batch, whole: Sequence[Weight]) -> tuple[Tensor, Sequence[Term]]:
        """Do what `terms` does for a part of a batch, in which each loss has a share of its own."""
        terms: list[Term] = []
        values: list[Tensor] = []
        parts, factors = self.parts(output, batch), self.factors.items()
        for (loss, part, share), (name, factor), total in zip(parts, factors, whole, strict=True):
            value, weight = loss(part, share)
            terms.append((name, cut(value), weight))
            value = scaled(value, weight, total)
            values.append(value if factor == 1 else value * factor)
        return sum(values[1:], values[0]), terms

    def parts(self, output: Any, batch: Batch) -> Iterator[tuple[Loss, Any, Batch]]:
        """Yield each loss with its output, targets and weights."""
        for key, loss in self.losses.items():
            yield loss, pick(output, key, "output"), part_of(batch, key)

    def to(self, device: torch.device) -> None:
        """Move every loss."""
        for loss in self.losses.values():
            loss.to(device)


def label(key: Key) -> str:
    """Return what the values of an output are called in the logs."""
    return key if isinstance(key, str) else f"output_{key}"


def part_of(batch: Batch, key: Key) -> Batch:
    """Return the batch with targets and weights of one output; a single tensor is for all of them."""
    return Batch(batch.index, batch.x, _share(batch.y, key, "target"), _share(batch.weight, key, "weight"), batch.size)


def _share(tree: Any, key: Key, what: str) -> Any:
    if not isinstance(tree, (Mapping, tuple, list)):
        return tree
    if isinstance(key, int) and isinstance(tree, Mapping):
        raise MismatchError(
            f"The losses are a list, but the {what}s are a dict: {describe(tree)}. Type loss={{name: ...}}, or make "
            f"the {what}s a tuple."
        )
    if what == "weight" and isinstance(tree, Mapping) and key not in tree:
        return None  # an output without weights
    return pick(tree, key, what)
