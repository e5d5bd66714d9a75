"""Steps on a CUDA device, recorded once and replayed: one launch in place of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_WARM = 2  # steps before it is recorded, in which kernels and libraries get ready

Call = Callable[[list[Tensor]], Sequence[Any]]


class Replay:
    """A step as a CUDA graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).

    A graph reads and writes where it was recorded. So each batch is copied there; parameters, state and sums are the
    same tensors in every step. What it returns is overwritten by the next step. Where a step cannot be recorded, it is
    done as it was.

    Args:
        step: The compiled step; takes all its tensors in one list.
        places: Which of them belong to the batch.
    """

    def __init__(self, step: Call, places: Sequence[int]) -> None:
        self._step = step
        self._places = list(places)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results: Sequence[Any] = ()

    def __call__(self, tensors: list[Tensor]) -> Sequence[Any]:
        """Do a step."""
        self._calls += 1
        if self._calls <= _WARM:
            return self._aside(tensors)
        if self._graph is None and self._calls == _WARM + 1:
            self._record(tensors)
        if self._graph is None:
            return self._step(tensors)
        for place, held in zip(self._places, self._inputs, strict=True):
            held.copy_(tensors[place], non_blocking=True)
        self._graph.replay()
        return self._results

    def _aside(self, tensors: list[Tensor]) -> Sequence[Any]:
        """Do a step in a stream of its own, as is asked for before a recording."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            results = self._step(tensors)
        here.wait_stream(aside)
        return results

    def _record(self, tensors: list[Tensor]) -> None:
        given = list(tensors)
        self._inputs = [tensors[place].clone() for place in self._places]
        for place, held in zip(self._places, self._inputs, strict=True):
            given[place] = held
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._results = self._step(given)
        except RuntimeError:  # something in it waits for the device; nothing was executed
            self._inputs = []
            return
        self._graph = graph
