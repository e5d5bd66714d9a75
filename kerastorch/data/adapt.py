"""Any form of data -> DataSource."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from kerastorch.data.batch import labelled_to_tensors, to_tensors
from kerastorch.data.kinds import (
    is_arrays,
    is_dataset,
    is_graph,
    is_labelled,
    makes_own_batches,
    plain,
    sample_count,
    unusable,
)
from kerastorch.data.limited import LimitedSource
from kerastorch.data.loader import LoaderSource
from kerastorch.data.memory import TensorSource
from kerastorch.data.order import SeededOrder, check_rows
from kerastorch.data.share import Share
from kerastorch.data.shared import Shared
from kerastorch.data.source import DataSource
from kerastorch.data.unshard import deal_out
from kerastorch.errors import DataError
from kerastorch.tree import describe, leaves

DEFAULT_BATCH_SIZE = 32
NumWorkers = int | Literal["auto"] | None


def adapt(
    data: Any,
    *,
    name: str,
    float_dtype: torch.dtype = torch.float32,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    steps: int | None = None,
    training: bool = False,
    drop_last: bool = False,
    seed: int | None = None,
    rows: Tensor | None = None,
    in_fit: bool = False,
    heal_workers: int = 0,
    num_workers: NumWorkers = None,
    share: Share = Share(),  # noqa: B008  # it never changes
) -> DataSource:
    """Give any form of data the one face that the loop knows.

    Args:
        data: A DataLoader, any iterable of batches, a Dataset of torch or of Hugging Face, or a tensor, an array, a
            DataFrame, a dict of them, or a tuple `(x,)`, `(x, y)`, `(x, y, sample_weight)` of such. A dict with
            `"labels"` holds inputs and targets. A list is an iterable of batches.
        name: What the user calls it, for messages.
        float_dtype: What float64 becomes: the dtype of the net.
        batch_size: Samples per batch of a Dataset or of tensors; 32 by default.
        shuffle: Whether a Dataset or tensors are shuffled each epoch; by default in training.
        steps: Batches per epoch; all of them by default.
        training: Whether it is trained on.
        drop_last: Whether a Dataset or tensors leave out a last batch that is short.
        seed: Of the order, where the data have no generator of their own, and of the random numbers while a batch is
            read: each epoch and each batch has its own, the same in every run and with any number of workers. By
            default all comes from the random numbers of Python, NumPy and torch, as in a plain loop.
        rows: Numbers of the samples of a Dataset or of tensors to use, int64 `(M,)`; all by default. The data are not
            copied.
        in_fit: Whether it is read by `fit`, epoch by epoch, and may have to go on in the middle of one; so is what is
            trained on.
        heal_workers: How often the workers of a DataLoader are begun anew where one of them died.
        num_workers: Processes that read a Dataset, none by default; tensors need none. `"auto"` is as many as pay, see
            `parallel.worth_while`. They begin anew with each epoch, and see what the Dataset is by then; with a seed,
            where they are no forks and take seconds to begin, they stay.
        share: The part of each step that this process has; all of it by default. With several processes and no seed,
            they agree on one, so that all of them have the same order.

    Raises:
        DataError: The data are empty, of a form that cannot be used, or bring their own batches in spite of an argument
            that says how to make them.
    """
    _check_numbers(name, batch_size, steps, num_workers, seed)
    dealt = deal_out(data, share, seed, training=training)
    data, is_shared = dealt.data, share.size > 1
    reading = _Reading(name, float_dtype, dealt.seed, training or in_fit or is_shared, heal_workers, dealt.share)
    if makes_own_batches(data):
        given = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "drop_last": drop_last or None,
            "rows": rows,
            "num_workers": num_workers,
        }
        _refuse_arguments(data, name, given)
        source: DataSource = reading.of([data] if is_graph(data) else data)
    else:
        order = training if shuffle is None else shuffle
        if shuffle and isinstance(data, IterableDataset):
            raise DataError(
                f"shuffle=True was given, but {name} is the IterableDataset {type(data).__name__}, which has an order "
                "of its own. Leave shuffle out."
            )
        size = batch_size or DEFAULT_BATCH_SIZE
        cutting = _Cutting(name, float_dtype, size, order, drop_last, dealt.seed, rows, num_workers, reading)
        source = _cut(plain(data), cutting)
    source.replaces = dealt.replaces
    if is_shared:
        source = Shared(source, share, is_own=dealt.is_own, told_seed=seed)
    return source if steps is None else LimitedSource(source, steps, continues=training, processes=share.size)


def _check_numbers(name: str, batch_size: Any, steps: Any, num_workers: Any, seed: Any) -> None:
    for argument, value, least in (("batch_size", batch_size, 1), ("steps", steps, 1), ("num_workers", num_workers, 0)):
        if value is None or (argument == "num_workers" and value == "auto"):
            continue
        if not isinstance(value, Integral) or value < least:
            raise DataError(f"{argument} for {name} is a number, at least {least}; got {value!r}.")
    if seed is not None and not isinstance(seed, Integral):
        raise DataError(f"seed for {name} is a whole number; got {seed!r}.")


@dataclass(frozen=True)
class _Reading:
    """How a loader is read; the names are those of `adapt`."""

    name: str
    float_dtype: torch.dtype
    seed: int | None
    in_fit: bool
    heal_workers: int
    share: Share

    def of(self, loader: Any) -> LoaderSource:
        return LoaderSource(
            loader,
            float_dtype=self.float_dtype,
            name=self.name,
            seed=self.seed,
            in_fit=self.in_fit,
            heal_workers=self.heal_workers,
            share=self.share,
        )


@dataclass(frozen=True)
class _Cutting:
    """How samples are cut into batches; the names are those of `adapt`."""

    name: str
    float_dtype: torch.dtype
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int | None
    rows: Tensor | None
    num_workers: NumWorkers
    reading: _Reading

    def loading(self, data: Any) -> dict[str, Any]:
        """Return the arguments of a DataLoader that say who reads."""
        workers, stays = self.num_workers or 0, False
        if workers:
            from kerastorch.data import parallel  # what it needs takes a while to import

            if workers == "auto":
                workers = parallel.worth_while(data, self.batch_size)
            stays = workers > 0 and self.seed is not None and not parallel.begins_quickly()
        pins = torch.cuda.is_available()
        return {"num_workers": workers, "persistent_workers": stays, "pin_memory": pins, "drop_last": self.drop_last}


def _cut(data: Any, how: _Cutting) -> DataSource:
    if type(data) is TensorDataset:  # one of the user's own may change what it holds
        data = data.tensors
    if is_arrays(data):
        return _cut_arrays(data, how)
    if not is_dataset(data):
        raise DataError(unusable(data, how.name))
    if isinstance(data, IterableDataset):
        return _cut_stream(data, how)
    return _cut_dataset(data, how)


def _cut_arrays(data: Any, how: _Cutting) -> DataSource:
    return TensorSource(
        _tensors(data, how.name, how.float_dtype),
        batch_size=how.batch_size,
        shuffle=how.shuffle,
        name=how.name,
        drop_last=how.drop_last,
        seed=how.seed,
        rows=how.rows,
        labelled=is_labelled(data),
        share=how.reading.share,
    )


def _cut_stream(data: IterableDataset[Any], how: _Cutting) -> DataSource:
    if how.rows is not None:
        raise DataError(
            f"Rows of {how.name} were chosen, but it is the IterableDataset {type(data).__name__}, which is read one "
            "after the other. Write a Dataset with __len__ and __getitem__."
        )
    if how.num_workers and how.num_workers != "auto":
        raise DataError(
            f"num_workers={how.num_workers} was given, but {how.name} is the IterableDataset {type(data).__name__}, "
            "which each worker would read whole. If it shares itself out by get_worker_info, pass DataLoader(dataset, "
            "batch_size, num_workers=...)."
        )
    generator = None if how.seed is None else torch.Generator()  # with a seed, torch's own random numbers stay as is
    loader = DataLoader(data, how.batch_size, drop_last=how.drop_last, generator=generator)
    return how.reading.of(loader)


def _cut_dataset(data: Any, how: _Cutting) -> DataSource:
    count = sample_count(data, how.name)
    if how.rows is not None:
        count = check_rows(how.rows, count, how.name)
        data = Subset(data, _compact(how.rows))
    if how.seed is None:
        loader = DataLoader(data, how.batch_size, how.shuffle, **how.loading(data))
    else:
        order = SeededOrder(count, how.seed, shuffle=how.shuffle)
        loader = DataLoader(data, how.batch_size, sampler=order, generator=order.generator, **how.loading(data))
    return how.reading.of(loader)


def _compact(rows: Tensor) -> Sequence[int]:
    """Hold numbers in 8 bytes each, and give Python's own ints, which any Dataset takes."""
    return array("q", rows.cpu().numpy().tobytes())


