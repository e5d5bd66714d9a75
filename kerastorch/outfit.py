"""What a run is fitted out with, beside its callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from kerastorch import several
from kerastorch.errors import DistributedError
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.keeper import OptimizerKeeper
from kerastorch.run import Run


@contextmanager
def around(run: Run) -> Iterator[None]:
    """Do to the net what holds for the time of a training."""
    with ExitStack() as stack:
        if run.plan.recomputed:
            from kerastorch.recompute import recomputed

            stack.enter_context(recomputed(run.state.module, run.plan.recomputed))
        if run.strategy.group.size > 1:
            stack.enter_context(several.quiet(run))
            stack.enter_context(
                run.strategy.around(run.state.module, lambda: not (run.current and run.current.is_filler))
            )
            if run.has_own_step:
                stack.enter_context(several.averaging(run))
        yield


def split(run: Run, microbatch: int | Literal["auto"] | None) -> None:
    """Let batches be worked off in parts where memory does not suffice.

    Raises:
        DistributedError: Several processes would not have as many parts.
    """
    if run.strategy.group.size > 1:
        if microbatch is not None:
            raise DistributedError(
                f"microbatch={microbatch!r} is for one process. Say a smaller batch_size and accumulate=... in compile."
            )
        return
    from kerastorch.memory import Splitter  # here and not above, so that `import kerastorch` is quick

    run.splitter = Splitter(microbatch) if microbatch is not None else None
    run.val_splitter = Splitter(microbatch or "auto")  # in evaluation mode the numbers are the same


class Thawing(Callback):
    """Lets what other callbacks unfreeze be trained from the next epoch on."""

    stage: Stage = "weights"  # after the others

    def __init__(self, keeper: OptimizerKeeper) -> None:
        self._keeper = keeper

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Look for it."""
        self._keeper.thaw(self.run.state)
