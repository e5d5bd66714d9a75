"""Callbacks: what may be hooked in, and how the hooks are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from torch import nn

from kerastorch.data import Batch
from kerastorch.errors import add_note, did_you_mean
from kerastorch.run import Run

Logs = Mapping[str, float]
Listener = Callable[..., Any]
HookName = Literal[
    "on_train_begin",
    "on_train_end",
    "on_interrupt",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_optimizer_step_begin",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_predict_begin",
    "on_predict_end",
    "on_predict_batch_begin",
    "on_predict_batch_end",
    "on_exception",
    "prepare_batch",
]
HOOKS: tuple[HookName, ...] = get_args(HookName)

Stage = Literal["transfer", "ordinary", "weights", "monitor", "logger", "checkpoint", "backup", "display"]
STAGES: tuple[Stage, ...] = get_args(Stage)
# When training has ended, ordinary callbacks find the weights that are kept: averaged, or the best
STAGES_AT_END: tuple[Stage, ...] = ("transfer", "weights", "monitor", "ordinary", *STAGES[STAGES.index("logger") :])
_NAMES_ELSEWHERE: dict[str, HookName] = {  # of older Keras, Lightning, Poutyne and fastai
    "on_batch_begin": "on_train_batch_begin",
    "on_batch_end": "on_train_batch_end",
    "on_fit_start": "on_train_begin",
    "on_fit_end": "on_train_end",
    "on_train_start": "on_train_begin",
    "on_train_epoch_start": "on_epoch_begin",
    "on_train_epoch_end": "on_epoch_end",
    "on_validation_begin": "on_test_begin",
    "on_validation_start": "on_test_begin",
    "on_validation_end": "on_test_end",
    "on_validation_epoch_end": "on_test_end",
    "on_backward_end": "on_optimizer_step_begin",
    "on_before_optimizer_step": "on_optimizer_step_begin",
}
_AT_END = ("on_train_end", "on_exception")


class _Params:
    """What Keras tells a callback of a run; a callback may well have `params` of its own, which come first."""

    def __get__(self, callback: Callback | None, owner: type) -> dict[str, Any]:
        if callback is None:
            return {}
        run = callback.run
        return {"epochs": run.epochs, "steps": run.train_data.steps, "verbose": int(run.verbose)}


class Callback:
    """Something that happens during training. Override the hooks you need; the others cost nothing.

    Epochs and batches are counted from 0. `logs` holds running values by name, such as `"loss"`; in the hooks of a
    batch, reading a value waits for the device. What is written into the `logs` of `on_epoch_end` becomes part of the
    history.

    Example:
        >>> class StopAtLoss(kt.Callback):
        ...     def on_epoch_end(self, epoch, logs):
        ...         if logs["loss"] < 0.1:
        ...             self.run.stop("the loss is below 0.1")

    Callbacks are called by stages, whatever their order in the list: `"transfer"` to the device, `"ordinary"` ones,
    those that put other `"weights"` into the net, those that `"monitor"` what is in the logs by now, `"logger"`,
    `"checkpoint"`, `"backup"`, `"display"`; within a stage in their order in the list. In `on_train_end` and
    `on_exception` ordinary ones come after those of weights and monitors, and so find the net as it is kept.

    Attributes:
        stage: When among others it is called; set it in the class.
        everywhere: Whether each of several processes calls it; by default all but loggers and displays.
        run: The parts of this run: `run.state.optimizer`, `run.stop(reason)`, `run.log(values)`.
        model: The `kerastorch.Model`.
        params: `{"epochs": ..., "steps": ..., "verbose": ...}`, for callbacks that were written for Keras.
    """

    stage: Stage = "ordinary"
    everywhere: bool | None = None
    run: Run
    model: nn.Module
    params: dict[str, Any] = _Params()  # type: ignore[assignment]

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch, whatever ended training, but not after an exception."""

    def on_interrupt(self) -> None:
        """Training ends inside an epoch, the weights are those of its last step; `on_train_end` follows."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before an epoch; also where a run goes on in the middle of one."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch is trained on."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch was trained on."""

    def on_optimizer_step_begin(self, step: int) -> None:
        """Gradients are complete; the optimizer is about to use them. Steps count from 0, from `compile` on."""

    def on_test_begin(self, logs: Logs) -> None:
        """Before an evaluation, also the validation of an epoch."""

    def on_test_end(self, logs: Logs) -> None:
        """After an evaluation, with its values."""

    def on_test_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch is evaluated."""

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch was evaluated."""

    def on_predict_begin(self, logs: Logs) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch is predicted."""

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch was predicted."""

    def on_exception(self, error: BaseException) -> None:
        """Training, evaluation or prediction ends with an exception; close what is open."""

    def prepare_batch(self, batch: Batch) -> Batch:
        """Return the batch to use instead: moved, mixed or transformed."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of the training keeps of this callback: plain containers, numbers and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned; called after `on_train_begin`."""

    def set_model(self, model: nn.Module) -> None:
        """Remember the model; called before each call that the callback is given to."""
        self.model = model

    @contextmanager
    def around(self, hooks: Hooks) -> Iterator[None]:
        """The whole call happens in this context: after all is put together, before the first hook, beyond the last."""
        yield


