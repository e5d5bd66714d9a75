"""Outputs of many batches, joined as they come."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from kerastorch.tree import concatenate


class Gathered:
    """Joins the outputs of batches along dimension 0, as `tree.concatenate` does, without holding them twice.

    Where each is a tensor, and the number of samples is known, each is written to its place in one tensor. All else is
    kept, and joined at the end: nested outputs, other shapes or dtypes than before, more rows than were promised.

    Args:
        samples: How many rows there will be in all; None where nobody knows.
    """

    def __init__(self, samples: int | None = None) -> None:
        self._samples = samples
        self._whole: Tensor | None = None
        self._filled = 0
        self._sizes: list[int] = []
        self._others: list[Any] = []
        self._fillers = 0

    def __len__(self) -> int:
        return self._filled + len(self._others) + self._fillers

    def add(self, output: Any, *, is_filler: bool = False) -> None:
        """Take in the output of a batch; that of a filler is left out."""
        if is_filler:
            self._fillers += 1
            return
        if not self._filled and not self._others and self._is_first_of_several(output):
            self._whole = output.new_empty((self._samples, *output.shape[1:]))
        if self._whole is None or self._others or not self._fits(output, self._whole):
            self._others.append(output)
            return
        self._whole[self._filled : self._filled + len(output)] = output
        self._filled += len(output)
        self._sizes.append(len(output))

    def _is_first_of_several(self, output: Any) -> bool:
        is_plain = type(output) is Tensor and output.ndim > 0 and not output.requires_grad
        return is_plain and self._samples is not None and 0 < len(output) < self._samples and output.is_contiguous()

    def _fits(self, output: Any, whole: Tensor) -> bool:
        if type(output) is not Tensor or output.ndim != whole.ndim or output.requires_grad:
            return False
        is_alike = output.shape[1:] == whole.shape[1:] and output.dtype == whole.dtype
        return is_alike and output.device == whole.device and self._filled + len(output) <= len(whole)

    def result(self, everyone: Callable[[Any], list[Any]] | None = None) -> Any:
        """Return all rows.

        Args:
            everyone: Returns a value of every process, by rank. Then the rows are those of all processes, which had a
                batch each in a step, and each process gets all of them.

        Raises:
            DataError: The outputs cannot be joined.
            IndexError: There are none.
        """
        if everyone is not None:
            whole = self._whole
            if whole is not None and self._filled < len(whole):
                whole = whole[: self._filled].clone()  # what is left over is not sent
            return concatenate(_in_turns([_batches(*each) for each in everyone((whole, self._sizes, self._others))]))
        whole = self._whole
        if whole is None:
            return concatenate(self._others)
        if self._others:
            return concatenate([whole[: self._filled], *self._others])
        return whole if self._filled == len(whole) else whole[: self._filled].clone()  # what is left over is let go


_NONE = object()


def _batches(whole: Tensor | None, sizes: list[int], others: list[Any]) -> list[Any]:
    return [*(() if whole is None else torch.split(whole, sizes)), *others]


def _in_turns(processes: list[list[Any]]) -> list[Any]:
    """Return the first batch of each process, the second of each, and so on."""
    steps = zip_longest(*processes, fillvalue=_NONE)
    return [output for step in steps for output in step if output is not _NONE]
