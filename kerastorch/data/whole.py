"""Reads a loader of a TensorDataset batch by batch, in place of sample by sample."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from kerastorch.data.seeded import as_is


def quick(loader: Any) -> Any:
    """Return a loader that gives the same batches in less time, where there is one; else the same loader.

    There is one for tensors: a DataLoader of a TensorDataset, or of a Subset of one, reads each sample by itself and
    puts them together again, in 3.5 us a sample. To select all rows of a batch gives the same tensors in new memory.
    Samplers, random numbers and pinned memory are the loader's own.
    """
    if type(loader) is not DataLoader or loader.num_workers or loader.batch_sampler is None:
        return loader
    if loader.collate_fn is not default_collate or not _holds_tensors(loader.dataset):
        return loader
    twin = copy.copy(loader)
    vars(twin).update(dataset=WholeRows(loader.dataset), collate_fn=as_is)  # a DataLoader refuses to have its own set
    return twin


def _holds_tensors(dataset: Any) -> bool:
    while type(dataset) is Subset:  # a class of the user's own may change what it holds
        dataset = dataset.dataset
    return type(dataset) is TensorDataset


class WholeRows(Dataset[Any]):
    """Batches of a TensorDataset, or of a Subset of one, as `default_collate` makes them.

    What the dataset holds is looked up for each batch: it may be another than before.

    Args:
        dataset: The user's.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> Any:
        try:
            return self._select(indices)
        except (IndexError, RuntimeError, TypeError, ValueError):
            # Numbers from the end, as True and False, or none at all: what torch makes of them, or its error
            return default_collate([self._dataset[index] for index in indices])

    def _select(self, indices: Sequence[int]) -> list[torch.Tensor]:
        dataset = self._dataset
        while type(dataset) is Subset:
            numbers = dataset.indices
            indices, dataset = [numbers[index] for index in indices], dataset.dataset
        if not all(type(tensor) is torch.Tensor and tensor.device.type == "cpu" for tensor in dataset.tensors):
            raise TypeError("a class of its own may have rows of its own; and a GPU stops for good at a wrong number")
        chosen = indices if isinstance(indices, torch.Tensor) else torch.tensor(indices)
        return [tensor.index_select(0, chosen) for tensor in dataset.tensors]
