"""The parts of a run, put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from kerastorch import guard, isolate, outfit, resolve, several, step, window
from kerastorch.callbacks import DeviceTransfer
from kerastorch.data import Batch
from kerastorch.data.batch import unpack
from kerastorch.data.share import Share
from kerastorch.display import Verbose, display
from kerastorch.errors import BusyError, DistributedError, MismatchError, NotCompiledError
from kerastorch.feed import Feed, float_dtype
from kerastorch.hooks import Callback, Hooks
from kerastorch.keeper import OptimizerKeeper
from kerastorch.losses import ComputedLoss, Objective
from kerastorch.metrics import MetricSet
from kerastorch.resolve import Plan, Recipe
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.strategy import Strategy
from kerastorch.strategy.choice import chosen
from kerastorch.wrapper import Wrapper


class Session:
    """What a model keeps from one call to the next.

    Args:
        model: What is trained, and handed to the callbacks.
        base: The class whose steps are the ordinary ones; others are the user's own.

    Attributes:
        recipe: What `compile` was given; None before.
        running: The present run, with its callbacks.
    """

    def __init__(self, model: Wrapper, base: type) -> None:
        self.recipe: Recipe | None = None
        self.running: tuple[Run, Hooks] | None = None
        self._model = model
        self._base = base
        self._strategy: Strategy | None = None
        self._state: TrainState | None = None
        self._keeper = OptimizerKeeper(None, model)
        self._fit: Run | None = None
        self._compiled: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy made in the middle of fit is not in the middle
        return {**vars(self), "running": None, "_fit": None, "_compiled": None}

    def compile(self, recipe: Recipe) -> None:
        """Begin with a new optimizer."""
        self._refuse_inside_fit("compile")
        self._strategy = chosen(recipe.strategy, recipe.plan, resolve.device(recipe.device))
        self.recipe = recipe
        self._state = self._compiled = None
        self._keeper = OptimizerKeeper(recipe.optimizer, self._model)

    @property
    def strategy(self) -> Strategy:
        """How a step runs; without `compile`, that of a net which is only used."""
        if self._strategy is None:
            self._strategy = chosen(None, Plan(), resolve.device("auto"))
        return self._strategy

    @property
    def share(self) -> Share:
        """The part of the data that this process has."""
        group = self.strategy.group
        return Share(group.rank, group.size, group.everyone)

    def refuse_several(self, what: str, advice: str) -> None:
        """See that this process is alone.

        Raises:
            DistributedError: It is not.
        """
        size = self.strategy.group.size
        if size > 1:
            raise DistributedError(f"{what} is for one process, and this is one of {size}. {advice}")

    def compiled(self, what: str) -> Recipe:
        """Return the recipe.

        Raises:
            NotCompiledError: There is none.
        """
        if self.recipe is None:
            own = self.own_step("train_step") is not None
            needed = "model.compile()" if own else "a loss"
            arguments = "" if own else "loss=..., optimizer=..., metrics=..."
            raise NotCompiledError(f"{what} needs {needed}. First type model.compile({arguments}).")
        return self.recipe

    def present(self, what: str) -> tuple[Run, Hooks]:
        """Return the present run.

        Raises:
            NotCompiledError: There is none.
        """
        if self.running is None:
            raise NotCompiledError(f"{what} is a part of fit and evaluate; for one batch type train_on_batch(x, y).")
        return self.running

    def stops(self, *, whole_fit: bool) -> bool:
        """Whether the running `fit` is about to end, or else what is running inside it or by itself."""
        running = self._fit if whole_fit or self.running is None else self.running[0]
        return running is not None and running.stop_reason is not None

    def stop(self, reason: str) -> None:
        """End the running `fit`, if there is one, also out of an evaluation inside it."""
        if self._fit is not None:
            self._fit.stop(reason)

    @property
    def loss(self) -> Objective | None:
        """What is minimised: what was compiled, or the user's own `compute_loss`."""
        own = self.own_step("compute_loss")
        compiled = None if self.recipe is None else self.recipe.loss
        return compiled if own is None or compiled is None else ComputedLoss(own, compiled)

    def _weighted(self, by_class: Tensor) -> Objective:
        """Return the loss with weights of classes.

        Raises:
            MismatchError: The loss is not that of a compiled function.
        """
        if self.own_step("train_step") is not None:
            raise MismatchError("class_weight is for the compiled loss, but train_step is overridden. Weigh there.")
        loss = self.loss or self.compiled("class_weight").loss
        return loss.by_classes(by_class)

    def _sums(self, phase: str) -> MetricSet:
        recipe = self.recipe
        if recipe is None:
            return MetricSet({})
        metrics = {name: metric for name, metric in recipe.metrics.items() if metric.on in ("both", phase)}
        if phase == "val":
            metrics = {name: metric.twin() for name, metric in metrics.items()}
        return MetricSet(metrics, None if self.loss is None else self.loss.factors)

    @property
    def state(self) -> TrainState:
        """Net, sums and counters; the net is the present one, which may have changed."""
        module = self.strategy.wrap(self._model.module)
        if self._state is None:
            self._state = TrainState(module, None, self._sums("train"))
        self._state.module = module
        return self._state

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; built when first needed, since the net may still change after `compile`.

        Raises:
            TypeError: What should build it built something else.
            MismatchError: It does not train this net.
        """
        self.compiled("optimizer")
        return self._keeper.optimizer(self.state)

    def take_in_unfrozen(self) -> None:
        """Let an optimizer that was built here train what was frozen when it was built; in the order of the net."""
        if self._state is not None:
            self._keeper.take_in_unfrozen(self.state)

    @contextmanager
    def begin(
        self,
        callbacks: Sequence[Callback] | None,
        verbose: Verbose,
        feed: Feed | None = None,
        *,
        trains: str = "",
        profile: bool = False,
        microbatch: int | Literal["auto"] | None = None,
        **parts: Any,
    ) -> Iterator[tuple[Run, Hooks]]:
        """Begin a run with its steps, and its callbacks: the transfer to the device first, the display last.

        Args:
            callbacks: The user's.
            verbose: What to show.
            feed: What is read.
            trains: The name of the call, if it trains.
            profile: Whether to take the time of its parts.
            microbatch: How to split batches in training.
            parts: Of the run.

        Raises:
            TypeError: `callbacks` is no list of callbacks.
            BusyError: It trains, inside a call that trains.
        """
        if isinstance(callbacks, Callback) or not isinstance(callbacks, (Iterable, type(None))):
            raise TypeError(f"callbacks is a list; got {callbacks!r}. Type callbacks=[...].")
        if trains:
            self._refuse_inside_fit(trains)
            if self.own_step("train_step") is None:  # a step of the user's own may have optimizers of its own
                self._keeper.check(self.state)
        recipe, own, feed = self.recipe, list(callbacks or ()), feed or Feed()
        if profile:
            from kerastorch.callbacks import Profiler

            own += [] if any(isinstance(callback, Profiler) for callback in own) else [Profiler()]
        run = Run(self.state, self.strategy, self.loss, val_metrics=self._sums("val"), **parts)
        run.train_data, run.val_sets, run.verbose = feed.train, feed.val_sets, bool(verbose)
        run.keeper, run.facts = self._keeper, self._model._facts
        outfit.split(run, microbatch)
        run.plan = Plan() if recipe is None else recipe.plan
        if feed.by_class is not None:
            run.train_loss = self._weighted(feed.by_class)
        has_transfer = any(isinstance(callback, DeviceTransfer) for callback in own)
        transfer = [] if has_transfer else [DeviceTransfer("auto" if recipe is None else recipe.device)]
        weights = [outfit.Thawing(self._keeper)] if trains else self.running[1].of_weights if self.running else []
        given = [*transfer, *own, *weights, *display(verbose, own)]
        hooks = Hooks(several.of_this_process(given, run), run, self._model)
        self._give_steps(run, hooks)
        for note in feed.notes:
            run.say(note)
        around = outfit.around(run) if trains else nullcontext()
        with self._running_as(run, hooks, trains=bool(trains)), around, hooks.around():
            yield run, hooks

    def on_batch(self, what: str, x: Any, y: Any, weight: Any) -> dict[str, Any]:
        """Train on one batch or evaluate it, by the name of the call; return loss and metrics."""
        self.compiled(what)
        trains = what == "train_on_batch"
        mode = isolate.training if trains else isolate.evaluation
        with self.begin((), 0, trains=what if trains else "", nan="raise") as (run, hooks), mode(run.state.module):
            hooks.emit("on_train_begin" if trains else "on_test_begin", {})
            holds_labels = isinstance(x, Mapping) and y is None and weight is None
            item = x if holds_labels else (x, y, weight)
            batch = hooks.prepare(unpack(item, 0, float_dtype(run.state.module)))
            metrics = run.state.metrics if trains else run.val_metrics
            metrics.reset()
            (run.train_step if trains else run.evaluate_step)(batch)
            guard.settle(run)
            return metrics.result(run.strategy.group)

    @contextmanager
    def _running_as(self, run: Run, hooks: Hooks, *, trains: bool) -> Iterator[None]:
        before, fit = self.running, self._fit
        self.running, self._fit, run.is_live = (run, hooks), run if trains else fit, True
        if before is None:
            run.strategy.group.wish, run.strategy.group.is_asked = None, False  # of a run before, that nobody heard
        if trains:
            run.state.extras, run.state.keeps_gradients = hooks.stateful(), run.has_own_step
            run.look_over()
        try:
            yield
        finally:
            self.running, self._fit, run.is_live = before, fit, False
            for source in run.sources():
                source.close()
            if trains:
                run.state.metrics.reset()  # metrics may keep every row of an epoch
                run.state.extras, run.state.optimizers, run.state.parts = {}, {}, {}
            hooks.give_back()  # a callback may have evaluated in the middle of fit, with a callback of that fit

    def own_step(self, name: str) -> Callable[..., Any] | None:
        """Return the user's own step, where there is one: of a subclass, or set on the model."""
        own = getattr(type(self._model), name) is not getattr(self._base, name) or name in vars(self._model)
        return getattr(self._model, name) if own else None

    def _give_steps(self, run: Run, hooks: Hooks) -> None:
        train, evaluate = self.own_step("train_step"), self.own_step("evaluate_step")
        ordinary: Callable[[Batch], None] = functools.partial(step.train_step, run, hooks)
        run.train_step = ordinary
        run.finish_window = functools.partial(window.step, run, hooks)
        run.evaluate_step = functools.partial(step.evaluate_step, run)
        run.predict_step, run.prepare = functools.partial(step.predict_step, run), hooks.prepare
        if train is not None:
            ordinary = functools.partial(step.own_train_step, run, step.seeing(run, step.by_batch(train)))
            run.train_step, run.has_own_step = ordinary, True
        if evaluate is not None:
            run.evaluate_step = functools.partial(
                step.own_evaluate_step, run, step.seeing(run, step.by_batch(evaluate))
            )
        if run.plan.jit_compile and run.strategy.group.size > 1:
            run.say("jit_compile is for one process as yet; the net runs as it is.")
        elif run.plan.jit_compile:
            from kerastorch import jit  # what it needs of torch takes seconds to import

            self._compiled = jit.compile_steps(run, hooks, ordinary, self._compiled)

    def _refuse_inside_fit(self, what: str) -> None:
        if self._fit is not None:
            raise BusyError(f"{what} was called inside fit, and would spoil it. evaluate and predict may be.")
