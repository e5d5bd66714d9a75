"""Who shares data out among several processes: `fit`, the user, or the data themselves."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from kerastorch.data.order import WholeOrder
from kerastorch.data.sharded import Sharded, bare
from kerastorch.data.share import Share


@dataclass(frozen=True)
class Dealt:
    """How data are read in this process.

    Attributes:
        data: What to read.
        seed: Of orders and batches.
        share: What to leave to others; nothing, where this process has data of its own.
        is_own: Whether it has.
        replaces: The name of what was to share them out.
    """

    data: Any
    seed: int | None
    share: Share = Share()  # noqa: RUF009
    is_own: bool = False
    replaces: str | None = None


def deal_out(data: Any, share: Share, seed: int | None, *, training: bool) -> Dealt:
    """Say how the user's data are read in this process; in one alone, as they are.

    Args:
        data: The user's.
        share: The part of this process.
        seed: The user's; without one the processes agree on that of the main one, in training, or on 0.
        training: Whether they are trained on.
    """
    if share.size == 1:
        return Dealt(bare(data), seed)
    if seed is None:
        # A draw as a DataLoader makes one: the user's own seed decides on it
        drawn = int(torch.empty((), dtype=torch.int64).random_()) if training else 0
        seed = share.everyone(drawn)[0] if training else 0
    part = bare(data) if isinstance(data, Sharded) else split_by_node(data, share)
    if part is not data:
        state = np.random.SeedSequence([int(seed) % 2**64, share.rank]).generate_state(1, np.uint64)
        return Dealt(part, int(state[0]) % 2**63, is_own=True)
    loader = whole(data)
    replaced = None if loader is data else loader.batch_sampler or loader.sampler
    name = None if replaced is None else getattr(replaced, "sampler", replaced).stands_for
    return Dealt(loader, seed, share, replaces=name)


def whole(loader: Any) -> Any:
    """Return a loader that has all samples, in the order that its DistributedSampler shares out; else the same one."""
    batches = getattr(loader, "batch_sampler", None)
    sampler: Any = getattr(loader, "sampler" if batches is None else "batch_sampler", None)
    sampler = getattr(sampler, "sampler", sampler)
    is_torchs = isinstance(sampler, DistributedSampler) and type(sampler).__iter__ is DistributedSampler.__iter__
    if not isinstance(loader, DataLoader) or not is_torchs or type(batches) not in (BatchSampler, type(None)):
        return loader
    order = WholeOrder(sampler)
    twin = copy.copy(loader)
    vars(twin)["sampler"] = order  # a DataLoader refuses to have its own set
    if batches is not None:
        vars(twin)["batch_sampler"] = BatchSampler(order, batches.batch_size, batches.drop_last)
    return twin


def split_by_node(data: Any, share: Share) -> Any:
    """Return the share of this process in a stream of Hugging Face, or in a loader of one; else the same data.

    Such a stream knows how to be shared out without being read whole.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if not _is_stream_of_hugging_face(dataset):
        return data
    part = import_module("datasets.distributed").split_dataset_by_node(dataset, rank=share.rank, world_size=share.size)
    if dataset is data:
        return part
    twin = copy.copy(data)
    vars(twin)["dataset"] = part
    return twin


def _is_stream_of_hugging_face(dataset: Any) -> bool:
    kind = type(dataset)
    return kind.__module__.partition(".")[0] == "datasets" and kind.__name__ == "IterableDataset"
