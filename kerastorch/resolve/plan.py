"""How a step is made: what `compile` was told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

JitCompile = bool | Literal["net"]


@dataclass(frozen=True)
class Plan:
    """How a step is made; the names are those of `compile`.

    Attributes:
        accumulate: Batches whose gradients make one step of the optimizer.
        clip_norm: The largest norm of all gradients together; None for any.
        clip_value: The largest absolute value of a gradient; None for any.
        precision: The dtype that is computed in.
        channels_last: Whether images lie channel by channel in memory, or pixel by pixel.
        gradient_checkpointing: Patterns of names of modules whose activations are computed again in the backward pass.
        jit_compile: Whether the whole step, or the `"net"` alone, is compiled.

    Raises:
        ValueError: A number is out of its range, or `jit_compile` is something else.
        TypeError: A pattern is no text.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    precision: str = "32-true"
    channels_last: bool = False
    gradient_checkpointing: str | Sequence[str] | None = None
    jit_compile: JitCompile = False

    def __post_init__(self) -> None:
        if not _is_number(self.accumulate, Integral) or self.accumulate < 1:
            raise ValueError(f"accumulate is a number of batches, 1 or more; got {self.accumulate!r}.")
        for name in ("clip_norm", "clip_value"):
            limit = getattr(self, name)
            if limit is not None and not (_is_number(limit, Real) and 0 < limit < math.inf):
                raise ValueError(f"{name} is a number above 0, or None; got {limit!r}.")
        if self.jit_compile not in (True, False, "net"):
            raise ValueError(
                "jit_compile is True for the whole step as one graph, 'net' for the net alone, or False; "
                f"got {self.jit_compile!r}."
            )
        if not all(isinstance(pattern, str) for pattern in self.recomputed):
            raise TypeError(
                "gradient_checkpointing is a pattern of names of modules, such as 'blocks.*', or a list of them; got "
                f"{self.gradient_checkpointing!r}."
            )

    @property
    def recomputed(self) -> tuple[Any, ...]:
        """The patterns of modules that are computed again."""
        given = self.gradient_checkpointing
        if given is None:
            return ()
        return (given,) if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
