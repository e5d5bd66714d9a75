"""The parts of a run, put together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch import checks, isolate, step
from kerastorch.callbacks import DeviceTransfer
from kerastorch.data import DataSource, NoData, adapt, makes_own_batches
from kerastorch.data.batch import unpack
from kerastorch.display import Verbose, display
from kerastorch.errors import BusyError, NotCompiledError
from kerastorch.hooks import Callback, Hooks
from kerastorch.metrics import MetricSet
from kerastorch.resolve import Recipe
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.strategy import Single, Strategy
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
        self._strategy: Strategy = Single()
        self._state: TrainState | None = None
        self._parameters: list[nn.Parameter] = []
        self._fit: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "running": None, "_fit": None}  # a copy made in the middle of fit is not in the middle

    def compile(self, recipe: Recipe) -> None:
        """Begin with a new optimizer."""
        self._refuse_inside_fit("compile")
        self.recipe = recipe
        self._state = None

    def compiled(self, what: str) -> Recipe:
        """Return the recipe.

        Raises:
            NotCompiledError: There is none.
        """
        if self.recipe is None:
            raise NotCompiledError(
                f"{what} needs a loss. First type model.compile(loss=..., optimizer=..., metrics=...)."
            )
        return self.recipe

    def present(self, what: str) -> tuple[Run, Hooks]:
        """Return the present run.

        Raises:
            NotCompiledError: There is none.
        """
        if self.running is None:
            raise NotCompiledError(f"{what} is a part of fit and evaluate; for one batch type train_on_batch(x, y).")
        return self.running

    @property
    def stops(self) -> bool:
        """Whether the running `fit` is about to end."""
        return self._fit is not None and self._fit.stop_reason is not None

    def stop(self, reason: str) -> None:
        """End the running `fit`, if there is one, also out of an evaluation inside it."""
        if self._fit is not None:
            self._fit.stop(reason)

    @property
    def state(self) -> TrainState:
        """Net, sums and counters; the net is the present one, which may have changed."""
        module = self._strategy.wrap(self._model.module)
        if self._state is None:
            self._state = TrainState(module, None, MetricSet({} if self.recipe is None else self.recipe.metrics))
        self._state.module = module
        return self._state

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; built when first needed, since the net may still change after `compile`.

        Raises:
            TypeError: What should build it built something else.
            MismatchError: It does not train this net.
        """
        given, state = self.compiled("optimizer").optimizer, self.state
        if state.optimizer is None:
            state.optimizer = given if isinstance(given, Optimizer) else _built(given, state.module)
            self._parameters = list(state.module.parameters())
            checks.optimizer_fits(state.optimizer, state.module)
        return state.optimizer

    def _check_optimizer(self) -> None:
        """See that the optimizer trains the present net.

        Raises:
            MismatchError: It does not, or cannot.
        """
        optimizer, module = self.optimizer, self.state.module
        checks.needs_no_closure(optimizer)
        if isinstance(self.compiled("fit").optimizer, Optimizer):
            checks.optimizer_fits(optimizer, module)
        else:
            checks.same_parameters(module, self._parameters)

    @contextmanager
    def begin(
        self, callbacks: Sequence[Callback] | None, verbose: Verbose, *, trains: str = "", **parts: Any
    ) -> Iterator[tuple[Run, Hooks]]:
        """Begin a run with its steps, and its callbacks: the transfer to the device first, the display last.

        Args:
            callbacks: The user's.
            verbose: What to show.
            trains: The name of the call, if it trains.
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
                self._check_optimizer()
        recipe, own = self.recipe, list(callbacks or ())
        loss, metrics = (None, {}) if recipe is None else (recipe.loss, recipe.metrics)
        metrics = {name: metric.twin() for name, metric in metrics.items()}
        run = Run(self.state, self._strategy, loss, val_metrics=MetricSet(metrics), **parts)
        has_transfer = any(isinstance(callback, DeviceTransfer) for callback in own)
        transfer = [] if has_transfer else [DeviceTransfer("auto" if recipe is None else recipe.device)]
        hooks = Hooks([*transfer, *own, *display(verbose)], run, self._model)
        self._give_steps(run, hooks)
        with self._running_as(run, hooks, trains=bool(trains)):
            yield run, hooks

    def on_batch(self, what: str, x: Any, y: Any, weight: Any) -> dict[str, float]:
        """Train on one batch or evaluate it, by the name of the call; return loss and metrics."""
        self.compiled(what)
        trains = what == "train_on_batch"
        mode = isolate.training if trains else isolate.evaluation
        with self.begin((), 0, trains=what if trains else "") as (run, hooks), mode(run.state.module):
            hooks.emit("on_train_begin" if trains else "on_test_begin", {})
            batch = hooks.prepare(unpack((x, y, weight), 0, float_dtype(run.state.module)))
            metrics = run.state.metrics if trains else run.val_metrics
            metrics.reset()
            (run.train_step if trains else run.evaluate_step)(batch)
        return metrics.result()

    @contextmanager
    def _running_as(self, run: Run, hooks: Hooks, *, trains: bool) -> Iterator[None]:
        before, fit = self.running, self._fit
        self.running, self._fit = (run, hooks), run if trains else fit
        try:
            yield
        finally:
            self.running, self._fit = before, fit
            run.train_data.close()
            run.val_data.close()
            if before is not None:  # a callback evaluated in the middle of fit, perhaps with a callback of that fit
                for callback in before[1].callbacks:
                    callback.run = before[0]

    def own_step(self, name: str) -> Callable[..., Any] | None:
        """Return the user's own step, where there is one: of a subclass, or set on the model."""
        own = getattr(type(self._model), name) is not getattr(self._base, name) or name in vars(self._model)
        return getattr(self._model, name) if own else None

    def _give_steps(self, run: Run, hooks: Hooks) -> None:
        train, evaluate = self.own_step("train_step"), self.own_step("evaluate_step")
        run.train_step = functools.partial(step.train_step, run, hooks)
        run.evaluate_step = functools.partial(step.evaluate_step, run)
        run.predict_step = functools.partial(step.predict_step, run)
        if train is not None:
            run.train_step = functools.partial(step.own_train_step, run, step.by_batch(train))
        if evaluate is not None:
            run.evaluate_step = functools.partial(step.own_evaluate_step, run, step.by_batch(evaluate))

    def _refuse_inside_fit(self, what: str) -> None:
        if self._fit is not None:
            raise BusyError(f"{what} was called inside fit, and would spoil it. evaluate and predict may be.")


