"""What a run of several processes needs, beside its strategy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kerastorch import randomness
from kerastorch.data import Batch
from kerastorch.hooks import Callback
from kerastorch.run import Run
from kerastorch.strategy import Group
from kerastorch.tree import tensors

_ELSEWHERE = ("logger", "display")  # stages that only the main process has


def of_this_process(callbacks: list[Any], run: Run) -> list[Any]:
    """Return the callbacks that this process calls; what is none of them is refused later."""
    return callbacks if run.strategy.is_main else [each for each in callbacks if _is_everywhere(each)]


def _is_everywhere(callback: Any) -> bool:
    if not isinstance(callback, Callback) or callback.everywhere is None:
        return getattr(callback, "stage", None) not in _ELSEWHERE
    return callback.everywhere


@contextmanager
def quiet(run: Run) -> Iterator[None]:
    """Let the main process alone warn of what all of them find."""
    if run.strategy.is_main:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def own_randomness(group: Group, seed: int | None) -> Iterator[None]:
    """Let each process draw numbers of its own, for Dropout and the like; in the end all have those of the main one.

    Args:
        group: The processes.
        seed: What they follow from; by default, the random numbers of the main process.
    """
    if group.size == 1:
        yield
        return
    shared = int(group.of_main(int(torch.randint(2**62, ())) if seed is None else seed))
    if not group.is_main:
        randomness.reseed(shared, group.rank)
    yield
    randomness.restore(group.of_main(randomness.capture()))


class Averaging:
    """In a train_step of the user's own: gradients of all processes become their mean while backward goes on.

    Such a step calls the net as it is, without DDP. Whatever comes after its `backward`, clipping or a step after some
    batches, finds the gradient of the whole batch. All processes must use the same parameters.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._share = 1.0
        self._handles: list[Any] = []
        self._known: list[int] = []

    def begin(self, batch: Batch) -> None:
        """Note what a batch counts, before the step; a filler counts nothing."""
        own = 0.0 if batch.is_filler else float(batch.size)
        self._share = own / (self._run.strategy.group.total([own])[0] or 1.0)
        if self._run.strategy.evaluates_together:  # FSDP adds gradients up by itself, as a mean
            self._share *= self._run.strategy.group.size
        watched = self._watched()
        if self._known != list(map(id, watched)):
            self.end()
            self._handles = [each.register_hook(self._average) for each in watched]  # type: ignore[no-untyped-call]
            self._known = list(map(id, watched))

    @contextmanager
    def ordinary(self) -> Iterator[None]:
        """The step that is not the user's own, inside it: it has shares of its own, of which this makes the mean."""
        before, self._share = self._share, 1.0 / self._run.strategy.group.size
        if self._run.strategy.evaluates_together:
            self._share = 1.0
        try:
            yield
        finally:
            self._share = before

    def end(self) -> None:
        """Let go of the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._known = [], []

    def outputs(self, module: Any, inputs: Any, output: Any) -> None:
        """A hook of a net under FSDP: what goes back into it is multiplied by what the batch counts."""
        for leaf in tensors(output) if torch.is_grad_enabled() else ():
            if leaf.requires_grad:
                leaf.register_hook(lambda gradient: gradient * self._share)  # type: ignore[no-untyped-call]

    def _watched(self) -> list[Tensor]:
        state = self._run.state
        if self._run.strategy.evaluates_together:
            return []
        optimizers = [*state.optimizers.values(), *([] if state.optimizer is None else [state.optimizer])]
        held = (each for one in optimizers for group in one.param_groups for each in group["params"])
        found = {id(each): each for each in (*state.module.parameters(), *held) if each.requires_grad}
        return list(found.values())

    def _average(self, gradient: Tensor) -> Tensor:
        shared = gradient * self._share
        self._run.strategy.group.add([shared])
        return shared


@contextmanager
def averaging(run: Run) -> Iterator[None]:
    """Let a train_step of the user's own train on the batches of all processes."""
    run.averaging = own = Averaging(run)
    handle = run.state.module.register_forward_hook(own.outputs) if run.strategy.evaluates_together else None
    try:
        yield
    finally:
        run.averaging = None
        own.end()
        if handle is not None:
            handle.remove()
