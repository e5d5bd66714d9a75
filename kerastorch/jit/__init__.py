"""The whole step of training as one compiled graph: `compile(jit_compile=True)`."""

from __future__ import annotations

from kerastorch.hooks import Hooks
from kerastorch.jit.train import Compiled, Step, TrainStep
from kerastorch.run import Run

__all__ = ["Compiled", "TrainStep", "compile_steps"]


def compile_steps(run: Run, hooks: Hooks, ordinary: Step, compiled: Compiled | None) -> Compiled:
    """Put compiled steps in the place of those of a run, as its plan says.

    Args:
        run: The run.
        hooks: Its callbacks.
        ordinary: Its step of training.
        compiled: What was kept of an earlier run of the same model; None for the first.

    Returns:
        What is to be kept for the next one.
    """
    kept = compiled or Compiled()
    if run.plan.jit_compile == "net":
        run.net = kept.compiled(run)
        return kept
    if run.trains:
        run.train_step = TrainStep(run, hooks, ordinary, kept)
    run.evaluate_step = kept.with_net(run, run.evaluate_step, "evaluate")
    run.predict_step = kept.with_net(run, run.predict_step, "predict")
    return kept