def _built(factory: Callable[..., Any], module: nn.Module) -> Optimizer:
    optimizer = factory(module.parameters())
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"What was given as optimizer must return a torch.optim.Optimizer; it returned {optimizer!r}.")
    return optimizer


def training_data(data: Any, net: nn.Module, **arguments: Any) -> DataSource:
    """Return what is trained on."""
    return adapt(data, name="dl_train", float_dtype=float_dtype(net), training=True, **arguments)


def evaluation_data(data: Any, net: nn.Module, *, batch_size: int | None, steps: int | None, name: str) -> DataSource:
    """Return what is evaluated or predicted, in its order."""
    return adapt(data, name=name, float_dtype=float_dtype(net), batch_size=batch_size, steps=steps)


def validation_data(data: Any, net: nn.Module, *, batch_size: int | None, steps: int | None) -> DataSource:
    """Return what training is validated on, if there is anything; `batch_size` is for data that need one."""
    if data is None:
        return NoData()
    size = None if makes_own_batches(data) else batch_size
    return evaluation_data(data, net, batch_size=size, steps=steps, name="dl_val")


def float_dtype(net: nn.Module) -> torch.dtype:
    """Return the one floating dtype of a net's parameters, else torch's default."""
    dtypes = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype()


def to_numpy(leaf: Any) -> Any:
    """Turn a tensor on the CPU into an array; NumPy has no bfloat16, that becomes float32."""
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
