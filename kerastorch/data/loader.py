"""A DataLoader, or any other iterable of batches."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from kerastorch.data import workers
from kerastorch.data.batch import Batch, unpack
from kerastorch.data.indices import Indices, is_known
from kerastorch.data.kinds import is_one_shot
from kerastorch.data.order import SeededOrder
from kerastorch.data.position import place, position
from kerastorch.data.reader import Reader
from kerastorch.data.share import Share
from kerastorch.data.source import DataSource, too_few
from kerastorch.data.whole import quick
from kerastorch.errors import DataError, add_note

_END = object()
_ADVICE = "A generator must have the same seed in all processes: torch.Generator().manual_seed(0). "


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
        share: The part of the batches that this process has; batches of samples without numbers are all read.
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
        share: Share = Share(),  # noqa: B008  # it never changes
    ) -> None:
        self.name = name
        self.steps = _length(loader)
        self.one_shot = is_one_shot(loader)
        self.loader: Iterable[Any] = loader
        self.batch_size = getattr(loader, "batch_size", None)
        self.samples = _samples(loader)
        self._float_dtype = float_dtype
        self.drop_last = _drops(loader)
        self.is_certain = self.steps is not None and _is_regular(loader)
        self.advice = _ADVICE
        self._seed = seed
        self._share = share
        self._heals_left = self._heals = heal_workers
        self._has_given = False
        self._handed = self._begun = 0
        self._is_open = False
        if self.steps == 0:
            raise DataError(_why_empty(loader, name))
        self._reader = self._new_reader() if in_fit else None
        self._iterator: Iterator[Any] = iter(())

    def _new_reader(self) -> Reader:
        return Reader(self.loader, name=self.name, seed=self._seed, share=self._share, drop_last=self.drop_last)

    @property
    def deals(self) -> bool:
        """It does if the loader asks for samples by their numbers."""
        return self._indices is not None

    @property
    def signature(self) -> tuple[str, int]:
        """The samples that were drawn first, and the seed of their order."""
        first = None if self._indices is None else self._indices.first
        shown = f"{str(first[:8])[:-1]}, ...]" if isinstance(first, list) and len(first) > 8 else str(first)
        return f"the samples {shown}, seed {self._seed}", zlib.crc32(repr(first).encode())

    @property
    def _indices(self) -> Indices | None:
        indices = None if self._reader is None else self._reader.indices
        return indices if indices is not None and indices.asked else None

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
            self._begun = start
            self._iterator = reader.begin(epoch, start)
            while (item := self._fetch(reader, epoch)) is not _END:
                self._has_given = True
                batch = unpack(item, self._handed, self._float_dtype)
                del item  # the loop may want its memory
                if reader.indices is not None and reader.indices.dealt:
                    batch.index = reader.indices.dealt.popleft()  # the batches between are those of others
                self._handed = batch.index + 1
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
        self._iterator = reader.begin(epoch, self._handed, self._begun)

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return where the reading is: behind so many batches of the running epoch."""
        if self._reader is None:
            return {}
        if self._share.size > 1 and self._indices is None:
            finished = min(finished, self._handed)  # the last step may not be whole
        return {
            **self._reader.state_dict(finished, self._handed if finished or self._is_open else None),
            "seed": None if self._seed is None else int(self._seed),
            "position": position(finished, self.batch_size, self.samples),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        if self._reader is None or not state:
            return
        if state.get("seed") not in (None, self._seed):  # several processes may have agreed on one
            self._reseed(state["seed"])
        self._reader.load_state_dict(state, self._place(state)[1])

    def _reseed(self, seed: int) -> None:
        order = getattr(self.loader, "sampler", None)
        if isinstance(order, SeededOrder):
            order.seed = seed
        self.close()
        self._seed = seed
        self._reader = self._new_reader()

    def place(self, state: Mapping[str, Any]) -> int | None:
        """Return the batch to go on at; of a Dataset, its first samples may be behind."""
        return self._place(state)[0]

    def _place(self, state: Mapping[str, Any]) -> tuple[int | None, int]:
        found = state.get("position")
        if found is None:
            return None, 0
        by_sample = (
            state["order"] is not None
            and self.samples is not None
            and type(getattr(self.loader, "batch_sampler", None)) is BatchSampler
        )
        number, skipped = place(found, self.batch_size, self.name, by_sample=by_sample)
        if skipped and self.steps is not None and found["samples"] == self.samples:
            return self.steps, 0
        return number, skipped

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
            "sampler": None if sampler is None else getattr(sampler, "stands_for", type(sampler).__name__),
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


def _drops(loader: Any) -> bool:
    batches = getattr(loader, "batch_sampler", None)
    return bool(getattr(batches, "drop_last", getattr(loader, "drop_last", False)))


def _is_regular(loader: Any) -> bool:
    """Whether its length is right: nothing of it is of the user's own."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False
    return is_known(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)


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
