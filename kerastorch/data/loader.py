"""A DataLoader, or any other iterable of batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from kerastorch.data import workers
from kerastorch.data.batch import Batch, unpack
from kerastorch.data.kinds import is_one_shot
from kerastorch.data.reader import Reader
from kerastorch.data.source import DataSource, too_few
from kerastorch.data.whole import quick
from kerastorch.errors import DataError, add_note

_END = object()


class LoaderSource(DataSource):
    """A DataLoader or any other iterable of batches, of known or unknown length.

    Args:
        loader: The user's.
        float_dtype: What float64 becomes.
        name: What the user calls it, for messages.
        seed: Of the order, and of all random numbers while a batch is read, in this process or in workers: batches of a
            Dataset are the same with any number of workers. By default, they are what a plain loop gives.
        in_fit: Whether it is read in `fit`: through a copy, whose workers end with it.
        heal_workers: How often workers are begun anew where one of them died.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        float_dtype: torch.dtype,
        name: str,
        seed: int | None = None,
        in_fit: bool = False,
        heal_workers: int = 0,
    ) -> None:
        self.name = name
        self.steps = _length(loader)
        self.one_shot = is_one_shot(loader)
        self.loader: Iterable[Any] = loader
        self.batch_size = getattr(loader, "batch_size", None)
        self.samples = _samples(loader)
        self._float_dtype = float_dtype
        self._seed = seed
        self._heals_left = self._heals = heal_workers
        self._has_given = False
        self._handed = 0
        self._is_open = False
        if self.steps == 0:
            raise DataError(_why_empty(loader, name))
        self._reader = Reader(loader, name=name, seed=seed) if in_fit else None
        self._iterator: Iterator[Any] = iter(())

    @property
    def replays(self) -> int:
        """Batches that have to be read again, to go on behind them."""
        return 0 if self._reader is None else self._reader.replays

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield what the loader gives, however much that is."""
        _set_epoch(self.loader, epoch)
        if self._reader is None:
            for index, item in enumerate(quick(self.loader)):
                self._has_given = True
                yield unpack(item, index, self._float_dtype)
        else:
            yield from self._read(self._reader, epoch, start)
        if not self._has_given and getattr(self.loader, "drop_last", False):  # a stream of unknown length
            raise DataError(too_few(self.name, None, self.batch_size))

    def _read(self, reader: Reader, epoch: int, start: int) -> Iterator[Batch]:
        self._handed, self._is_open = start, True
        self._has_given = self._has_given or start > 0
        try:
            self._iterator = reader.begin(epoch, start)
            while (item := self._fetch(reader, epoch)) is not _END:
                self._has_given = True
                batch = unpack(item, self._handed, self._float_dtype)
                del item  # the loop may want its memory
                self._handed += 1
                yield batch
        finally:
            self._is_open = False
            reader.stop(self._iterator)
            self._iterator = iter(())

    def _fetch(self, reader: Reader, epoch: int) -> Any:
        while True:
            try:
                with workers.fetching():
                    return reader.fetch(self._iterator, self._handed)
            except StopIteration:
                return _END
            except Exception as error:
                dead = workers.dead_worker(error, self._iterator)
                if dead is None:
                    self._explain(reader, error)
                    raise
                self._heal(reader, epoch, dead.describe(), error)

    def _explain(self, reader: Reader, error: Exception) -> None:
        samples = self._samples(reader)
        add_note(error, f"kerastorch: while batch {self._handed + 1} of {self.name} was read{samples}.")

    def _samples(self, reader: Reader) -> str:
        found = None if reader.indices is None else reader.indices.samples(self._handed)
        if found is None:
            return ""
        numbers = list(found) if isinstance(found, (list, tuple)) else [found]
        more = ", ..." if len(numbers) > 20 else ""
        return f", of the samples {', '.join(map(str, numbers[:20]))}{more}"

    def _heal(self, reader: Reader, epoch: int, what: str, error: Exception) -> None:
        """Begin workers anew, at the batch that was not read."""
        where = f"{self.name}: {what} while batch {self._handed + 1} was read{self._samples(reader)}"
        if reader.indices is None or not reader.indices.asked:
            raise DataError(
                f"{where}. A stream cannot go on in the middle with other workers. Mostly it is memory: say a smaller "
                "num_workers or prefetch_factor."
            ) from error
        if not self._heals_left:
            times = "" if not self._heals else f", and workers were begun anew {self._heals} times already"
            raise DataError(
                f"{where}{times}. Mostly it is memory: say a smaller num_workers, prefetch_factor or batch_size. With "
                "num_workers=0 an error of the Dataset shows itself."
            ) from error
        self._heals_left -= 1
        warnings.warn(f"{where}. They are begun anew, and go on with that batch.", stacklevel=2)
        state = reader.state_dict(self._handed, self._handed)
        workers.shut_down(self._iterator)
        reader.close()
        reader.load_state_dict(state)
        self._iterator = reader.begin(epoch, self._handed)

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return where the reading is: behind so many batches of the running epoch."""
        if self._reader is None:
            return {}
        return self._reader.state_dict(finished, self._handed if finished or self._is_open else None)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        if self._reader is not None:
            self._reader.load_state_dict(state)

    def fingerprint(self) -> dict[str, Any]:
        """Say what the loader says of itself."""
        loader: Any = self.loader
        dataset = getattr(loader, "dataset", None)
        sampler = getattr(loader, "sampler", None)
        if isinstance(loader, DataLoader) and self.batch_size is None and loader.batch_sampler is not None:
            sampler = loader.batch_sampler
        return {
            "kind": type(loader).__name__,
            "samples": None if dataset is None else _length(dataset),
            "batches": self.steps,
            "batch size": self.batch_size,
            "drop last": bool(getattr(loader, "drop_last", False)),
            "sampler": None if sampler is None else type(sampler).__name__,
            "workers": getattr(loader, "num_workers", 0),
            "seed": None if self._seed is None else int(self._seed),
        }

    def close(self) -> None:
        """End the workers, unless they are the user's."""
        if self._reader is not None:
            self._reader.close()


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # no __len__, or a DataLoader of an IterableDataset without one
        return None


def _samples(loader: Any) -> int | None:
    if type(loader) is not DataLoader or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    samples, steps = _length(loader.sampler), _length(loader)
    return None if samples is None or steps is None else min(samples, steps * loader.batch_size)


def _why_empty(loader: Any, name: str) -> str:
    dataset, size = getattr(loader, "dataset", None), getattr(loader, "batch_size", None)
    samples = None if dataset is None else _length(dataset)
    if samples and getattr(loader, "drop_last", False):
        return too_few(name, samples, size)
    return f"{name} is empty: it has no batches" + ("." if samples is None else f", its dataset has {samples} samples.")


def _set_epoch(loader: Any, epoch: int) -> None:
    # A DistributedSampler, or a stream of Hugging Face, shuffles anew only if it is told the epoch
    batch_sampler, dataset = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    parts = [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None), dataset]
    for part in {id(part): part for part in parts}.values():
        set_epoch = getattr(part, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