def _tensors(data: Any, name: str, float_dtype: torch.dtype) -> tuple[Any, ...]:
    if is_labelled(data):
        arrays: tuple[Any, ...] = (labelled_to_tensors(data, float_dtype, name),)
    else:
        parts = data if isinstance(data, tuple) else (data,)
        if len(parts) > 3:
            raise DataError(
                f"{name} is x, (x, y) or (x, y, sample_weight); got {len(parts)} arrays: {describe(parts)}. "
                "Several inputs go into a tuple of their own: ((a, b), y)."
            )
        arrays = tuple(to_tensors(part, float_dtype, labels=place == 1, name=name) for place, part in enumerate(parts))
    strange = next((leaf.dtype for leaf in leaves(arrays) if isinstance(leaf, np.ndarray)), None)
    if strange is not None:
        hint = "array.astype('float32')"
        if strange.kind in "US":
            hint = "numpy.unique(array, return_inverse=True)[1] for a number per value"
        raise DataError(f"{name} holds an array of the dtype {strange}, which torch does not know. Type {hint}.")
    return arrays


def _refuse_arguments(data: Any, name: str, given: dict[str, Any]) -> None:
    for argument, value in given.items():
        if value is not None:
            raise DataError(
                f"{argument} was given, but {name} is a {type(data).__name__}, which makes its own batches. "
                f"Leave {argument} out, or pass a Dataset or tensors."
            )
