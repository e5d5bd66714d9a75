"""Model: assembly and delegation, no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from kerastorch import assembly, feed, loop, resolve, step, training
from kerastorch.data import Batch
from kerastorch.display import Verbose
from kerastorch.health import NanPolicy
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.lr_finder import find_lr
from kerastorch.one_batch import predict_on_batch, test_on_batch, train_on_batch
from kerastorch.resolve import JitCompile
from kerastorch.stop_flag import StopFlag
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
        classes: Their names, as the dataset of `fit` or a file told them, or as you set them; None if nobody did.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(net)
        self.history: History = History()
        self._session = assembly.Session(self, Model)

    def compile(
        self,
        loss: Any = None,
        optimizer: Any = None,
        metrics: Any = None,
        device: str | torch.device | None = "auto",
        *,
        loss_weights: Any = None,
        precision: str = "32-true",
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        channels_last: bool = False,
        gradient_checkpointing: str | Sequence[str] | None = None,
        jit_compile: JitCompile = False,
        strategy: Any = None,
        loss_func: Any = None,
        metrics_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Say how to train.

        Args:
            loss: `f(output, target)`, a loss of `torch.nn`, or its name; a dict or a list for several outputs. None for
                a net that returns its loss, as `output.loss`, and for an overridden `train_step`.
            optimizer: An optimizer; or a name, a class, a `functools.partial` or a function, that is called with the
                parameters. Adam with learning rate 1e-3 by default.
            metrics: `{name: metric}` or a list; `{output: [...]}` for one of several outputs. A metric is a name, a
                function `f(y_pred, y_true)` that is averaged over samples, a `Metric` or an object of torchmetrics.
            device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, `"xpu"`.
            loss_weights: How often each of several losses counts in their sum, as a dict or a list; 1 by default.
            precision: `"32-true"`: as the net is. `"bf16-mixed"`, `"16-mixed"` compute in half precision what bears it;
                `"bf16-true"` makes the net bfloat16.
            accumulate: Batches whose gradients make one step of the optimizer, as one large batch would.
            clip_norm: The largest norm of all gradients of a step together.
            clip_value: The largest absolute value of a gradient.
            channels_last: Keep images pixel by pixel in memory, which convolutions are faster with.
            gradient_checkpointing: Modules, such as `"blocks.*"`, that are computed again in the backward pass.
            jit_compile: Compile the whole step into one graph; or the `"net"` alone. See docs/speed.md.
            strategy: How processes that torchrun started train: `"ddp"`, `"fsdp"`, `kt.DDP(...)`, `kt.FSDP(...)`.
            loss_func: `loss` in the spelling of torchkeras.
            metrics_dict: `metrics` in the spelling of torchkeras.

        Raises:
            ValueError: A name is unknown, or a device is not there.
            TypeError: An argument is of the wrong kind, or given in both spellings.
        """
        loss = resolve.either("loss", loss, "loss_func", loss_func)
        metrics = resolve.either("metrics", metrics, "metrics_dict", metrics_dict)
        how = accumulate, clip_norm, clip_value, precision, channels_last, gradient_checkpointing, jit_compile
        parts: dict[str, Any] = {"loss_weights": loss_weights, "plan": resolve.Plan(*how), "strategy_spec": strategy}
        self._session.compile(resolve.recipe(loss, optimizer, metrics, device, **parts))

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
        batch_size: int | Literal["auto"] | None = None,
        shuffle: bool | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        validation_split: float | None = None,
        stratify: Any = False,
        class_weight: Any = None,
        profile: bool = False,
        resume: str | Path | None = None,
        num_workers: int | Literal["auto"] | None = None,
        heal_workers: int = 2,
        nan: NanPolicy = "raise",
        microbatch: int | Literal["auto"] | None = None,
        global_batch_size: int | None = None,
    ) -> History:
        """Train. A second call trains on, from the weights and the state of the optimizer that are there.

        It equals a loop written by hand bit for bit on the CPU; a validation changes nothing, not even random numbers.
        The first Ctrl-C finishes the batch and ends training, the second stops at once; see `BackupAndRestore`.

        Args:
            epochs: How many; with `initial_epoch`, the number of the epoch to end before.
            dl_train: A DataLoader, any iterable of batches, a Dataset, or a tuple `(x, y)` or `(x, y, sample_weight)`
                of tensors, arrays or data frames, or of dicts and tuples of them. A batch is `x`, `(x, y)` or
                `(x, y, sample_weight)`, or a dict with `"labels"`.
            dl_val: What to validate on after each epoch; or `{"easy": ..., "hard": ...}`, logged as `val_easy_loss`.
            log_step_freq: Steps between two lines of the log, and two points of the curves per step; none by default.
            callbacks: Callbacks, called in their order.
            verbose: `"auto"` and 1: a bar on a terminal, bar and curves in a notebook, else the text of torchkeras,
                as `"table"`; 2: a line per epoch; 0: nothing.
            initial_epoch: The number of the first epoch, from 0.
            steps_per_epoch: Batches per epoch; the next goes on where one ended. For data without end.
            validation_steps: Batches per validation; always the first ones, but a generator goes on.
            validation_freq: Validate after every so many epochs.
            batch_size: For a Dataset and tensors, as are the next three; 32 by default, for each process. `"auto"` is
                the largest that fits into the memory of an accelerator, found by a trial.
            shuffle: Whether each epoch has an order of its own; True by default.
            drop_last: Whether to leave out a last batch that is not full.
            seed: What order, split and the random numbers of each training batch follow, also of a DataLoader, with any
                number of workers; by default they follow `torch.manual_seed`, and the split is always the same.
            validation_split: The share of a Dataset or of tensors to validate on in place of `dl_val`, drawn at random.
            stratify: Whether the split keeps the shares of the classes; or the classes to keep.
            class_weight: Weight of each class in the training loss alone: a dict, a tensor `(C,)`, or `"balanced"`.
            profile: Print at the end where the time went; `kt.callbacks.Profiler` can do more.
            resume: A file of `ModelCheckpoint` to go on from; see `BackupAndRestore`.
            num_workers: Processes that read a Dataset; none by default; `"auto"` is as many as pay, by a short trial.
            heal_workers: How often a loader whose worker died is begun anew at the same batch.
            nan: Where a loss is NaN or infinite: `"raise"` an error before the step, on an accelerator a little later;
                `"skip"` the batch, for which each step waits for the device; or `"warn"`.
            microbatch: Split batches into parts of at most so many samples, or `"auto"`: where memory does not suffice.
                Loss, metrics and gradients stay those of whole batches; BatchNorm and Dropout see one part at a time.
            global_batch_size: In place of `batch_size`: samples per step of all processes together.

        Returns:
            Loss, metrics, `lr`, `seconds` and `samples_per_second` of each epoch.

        Raises:
            NotCompiledError: `compile` was not called.
            DataError: The data are empty, or of an unknown form.
            MismatchError: Output, targets and loss do not fit together.
            NonFiniteError: A loss is NaN or infinite.
        """
        sizes = steps_per_epoch, validation_steps, validation_split, stratify, class_weight, heal_workers, num_workers
        options = feed.Options(batch_size, shuffle, drop_last, seed, *sizes, global_batch_size)
        parts: dict[str, Any] = {"epochs": epochs, "validation_freq": validation_freq, "log_step_freq": log_step_freq}
        parts |= {"initial_epoch": initial_epoch, "path": resume, "profile": profile, "microbatch": microbatch}
        return training.fit(self, (dl_train, dl_val), options, callbacks, verbose, nan=nan, **parts)

    def evaluate(
        self,
        dl_val: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        verbose: Verbose = 0,
        batch_size: int | None = None,
        steps: int | None = None,
    ) -> dict[str, Any]:
        """Return `{"loss": ..., "accuracy": ...}` over all data, whatever the batch size.

        Args:
            dl_val: Data in any form that `fit` takes.
            callbacks: As for `fit`.
            verbose: As for `fit`; nothing by default.
            batch_size: As for `fit`.
            steps: Batches to use; all by default.
        """
        self._session.compiled("evaluate")
        data = feed.for_evaluation(self.module, dl_val, batch_size=batch_size, steps=steps, share=self._session.share)
        with self._session.begin(callbacks, verbose, data) as (run, hooks):
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
            callbacks: As for `fit`.
            verbose: As for `fit`; nothing by default.
            batch_size: As for `fit`.
            steps: Batches to use; all by default.
            as_numpy: Return arrays.

        Returns:
            Tensors `(N, ...)`, nested as the net nests its output.
        """
        data = feed.for_prediction(self.module, dl, batch_size=batch_size, steps=steps, share=self._session.share)
        with self._session.begin(callbacks, verbose, data) as (run, hooks):
            outputs = loop.predict(run, hooks)
        return map_leaves(feed.to_numpy, outputs) if as_numpy else outputs

    train_on_batch, test_on_batch, predict_on_batch = train_on_batch, test_on_batch, predict_on_batch
    find_lr = find_lr  # a function whose first argument is the model, and so a method

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
        step.ordinary_train_step(run, hooks, batch)
        return None

    def evaluate_step(self, batch: Batch) -> Mapping[str, Any] | None:
        """Evaluate one batch; override it for a step of your own. As `train_step`, without training."""
        run, _ = self._session.present("evaluate_step")
        step.evaluate_step(run, batch)
        return None

    def compute_loss(self, batch: Batch, output: Any) -> Any:
        """Return the loss of a batch; override it for one that needs more than output and targets.

        Example:
            >>> class Distilled(kt.Model):
            ...     def compute_loss(self, batch, output):
            ...         wanted = self.teacher(batch.x).detach()
            ...         return super().compute_loss(batch, output) + functional.mse_loss(output, wanted)

        Args:
            batch: Inputs `batch.x`, targets `batch.y`, on the device.
            output: What the net gave for them.

        Returns:
            A tensor without dimensions, the mean over the batch; or `{"loss": ..., name: ...}` to log more values.
        """
        return self._session.compiled("compute_loss").loss.terms(output, batch)[0]

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

    stop_training, stop_evaluating = StopFlag("training"), StopFlag("evaluating")
    stop_predicting = StopFlag("predicting")

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, with its state."""
        return self._session.optimizer

    def _take_in_unfrozen(self) -> None:
        self._session.take_in_unfrozen()
