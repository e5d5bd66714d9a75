"""The parts of a run, put together."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch import checks, step
from kerastorch.callbacks import DeviceTransfer
from kerastorch.data import Batch, DataSource, NoData, adapt, makes_own_batches
from kerastorch.data.batch import unpack
from kerastorch.display import Verbose, display
from kerastorch.errors import NotCompiledError
from kerastorch.hooks import Callback, Hooks
from kerastorch.metrics import MetricSet
from kerastorch.resolve import Recipe
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.strategy import Single, Strategy
from kerastorch.wrapper import Wrapper

OwnStep = Callable[..., Any] | None


class Session:
    """What a model keeps from one call to the next.

    Args:
        model: What is trained, and handed to the callbacks.
        train_step: The user's own step, where there is one.
        evaluate_step: Likewise.

    Attributes:
        recipe: What `compile` was given; None before.
        running: The present run, with its callbacks.
    """

    def __init__(self, model: Wrapper, train_step: OwnStep, evaluate_step: OwnStep) -> None:
        self.recipe: Recipe | None = None
        self.running: tuple[Run, Hooks] | None = None
        self._model = model
        self._own_steps = train_step, evaluate_step
        self._strategy: Strategy = Single()
        self._state: TrainState | None = None

    def compile(self, recipe: Recipe) -> None:
        """Begin with a new optimizer."""
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
    def optimizer(self) -> Optimizer:
        """The optimizer; made when first needed."""
        self.compiled("optimizer")
        return cast(Optimizer, self.state.optimizer)

    @property
    def state(self) -> TrainState:
        """Net, optimizer and counters; made when first needed, since the net may still change after `compile`.

        Raises:
            TypeError: What should build an optimizer built something else.
            MismatchError: The optimizer trains another net.
        """
        if self._state is None:
            module = self._strategy.wrap(self._model.module)
            optimizer = None if self.recipe is None else _built(self.recipe.optimizer, module)
            self._state = TrainState(module, optimizer, MetricSet({} if self.recipe is None else self.recipe.metrics))
        return self._state

    @contextmanager
    def begin(self, callbacks: Sequence[Callback], verbose: Verbose, **parts: Any) -> Iterator[tuple[Run, Hooks]]:
        """Begin a run with its steps, and its callbacks: the transfer to the device first, the display last.

        Raises:
            TypeError: `callbacks` is no list of callbacks.
        """
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks is a list; got {callbacks!r}. Type callbacks=[...].")
        recipe = self.recipe
        metrics = {} if recipe is None else copy.deepcopy(dict(recipe.metrics))  # validation has its own
        run = Run(
            self.state,
            self._strategy,
            None if recipe is None else recipe.loss,
            val_metrics=MetricSet(metrics),
            **parts,
        )
        has_transfer = any(isinstance(callback, DeviceTransfer) for callback in callbacks)
        transfer = [] if has_transfer else [DeviceTransfer("auto" if recipe is None else recipe.device)]
        hooks = Hooks([*transfer, *callbacks, *display(verbose)], run, self._model)
        self._give_steps(run, hooks)
        before, self.running = self.running, (run, hooks)  # a callback may evaluate in the middle of fit
        try:
            yield run, hooks
        finally:
            self.running = before

    def _give_steps(self, run: Run, hooks: Hooks) -> None:
        train, evaluate = self._own_steps
        run.train_step = functools.partial(step.train_step, run, hooks)
        run.evaluate_step = functools.partial(step.evaluate_step, run)
        run.predict_step = functools.partial(step.predict_step, run)
        if train is not None:
            run.train_step = functools.partial(step.own_train_step, run, step.by_batch(train))
        if evaluate is not None:
            run.evaluate_step = functools.partial(step.own_evaluate_step, run, step.by_batch(evaluate))


def _built(optimizer: Any, module: nn.Module) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        optimizer = optimizer(module.parameters())
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"What was given as optimizer must return a torch.optim.Optimizer; it returned {optimizer!r}.")
    checks.optimizer_fits(optimizer, module)
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


def one_batch(x: Any, y: Any, weight: Any, net: nn.Module) -> Batch:
    """Return what `train_on_batch` and its kin were given as a batch."""
    return unpack((x, y, weight), 0, float_dtype(net))


def to_numpy(leaf: Any) -> Any:
    """Turn a tensor on the CPU into an array; NumPy has no bfloat16, that becomes float32."""
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
