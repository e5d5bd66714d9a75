"""A step of training as one compiled graph, where that is possible and faster."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from kerastorch import guard, isolate
from kerastorch.binding import bind
from kerastorch.data import Batch
from kerastorch.hooks import Hooks
from kerastorch.jit.capture import Capture, Refused
from kerastorch.jit.contest import Contest
from kerastorch.jit.forms import Form, form
from kerastorch.jit.net import Contests, NetStep
from kerastorch.jit.ready import Ready
from kerastorch.losses import OutputLoss
from kerastorch.metrics.base import Rows
from kerastorch.run import Run

_MOST = 4  # graphs for one form: with and without metrics, with frozen layers and without
_LONGEST = 200  # characters of somebody else's error

Step = Callable[[Batch], None]


@dataclass
class Compiled:
    """What is kept of compiled steps from one call of a model to the next.

    Attributes:
        key: The objects that `capture` is for.
        capture: Takes down what happens to a batch.
        measures: Whether metrics are a part of the graph.
        refusal: Why there is no such step.
        contests: Whether the graph is faster than the ordinary step.
        built: How many graphs were made for a form.
        of_net: By call, whether the net compiled alone is faster.
        net: The net compiled alone.
    """

    key: tuple[Any, ...] = ()
    capture: Capture | None = None
    measures: bool = True
    refusal: str | None = None
    contests: Contests = field(default_factory=lambda: Contests(first=1))
    built: defaultdict[Any, int] = field(default_factory=lambda: defaultdict(int))
    of_net: defaultdict[str, Contests] = field(default_factory=lambda: defaultdict(Contests))
    net: Any = None

    def with_net(self, run: Run, ordinary: Callable[[Batch], Any], name: str) -> Callable[[Batch], Any]:
        """Return a step that calls the net compiled, where that is faster."""
        return NetStep(run, ordinary, self.compiled(run), self.of_net[name])

    def compiled(self, run: Run) -> Any:
        """Return the net compiled."""
        if self.net is None or self.net._orig_mod is not run.state.module:
            self.net = torch.compile(run.state.module)
        return self.net


class TrainStep:
    """Trains on a batch by one graph: forward, loss, backward, clipping, update, sums.

    The first batch of a `fit`, and forms of batches that are rare, are left to the ordinary step. So is a batch whose
    loss is not finite: the graph has changed nothing then.

    Args:
        run: What it works with.
        hooks: Whose callbacks may change the net, or look at gradients.
        ordinary: The ordinary step.
        compiled: What is kept from one `fit` to the next.
    """

    def __init__(self, run: Run, hooks: Hooks, ordinary: Step, compiled: Compiled) -> None:
        self._run, self._ordinary, self._compiled = run, ordinary, compiled
        self._ready: dict[Form, Ready] = {}
        self._has_begun = False
        self._watches = any(_is_foreign(callback) for callback in hooks.callbacks)
        self._refusal: str | None = None
        reason = _refusal(run, hooks) or compiled.refusal
        if reason is not None:
            self._give_up(reason)

    def __call__(self, batch: Batch) -> None:
        """Train on a batch."""
        known = self._compiled
        if self._refusal is not None or not self._has_begun:
            self._has_begun = True  # the first batch is checked, and makes the state of the optimizer
            self._ordinary(batch)
            return
        key = form(batch)
        contest = known.contests.of(key, self._run)
        if key is None or contest is None or contest.winner == 0:
            self._ordinary(batch)
        elif contest.winner is None:
            contest.run((self._ordinary, lambda each: self._by_graph(key, each)), batch)
            if contest.winner == 0:
                self._tell(contest)
        else:
            self._by_graph(key, batch)

    def _by_graph(self, key: Form, batch: Batch) -> None:
        ready = self._ready.get(key)
        if ready is None or self._watches or not ready.holds:
            ready = self._prepared(key, batch)
        if ready is None:
            self._ordinary(batch)
            return
        run, metrics = self._run, self._run.state.metrics
        results = ready(batch)
        if not guard.looks_first(run):
            guard.look_later(run, batch, "loss", results[0])
        elif not math.isfinite(results[0].item()):
            self._ordinary(batch)  # which says what is wrong, or that nothing is
            return
        run.state.step += 1
        if self._compiled.measures:
            ready.count(batch.size)
            return
        ready.count(0)
        seen, objective = ready.seen(results), run.train_loss or run.loss
        metrics.update((), seen, batch, None if objective is None else objective.prediction(seen, batch.y))

    def _prepared(self, key: Form, batch: Batch) -> Ready | None:
        """See that all is as it was, and gather what the graph works with; compile it if need be."""
        try:
            self._ready[key] = self._taken(batch)
        except Refused as error:
            self._give_up(str(error))
            self._compiled.refusal = self._refusal
        except Exception as error:  # whatever a compiler may come upon: the ordinary step does without it
            self._give_up(_first_line(error), of_compiler=True)
            self._compiled.refusal = self._refusal
        return None if self._refusal is not None else self._ready[key]

    def _taken(self, batch: Batch) -> Ready:
        run, known = self._run, self._compiled
        objective = run.train_loss or run.loss
        key = (run.state.module, objective, run.state.metrics)
        if known.capture is None or any(a is not b for a, b in zip(known.key, key, strict=True)):
            known.key, known.measures, known.capture = key, True, self._capture(batch, measures=True)

        def made() -> Ready:
            assert known.capture is not None
            taken = known.capture(batch)
            if taken.program.built is None:
                known.built[form(batch)] += 1
                if known.built[form(batch)] > _MOST:
                    raise Refused("something in Python changes again and again; what changes belongs into a buffer")
            if any(isinstance(part, Rows) for adds in taken.parts.values() for part in adds):
                raise Refused("a metric keeps rows")
            return Ready(taken, batch, run)

        with isolate.random_state_kept():
            try:
                return made()
            except Exception:
                if not known.measures or not run.state.metrics.metrics:
                    raise
            known.measures, known.capture = False, self._capture(batch, measures=False)
            return made()

    def _capture(self, batch: Batch, *, measures: bool) -> Capture:
        run = self._run
        module, objective = run.state.module, run.train_loss or run.loss
        assert objective is not None
        call = bind(module, batch.x, labels=isinstance(run.loss, OutputLoss))
        metrics = run.state.metrics.metrics if measures else {}
        return Capture(module, call, objective, metrics, run.strategy)

    def _give_up(self, reason: str, *, of_compiler: bool = False) -> None:
        self._refusal = reason
        instead = "The ordinary step is used" if of_compiler else "The net alone is compiled, if that is faster"
        self._run.say(f"jit_compile: the step is not one graph, as {reason}. {instead}.")
        if not of_compiler:
            self._ordinary = self._compiled.with_net(self._run, self._ordinary, "train")

    def _tell(self, contest: Contest) -> None:
        ordinary, graph = (f"{1000 * seconds:.3g} ms" for seconds in contest.best)
        self._run.say(f"jit_compile: the ordinary step is faster here, {ordinary} against {graph}, and is kept.")


def _refusal(run: Run, hooks: Hooks) -> str | None:
    """Say why a step of this run cannot be one graph; None if nothing speaks against it so far."""
    plan = run.plan
    if run.has_own_step:
        return "train_step is your own"
    if plan.accumulate > 1:
        return f"accumulate={plan.accumulate} gathers gradients"
    if run.splitter is not None:
        return "microbatch splits batches"
    if plan.precision == "16-mixed":
        return "precision='16-mixed' looks at the gradients of each step"
    if plan.recomputed:
        return "gradient_checkpointing computes parts of the net twice"
    listener = hooks.listener("on_optimizer_step_begin")
    return None if listener is None else f"{listener} looks at gradients"


def _is_foreign(callback: Any) -> bool:
    """Whether a callback may change what the graph takes for granted in any batch."""
    kind = type(callback)
    return kind.__module__.partition(".")[0] != "kerastorch" or kind.__name__ in ("BatchTransform", "LambdaCallback")


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__} came up: {text[:_LONGEST]}"
