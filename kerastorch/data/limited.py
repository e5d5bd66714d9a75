"""So many batches an epoch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch

from kerastorch.data.batch import Batch
from kerastorch.data.source import DataSource


class LimitedSource(DataSource):
    """Another source, `steps` batches an epoch.

    With `continues`, as in training, an epoch goes on where the last one ended, and begins anew at the end of the data;
    without, every epoch has the same first batches. So the place is a reading of the data, and a batch of that reading.

    Args:
        source: The other one.
        steps: How many batches.
        continues: Whether an epoch goes on where the last one ended.
        processes: How many have a batch each in a step.
    """

    def __init__(self, source: DataSource, steps: int, *, continues: bool, processes: int = 1) -> None:
        self.name = source.name
        self.steps: int = steps
        self.loader = source.loader
        self.batch_size = source.batch_size
        self.nbytes = source.nbytes
        if not continues and source.samples is not None and source.batch_size is not None:
            self.samples = min(source.samples, steps * source.batch_size * processes)
        self.replaces = source.replaces
        self._source = source
        self._reading = self._within = 0  # of the next batch
        self._handed = 0  # batches of the running epoch that were handed out
        self._is_open = False
        self._continued = self._endless() if continues else None

    @property
    def replays(self) -> int:
        """Batches that have to be read again, to go on behind them."""
        return self._source.replays

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield `steps` batches; fewer, with a warning, where the data can be read only once and end."""
        batches = self._continued or self._source.batches(epoch, start)
        self._handed, self._is_open = start, True
        try:
            for batch in itertools.islice(batches, self.steps - start):
                batch.index = self._handed
                self._handed += 1
                yield batch
        finally:
            self._is_open = False
        if 0 < self._handed < self.steps:
            warnings.warn(f"{self.name} ran out of data after {self._handed} of {self.steps} batches.", stacklevel=2)

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return where the reading is: behind so many batches of the running epoch."""
        if self._continued is None:
            return {"source": self._source.state_dict(finished), "finished": finished}
        ahead = self._handed - finished if finished or self._is_open else 0
        within = self._within - ahead
        source = self._source.state_dict(within)
        return {"reading": self._reading, "within": within, "source": source, "finished": finished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._source.load_state_dict(state["source"])
        if self._continued is not None:
            within = self._source.place(state["source"])
            self._reading, self._within = state["reading"], state["within"] if within is None else within
            self._continued = self._endless()

    def place(self, state: Mapping[str, Any]) -> int | None:
        """Return the batch to go on at: a limit counts steps, however many samples are in one."""
        return state.get("finished")

    def fingerprint(self) -> dict[str, Any]:
        """Say of what kind the data are, and how many batches an epoch has."""
        return {**self._source.fingerprint(), "batches": self.steps}

    def reside(self, device: torch.device) -> None:
        """Keep data in memory on a device as well."""
        self._source.reside(device)

    def close(self) -> None:
        """Stop in the middle of the other source."""
        if self._continued is not None:
            self._continued.close()
        self._source.close()

    def _endless(self) -> Generator[Batch, None, None]:
        while True:
            is_empty = not self._within
            for batch in self._source.batches(self._reading, self._within):
                is_empty = False
                self._within += 1
                yield batch
            if is_empty:
                return
            self._reading, self._within = self._reading + 1, 0
