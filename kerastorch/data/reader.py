"""How a DataLoader, or any other iterable of batches, is read in `fit`, and how reading goes on where it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from kerastorch import randomness
from kerastorch.data import workers
from kerastorch.data.indices import Indices
from kerastorch.data.seeded import FETCH, ORDER, SeededSamples, SeededStream, UsersDataset, as_is
from kerastorch.data.share import Share
from kerastorch.data.whole import quick
from kerastorch.errors import DataError


class Reader:
    """Reads a loader epoch by epoch. Of a DataLoader it makes a copy, with workers of its own.

    To go on in the middle of an epoch, a DataLoader of a Dataset draws the order again and skips what was read, see
    `Indices`. What has a `state_dict` and a `load_state_dict` is given its own state. All else is read from the
    beginning of the epoch, under the random numbers that were there then, and thrown away until it is there.

    The copy has all that the user's loader has, without another call of `__init__`, whose arguments a class of the
    user's may have changed.

    Args:
        loader: The user's.
        name: What the user calls it, for messages.
        seed: Of order and batches; None for the random numbers of a plain loop.
        share: The part of the batches that this process has. Where samples have no numbers, all are read.
        drop_last: Leave out a last step that has not a batch for each process.
    """

    def __init__(
        self,
        loader: Any,
        *,
        name: str,
        seed: int | None,
        share: Share = Share(),  # noqa: B008  # it never changes
        drop_last: bool = False,
    ) -> None:
        self._loader = self._copy = loader
        self._name = name
        self._seed = seed
        self._share = share
        self._drop_last = drop_last
        self._epoch: int | None = None
        self._begin: dict[str, Any] | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._skipped = 0
        self._before_last: tuple[int, Any] | None = None
        self._keeps_last = False
        self._is_new = True
        self._generators = {
            path: one for path, one in randomness.generators(loader).items() if not randomness.is_global(one)
        }
        self.indices: Indices | None = None
        self._stream: SeededStream | None = None
        self.workers = 0
        if isinstance(loader, DataLoader):
            self.workers = loader.num_workers
            self._copy_loader(loader)
        self._stateful = _stateful(self._copy)

    def _copy_loader(self, loader: DataLoader[Any]) -> None:
        self._copy = copy.copy(quick(loader))
        attributes = vars(self._copy)
        attributes["_iterator"] = None
        initialise = loader.worker_init_fn
        is_stream = isinstance(loader.dataset, IterableDataset)
        in_workers = self._seed is not None and loader.num_workers > 0 and not _is_stateful(loader)
        if in_workers:
            initialise = UsersDataset(initialise)
            if is_stream:
                self._stream = SeededStream(loader.dataset, loader.batch_size or 1, self._seed or 0)
                attributes["dataset"] = self._stream
            else:
                attributes["dataset"] = SeededSamples(loader.dataset, loader.collate_fn, self._seed or 0)
                attributes["collate_fn"] = as_is
        if loader.num_workers:
            attributes["worker_init_fn"] = workers.initialiser(initialise)
        if not is_stream and not _is_stateful(loader):
            ahead = loader.num_workers * (loader.prefetch_factor or 0)
            self.indices = Indices(
                loader,
                name=self._name,
                seed=self._seed,
                numbered=in_workers,
                ahead=ahead,
                share=self._share,
                drop_last=self._drop_last,
            )
            attributes["sampler" if loader.batch_sampler is None else "batch_sampler"] = self.indices

    @property
    def replays(self) -> int:
        """Batches that the next epoch has to read again."""
        state = self._resumed
        return 0 if state is None or state["begin"] is None or state["own"] is not None else state["finished"]

    def begin(self, epoch: int, start: int, begun: int | None = None) -> Iterator[Any]:
        """Begin to read an epoch, behind so many batches; it was begun behind `begun` of them."""
        self._epoch, self._is_new = epoch, True
        if self.indices is not None:
            self.indices.begin(epoch, start if begun is None else begun)
        if self._stream is not None:
            self._stream.epoch = epoch
        state, self._resumed = self._resumed, None
        if state is not None:
            return self._go_on(state, start)
        self._begin = self._snapshot()
        return self._iterator()

    def fetch(self, iterator: Iterator[Any], index: int) -> Any:
        """Return the next item; StopIteration where there is none."""
        if self._keeps_last and self._stateful is not None and index % self._share.size == 0:
            self._before_last = (index, self._stateful.state_dict())
        is_first, self._is_new = self._is_new, False
        if self._seed is None or (self.workers and not is_first):
            return next(iterator)
        # With workers, a class with an __iter__ of its own begins here
        numbers = (ORDER,) if self.workers else (FETCH, index)
        with randomness.derived(self._seed, self._epoch or 0, *numbers):
            return next(iterator)

    def _iterator(self) -> Iterator[Any]:
        if self._seed is None:
            return iter(self._copy)
        with randomness.derived(self._seed, self._epoch or 0, ORDER):
            return iter(self._copy)

    def _snapshot(self) -> dict[str, Any]:
        generators = {path: randomness.state_of(one) for path, one in self._generators.items()}
        return {"random": randomness.capture(), "generators": generators}

    def _set(self, generators: Mapping[str, Any]) -> None:
        for path, state in generators.items():
            if path in self._generators:
                randomness.set_state(self._generators[path], state)

    def _persists(self) -> bool:
        return bool(self.workers and self._copy.persistent_workers)

    def state_dict(self, finished: int, handed: int | None) -> dict[str, Any]:
        """Return where the reading is.

        Args:
            finished: Batches of the epoch to go on behind.
            handed: Batches of the epoch that were read; None between two epochs.
        """
        state: dict[str, Any] = {
            "finished": finished,
            "processes": self._share.size,
            "has workers": self._persists() and vars(self._copy)["_iterator"] is not None,
            "generators": {path: randomness.state_of(one) for path, one in self._generators.items()},
            "order": None,
            "begin": None,
            "own": self._own_state(finished, handed),
        }
        if handed is not None and self.indices is not None and self.indices.asked:
            state["order"] = self.indices.state_dict(finished)
        elif handed is not None:
            state["begin"] = self._begin
        return state

    def _own_state(self, finished: int, handed: int | None) -> Any:
        if self._stateful is None or self._epoch is None:
            return None
        if handed in (None, finished):
            with randomness.kept():
                return self._stateful.state_dict()
        self._keeps_last = True  # a batch is read ahead of use: from now on, ask before each
        index, state = self._before_last or (None, None)
        return state if index == finished else None

    def load_state_dict(self, state: Mapping[str, Any], skipped: int = 0) -> None:
        """Let the next `begin` go on from there, behind so many samples of its first batch."""
        self._resumed, self._skipped = state, skipped

    def _go_on(self, state: Mapping[str, Any], start: int) -> Iterator[Any]:
        self._set(state["generators"])
        self._begin = state["begin"]
        if state["own"] is not None and self._stateful is not None:
            self._stateful.load_state_dict(state["own"])
        if state["order"] is not None and self.indices is not None:
            self.indices.load_state_dict(state["order"], start, self._skipped)
        elif state["begin"] is None:
            return self._next_epoch(state)
        elif state["own"] is None:
            return self._read_again(state, start)
        with randomness.kept():
            return self._iterator()

    def _next_epoch(self, state: Mapping[str, Any]) -> Iterator[Any]:
        self._begin = self._snapshot()
        if self.indices is not None:
            if state["has workers"]:
                self.indices.hide_seed()
            return self._iterator()
        if not state["has workers"] and state["own"] is None:
            return self._iterator()
        with randomness.kept():
            iterator = self._iterator()
        if isinstance(self._copy, DataLoader) and not self._persists():
            torch.empty((), dtype=torch.int64).random_(generator=self._copy.generator)  # as a new iterator does
        return iterator

    def _read_again(self, state: Mapping[str, Any], start: int) -> Iterator[Any]:
        with randomness.kept():
            randomness.restore(state["begin"]["random"])
            self._set(state["begin"]["generators"])
            iterator = self._iterator()
            for index in range(start):
                try:
                    self.fetch(iterator, index)
                except StopIteration:
                    if index > start - max(
                        self._share.size, state.get("processes", 1)
                    ):  # the last step may not be whole
                        break
                    raise DataError(
                        f"{self._name} cannot go on behind batch {start}: read again, it ends after {index} "
                        "batches. It gave more before."
                    ) from None
        if not self.workers:
            self._set(state["generators"])
        return iterator

    def stop(self, iterator: Iterator[Any]) -> None:
        """Let go of an iterator that may be in the middle, unless its workers are to persist."""
        if self.workers and not self._persists():
            workers.shut_down(iterator)

    def close(self) -> None:
        """End the workers."""
        iterator = vars(self._copy).get("_iterator") if self.workers else None
        if iterator is not None:
            workers.shut_down(iterator)
            vars(self._copy)["_iterator"] = None


def _stateful(loader: Any) -> Any:
    """Return what tells where it is, if anything does; the Dataset of workers does not, it is another process's."""
    if _is_stateful(loader):
        return loader
    if isinstance(loader, DataLoader) and not loader.num_workers and _is_stateful(loader.dataset):
        return loader.dataset
    return None


def _is_stateful(data: Any) -> bool:
    return hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
