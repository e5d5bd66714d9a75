"""What the loss tells a metric."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Outputs = Literal["logits", "probabilities", "log_probabilities"]
AnyMetric = TypeVar("AnyMetric")


@dataclass(frozen=True)
class Task:
    """What the loss tells of outputs and targets.

    Attributes:
        outputs: What the net gives; None where nobody knows.
        labels: True: targets are labels, and dimension 1 of the output holds a score for each class. False: output and
            target are compared element by element. None: nobody knows.
        ignore_index: A label that is not counted.
    """

    outputs: Outputs | None = None
    labels: bool | None = None
    ignore_index: int | None = None

    @property
    def threshold(self) -> float:
        """What separates 0 from 1 where outputs are compared element by element: the probability 0.5."""
        if self.labels or self.outputs is None:
            return 0.5
        return {"logits": 0.0, "probabilities": 0.5, "log_probabilities": math.log(0.5)}[self.outputs]


def filled(metric: AnyMetric, **told: Any) -> AnyMetric:
    """Return a copy of a metric with the attributes told, where they were None."""
    twin = copy.copy(metric)
    for name, value in told.items():
        if getattr(twin, name) is None:
            setattr(twin, name, value)
    return twin
