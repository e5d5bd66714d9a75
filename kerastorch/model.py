"""Model: assembly and delegation, no arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from kerastorch import assembly, checks, loop, resolve, step
from kerastorch.data import Batch
from kerastorch.display import Verbose
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.signals import graceful_interrupt
from kerastorch.tree import map_leaves
from kerastorch.wrapper import Wrapper


class Model(Wrapper):
    """Trains, evaluates and uses any `nn.Module`.

    Wrap a net, or subclass and write `forward`. It is itself an `nn.Module`, with the names of the wrapped net.

    Example:
        >>> model = kt.Model(net)
        >>> model.compile(loss="cross_entropy", optimizer="adam", metrics=["accuracy"])
        >>> history = model.fit(3, dl_train, dl_val)

    Args:
        net: The net; None for a subclass with a `forward` of its own.

    Attributes:
        history: What happened in the last `fit`, also after an error or Ctrl-C.
    """

    history: History

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(net)
        self.history = History()
        self._session = assembly.Session(self, Model)

    def compile(
        self,
        loss: Any = None,
        optimizer: Any = None,
        metrics: Any = None,
        device: str | torch.device | None = "auto",
        *,
        loss_func: Any = None,
        metrics_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Say how to train.

        Args:
            loss: `f(output, target)`, a loss of `torch.nn`, or its name: `"cross_entropy"`, `"mse"`, `"bce"`. An
                overridden `train_step` needs none.
            optimizer: An optimizer; or a name, a class, a `functools.partial` or a function, that is called with the
                parameters. Adam with learning rate 1e-3 by default.
            metrics: `{name: metric}` or a list. A metric is a name (`"accuracy"`, `"mse"`, `"mae"`), a function
                `f(y_pred, y_true)`, a `kerastorch.metrics.Metric` or an object of torchmetrics.
            device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, `"xpu"`.
            loss_func: `loss` in the spelling of torchkeras.
            metrics_dict: `metrics` in the spelling of torchkeras.

        Raises:
            ValueError: A name is unknown, or a device is not there.
            TypeError: An argument is of the wrong kind, or given in both spellings.
        """
        loss = resolve.either("loss", loss, "loss_func", loss_func)
        metrics = resolve.either("metrics", metrics, "metrics_dict", metrics_dict)
        needless = loss is None and self._session.own_step("train_step") is not None
        resolved = None if needless else resolve.loss(loss)
        place = "auto" if device is None else device
        resolve.device(place)
        recipe = resolve.Recipe(resolved, resolve.optimizer(optimizer), resolve.metrics(metrics, resolved), place)
        self._session.compile(recipe)

    def fit(
        self,
        epochs: int = 1,
        dl_train: Any = None,
        dl_val: Any = None,
        log_step_freq: int | None = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        verbose: Verbose = "auto",
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_freq: int = 1,
        batch_size: int | None = None,
        shuffle: bool | None = None,
    ) -> History:
        """Train. A second call trains on, from the weights and the state of the optimizer that are there.

        It equals a loop written by hand bit for bit on the CPU; a validation changes nothing, not even random numbers.
        The first Ctrl-C finishes the batch and ends training as if it were over, the second stops at once.

        Args:
            epochs: How many; with `initial_epoch`, the number of the epoch to end before.
            dl_train: A DataLoader, any iterable of batches, a Dataset, or a tuple `(x, y)` or `(x, y, sample_weight)`
                of tensors or arrays. A batch is `x`, `(x, y)` or `(x, y, sample_weight)`.
            dl_val: What to validate on after each epoch.
            log_step_freq: Steps between two lines of the log, and two points of the curves per step; none by default.
            callbacks: Callbacks, called in their order.
            verbose: `"auto"` and 1: a bar on a terminal, else the text of torchkeras; `"table"`: that text; 2: a line
                per epoch; 0: nothing.
            initial_epoch: The number of the first epoch, from 0.
            steps_per_epoch: Batches per epoch; the next epoch goes on where one ended. For data without end.
            validation_steps: Batches per validation; always the first ones, but a generator goes on.
            validation_freq: Validate after every so many epochs.
            batch_size: For a Dataset and tensors; 32 by default.
            shuffle: For a Dataset and tensors; True by default.

        Returns:
            Loss, metrics, `lr`, `seconds` and `samples_per_second` of each epoch.

        Raises:
            NotCompiledError: `compile` was not called.
            DataError: The data are empty, or of an unknown form.
            MismatchError: Output, targets and loss do not fit together.
        """
        self._session.compiled("fit")
        net = self.module
        checks.epochs(epochs, initial_epoch)
        checks.positive(validation_freq=validation_freq, log_step_freq=log_step_freq)
        train_data = assembly.training_data(
            dl_train, net, batch_size=batch_size, shuffle=shuffle, steps=steps_per_epoch
        )
        val_data = assembly.validation_data(dl_val, net, batch_size=batch_size, steps=validation_steps)
        for source in (train_data, val_data):
            checks.enough_data(source, epochs - initial_epoch)
        parts = {"train_data": train_data, "val_data": val_data, "epochs": epochs, "validation_freq": validation_freq}
        with self._session.begin(callbacks, verbose, trains="fit", **parts) as (run, hooks):
            run.log_step_freq = log_step_freq
            run.state.begin_fit(initial_epoch)
            self.history = run.state.history
            with graceful_interrupt(lambda: run.interrupt("Ctrl-C")):
                history = loop.fit(run, hooks)
            if run.interrupted:
                print(run.farewell(), file=sys.stdout if verbose else sys.stderr, flush=True)
        return history

    def evaluate(
        self,
        dl_val: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        verbose: Verbose = 0,
        batch_size: int | None = None,
        steps: int | None = None,
    ) -> dict[str, float]:
        """Return `{"loss": ..., "accuracy": ...}` over all data, whatever the batch size.

        Args:
            dl_val: Data in any form that `fit` takes.
            callbacks: As for `fit`, and so are `verbose` and `batch_size`.
            verbose: Nothing is shown by default.
            batch_size: For a Dataset and tensors; 32 by default.
            steps: Batches to use; all by default.
        """
        self._session.compiled("evaluate")
        data = assembly.evaluation_data(dl_val, self.module, batch_size=batch_size, steps=steps, name="dl_val")
        with self._session.begin(callbacks, verbose, val_data=data) as (run, hooks):
            return loop.evaluate(run, hooks)

    def predict(
        self,
        dl: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        verbose: Verbose = 0,
        batch_size: int | None = None,
        steps: int | None = None,
        as_numpy: bool = False,
    ) -> Any:
        """Return what the net gives for all data, in order, on the CPU; it need not be compiled.

        Args:
            dl: Data in any form that `fit` takes, with or without targets; targets and weights are left out.
            callbacks: As for `fit`, and so are `verbose` and `batch_size`.
            verbose: Nothing is shown by default.
            batch_size: For a Dataset and tensors; 32 by default.
            steps: Batches to use; all by default.
            as_numpy: Return arrays.

        Returns:
            Tensors `(N, ...)`, nested as the net nests its output.
        """
        data = assembly.evaluation_data(dl, self.module, batch_size=batch_size, steps=steps, name="dl")
        with self._session.begin(callbacks, verbose, val_data=data) as (run, hooks):
            outputs = loop.predict(run, hooks)
        return map_leaves(assembly.to_numpy, outputs) if as_numpy else outputs

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, float]:
        """Train on one batch; return its loss and metrics."""
        return self._session.on_batch("train_on_batch", x, y, sample_weight)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, float]:
        """Return loss and metrics of one batch."""
        return self._session.on_batch("test_on_batch", x, y, sample_weight)

    def predict_on_batch(self, x: Any) -> Any:
        """Return what the net gives for one batch, on the CPU."""
        return self.predict([(x,)])

    def train_step(self, batch: Batch) -> Mapping[str, Any] | None:
        """Train on one batch; override it for a step of your own.

        Args:
            batch: Inputs `batch.x`, targets `batch.y`, on the device. An override may also take `(features, labels)`.

        Returns:
            `{name: value}`, each the mean over the batch, as numbers or tensors. None from this ordinary step, which
            has noted loss and metrics itself.
        """
        run, hooks = self._session.present("train_step")
        run.state.optimizer = self.optimizer
        step.train_step(run, hooks, batch)
        return None

    def evaluate_step(self, batch: Batch) -> Mapping[str, Any] | None:
        """Evaluate one batch; override it for a step of your own. As `train_step`, without training."""
        run, _ = self._session.present("evaluate_step")
        step.evaluate_step(run, batch)
        return None

    @property
    def loss_func(self) -> Any:
        """The loss as it was given to `compile`, for steps of one's own."""
        return getattr(self._session.compiled("loss_func").loss, "function", None)

    @property
    def metrics_dict(self) -> dict[str, Any]:
        """The metrics by name, functions as they were given, for steps of one's own."""
        metrics = self._session.compiled("metrics_dict").metrics
        return {name: getattr(metric, "function", metric) for name, metric in metrics.items()}

    def stop(self, reason: str = "model.stop() was called") -> None:
        """End a running `fit` after this batch; validation and the end of the epoch still come."""
        self._session.stop(reason)

    @property
    def stop_training(self) -> bool:
        """Whether `fit` is about to end; callbacks of Keras read it, and set it to True."""
        return self._session.stops

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        if value:
            self.stop()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, with its state."""
        return self._session.optimizer
