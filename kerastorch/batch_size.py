"""The largest batch that fits into memory, found by trial: `fit(batch_size="auto")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset

from kerastorch import feed, isolate, loop
from kerastorch.assembly import Session
from kerastorch.data import makes_own_batches
from kerastorch.data.adapt import DEFAULT_BATCH_SIZE
from kerastorch.errors import DataError, add_note, did_you_mean
from kerastorch.hooks import Callback, Hooks
from kerastorch.keeper import loss_modules
from kerastorch.memory.shortage import free, is_out_of_memory, let_go
from kerastorch.metrics import MetricSet
from kerastorch.rollback import rolled_back
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.trial import optimizers_of, refuse_unknown_shapes, that_prepare, unbuilt_again
from kerastorch.wrapper import Wrapper

_FEWEST_STEPS = 32  # of an epoch; a larger batch may fit, but a net learns little from a handful of steps
_MARGIN = 0.1  # of the memory stays free: batches may be longer than the first ones, other programs may want some
_RATE = "Another batch size may want another learning rate: see model.find_lr."


class Found(NamedTuple):
    """A batch size, and why it is this one."""

    size: int
    text: str


def check(batch_size: Any, data: Any) -> None:
    """See that `batch_size` is one, and that one can be found for the data if that is wanted.

    Raises:
        ValueError: It is neither a number nor `"auto"`.
        DataError: The data make their own batches, or can be read in one way only.
    """
    if batch_size is None or isinstance(batch_size, Integral):
        return
    if batch_size != "auto":
        hint = did_you_mean(batch_size, ["auto"]) if isinstance(batch_size, str) else ""
        raise ValueError(f"batch_size is a number of samples or 'auto'; got {batch_size!r}.{hint}")
    kind = type(data).__name__
    if makes_own_batches(data):
        raise DataError(
            f"batch_size='auto' was given, but dl_train is a {kind}, which makes its own batches. Pass its Dataset, or "
            "say microbatch='auto', which splits batches that do not fit into memory."
        )
    if isinstance(data, IterableDataset):
        raise DataError(
            f"batch_size='auto' reads the first samples several times, but dl_train is the IterableDataset {kind}, "
            "which is read one after the other. Give a number."
        )


def settled(model: Wrapper, dl_train: Any, options: feed.Options, callbacks: Any) -> tuple[feed.Options, list[str]]:
    """Return how `fit` reads its data, with a batch size that is a number, and what to tell of it.

    Raises:
        ValueError: `batch_size` is neither a number nor `"auto"`.
        DataError: None can be found for such data.
    """
    check(options.batch_size, dl_train)
    found = find_batch_size(model, dl_train, options, callbacks)
    return replace(options, batch_size=found.size), [found.text]


def find_batch_size(
    model: Wrapper, dl_train: Any, options: feed.Options, callbacks: Sequence[Callback] | None = None
) -> Found:
    """Return the largest power of two that fits into the memory of the accelerator, for data that are cut here.

    Each trial trains on the first samples of the data, with the compiled loss, and steps of the optimizer, whose state
    takes memory too; afterwards all is as it was, as after `find_lr`. A tenth of the memory is to stay free, and an
    epoch to keep 32 steps, unless the batch has 32 samples or fewer.

    On the CPU it is 32: what does not fit there is no error that could be caught, but ends the process or slows the
    machine down, and larger batches are hardly faster.

    Args:
        model: The compiled model.
        dl_train: A Dataset, tensors or arrays.
        options: How `fit` reads them.
        callbacks: Those of the training; only those that change batches are called.

    Raises:
        torch.OutOfMemoryError: Not even one sample fits.
    """
    session: Session = model._session
    first = replace(
        options, batch_size=1, shuffle=False, seed=None, drop_last=False, steps_per_epoch=None, validation_split=None,
        stratify=False, class_weight=None,
    )  # fmt: skip
    data = feed.for_training(model.module, dl_train, None, first, epochs=1)
    samples = round((data.train.steps or 1) * (1 - (options.validation_split or 0)))
    most = max(samples // _FEWEST_STEPS, min(samples, DEFAULT_BATCH_SIZE), 1)
    with unbuilt_again(session), session.begin(that_prepare(callbacks), 0, data, trains="fit") as (run, hooks):
        refuse_unknown_shapes(model)
        optimizer, modules = session.optimizer, [model, *loss_modules(session.compiled("fit").loss)]
        with rolled_back(modules, optimizers_of(optimizer, modules), dl_train):
            metrics = MetricSet({}, None if run.loss is None else run.loss.factors)
            run.state = TrainState(run.state.module, optimizer, metrics)
            with loop.explained(run, hooks), isolate.training(run.state.module):
                hooks.emit("on_train_begin", {})
                if _is_cpu(run.device):
                    return Found(DEFAULT_BATCH_SIZE, f"batch_size='auto' is {DEFAULT_BATCH_SIZE} on the CPU.")
                with isolate.random_state_kept():
                    return largest(lambda size: _fits(run, hooks, dl_train, replace(first, batch_size=size)), most)


def largest(fits: Callable[[int], bool], most: int) -> Found:
    """Return the largest power of two that fits, of those up to `most`.

    Args:
        fits: Tells by a trial; raises the error of a single sample that does not.
        most: Samples; a power of two below is the largest that is tried.
    """
    size = 1 << (min(most, DEFAULT_BATCH_SIZE).bit_length() - 1)
    if not fits(size):
        size //= 2
        while not fits(size):
            size //= 2
        limit = f"{2 * size} do not"
    else:
        while 2 * size <= most and fits(2 * size):
            size *= 2
        limit = f"{2 * size} do not" if 2 * size <= most else "larger ones would leave an epoch only a few steps"
    return Found(size, f"batch_size='auto': batches of {size} samples fit into memory, {limit}. {_RATE}")


def _is_cpu(device: torch.device | None) -> bool:
    return device is None or device.type == "cpu"


def _fits(run: Run, hooks: Hooks, data: Any, options: feed.Options) -> bool:
    free(run.device)
    try:
        _train(run, hooks, data, options)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if options.batch_size == 1:
            add_note(error, "kerastorch: not even a batch of one sample fits into memory.")
            raise
        run.current = None
        let_go(error)
    else:
        return options.batch_size == 1 or _share_that_is_free(run.device) >= _MARGIN
    return False


def _train(run: Run, hooks: Hooks, data: Any, options: feed.Options) -> None:
    """Make two steps: the second finds the state of the optimizer in memory, and the batch that is ready ahead."""
    source = feed.for_training(run.state.module, data, None, options, epochs=1).train
    batches = [hooks.prepare(next(source.batches(0))) for _ in range(2)]
    for batch in batches:
        run.current = batch
        run.train_step(batch)
    run.current = None
    source.close()


def _share_that_is_free(device: torch.device | None) -> float:
    """Return which share of the memory was never in use since `free`; 1 where the accelerator does not tell."""
    read = None if device is None else getattr(torch.get_device_module(device), "mem_get_info", None)
    if read is None:
        return 1.0
    unused, total = read(device)
    return float(unused / total)