class Hooks:
    """The callbacks of one run, by stages; which of them listen to what is found out once.

    Raises:
        TypeError: Something is no Callback.
        AttributeError: A callback has a method `on_...` that no hook is called.
        ValueError: A callback has an unknown stage.
    """

    def __init__(self, callbacks: Iterable[Callback], run: Run, model: nn.Module) -> None:
        given = list(callbacks)
        for callback in given:
            _check(callback)
        self._before = [(each, getattr(each, "run", None), getattr(each, "model", None)) for each in given]
        for callback in given:
            callback.run = run
            callback.set_model(model)
        self.callbacks = sorted(given, key=lambda callback: STAGES.index(callback.stage))
        at_end = sorted(given, key=lambda callback: STAGES_AT_END.index(callback.stage))
        orders = {name: at_end if name in _AT_END else self.callbacks for name in HOOKS}
        self._owners = {name: tuple(each for each in order if _overrides(each, name)) for name, order in orders.items()}
        self._listeners = {
            name: tuple(getattr(callback, name) for callback in owners) for name, owners in self._owners.items()
        }
        self.prepares = bool(self._listeners["prepare_batch"])

    def stateful(self) -> dict[str, Callback]:
        """Return by name the callbacks of which a checkpoint keeps something."""
        named: dict[str, Callback] = {}
        for callback in self.callbacks:
            if type(callback).state_dict is not Callback.state_dict:
                name = type(callback).__name__
                same = sum(known.partition(" ")[0] == name for known in named)
                named[f"{name} {same + 1}" if same else name] = callback
        return named

    def listener(self, name: HookName) -> str | None:
        """Return the name of the first callback that listens to a hook; None if nobody does."""
        return next((type(owner).__name__ for owner in self._owners[name]), None)

    @property
    def of_weights(self) -> list[Callback]:
        """Those that put other weights into the net; an evaluation inside this run uses them as well."""
        return [callback for callback in self.callbacks if callback.stage == "weights"]

    def give_back(self) -> None:
        """Let callbacks that another run is still in the middle of belong to that one again."""
        for callback, run, model in self._before:
            if run is not None and run.is_live and model is not None:
                callback.run = run
                callback.set_model(model)

    def wrap(self, wrapper: Callable[[Callback, HookName, Listener], Listener]) -> None:
        """Put another function in the place of each that a hook calls, such as one that takes the time.

        Args:
            wrapper: Given a callback, the name of a hook and what that calls; returns what to call instead.
        """
        for name, owners in self._owners.items():
            pairs = zip(owners, self._listeners[name], strict=True)
            self._listeners[name] = tuple(wrapper(owner, name, listener) for owner, listener in pairs)

    @contextmanager
    def around(self) -> Iterator[None]:
        """Enter the context of each callback that has one."""
        with ExitStack() as stack:
            for callback in self.callbacks:
                if _overrides(callback, "around"):
                    context = callback.around(self)
                    if not hasattr(context, "__exit__"):
                        owner = type(callback).__name__
                        raise TypeError(f"{owner}.around must return a context; put @contextmanager before it.")
                    stack.enter_context(context)
            yield

    def emit(self, name: HookName, *arguments: Any) -> None:
        """Call a hook of every callback that listens to it."""
        for listener in self._listeners[name]:
            listener(*arguments)

    def emit_exception(self, error: BaseException) -> None:
        """Tell every callback of an error, and let none of them take its place."""
        for owner, listener in zip(self._owners["on_exception"], self._listeners["on_exception"], strict=True):
            try:
                listener(error)
            except Exception as another:  # the terminal and the files of the others are still to be closed
                add_note(error, f"kerastorch: on_exception of {type(owner).__name__} failed as well: {another!r}")

    def prepare(self, batch: Batch) -> Batch:
        """Hand a batch through every `prepare_batch`.

        Raises:
            TypeError: One of them returns no batch.
        """
        for prepare in self._listeners["prepare_batch"]:
            given, batch = batch, prepare(batch)
            if not isinstance(batch, Batch):
                owner = self._owners["prepare_batch"][self._listeners["prepare_batch"].index(prepare)]
                raise TypeError(
                    f"prepare_batch of {type(owner).__name__} must return a {type(given).__name__}; got {batch!r}."
                )
        return batch


def _overrides(callback: Callback, name: str) -> bool:
    return name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name)


def _check(callback: Any) -> None:
    if isinstance(callback, type) and issubclass(callback, Callback):
        raise TypeError(f"The callback {callback.__name__} is a class; pass an object: {callback.__name__}(...).")
    if not isinstance(callback, Callback):
        raise TypeError(
            f"A callback is a kerastorch.Callback; got {callback!r}. For a function: LambdaCallback(on_epoch_end=f)."
        )
    if callback.stage not in STAGES:
        raise ValueError(
            f"{type(callback).__name__}.stage is {callback.stage!r}.{did_you_mean(str(callback.stage), STAGES)} "
            f"Stages are {', '.join(STAGES)}."
        )
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in HOOKS:
            owner = type(callback).__name__
            known = _NAMES_ELSEWHERE.get(name)
            hint = did_you_mean(name, HOOKS) if known is None else f" Here it is {known!r}."
            raise AttributeError(f"{owner}.{name} is no hook and would never be called.{hint}")
