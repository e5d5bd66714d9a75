"""Data of which several processes read a part each, and make the same number of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import torch

from kerastorch.data.batch import Batch
from kerastorch.data.share import Share, checksum
from kerastorch.data.source import DataSource
from kerastorch.errors import DataError
from kerastorch.tree import tensors


class Shared(DataSource):
    """Another source, of which this process has a share.

    A batch is numbered by its step here. A process that has no batch left in a step has the one before again, with
    `is_filler`. Where the number of steps is certain, nothing is said between processes but at the first batch of an
    epoch, whether they read the same; where not, they agree on each step whether there is one, in half a millisecond.

    Args:
        source: The other one, which was given the same share, or none where it is this process's own.
        share: The share.
        is_own: Whether all that the source has is this process's.
        told_seed: The seed that the user gave.

    Raises:
        DataError: There is not a batch for each process, and `drop_last` drops the others.
    """

    def __init__(self, source: DataSource, share: Share, *, is_own: bool = False, told_seed: int | None = None) -> None:
        self.name = source.name
        self.one_shot = source.one_shot
        self.loader = source.loader
        self.batch_size = source.batch_size
        self.nbytes = source.nbytes
        self.replaces = source.replaces
        self._source = source
        self._share = share
        self._is_own = is_own
        self._told_seed = told_seed
        self._first: int | None = None  # the batch to go on at, after `load_state_dict`
        self._handed = 0  # batches of the source, where it is this process's own
        everyones = share.everyone((source.steps, source.samples, source.is_certain)) if is_own else []
        self.steps = self._count([steps for steps, _, _ in everyones])
        self.samples = _total([samples for _, samples, _ in everyones]) if is_own else source.samples
        self.is_certain = self.steps is not None and source.is_certain and all(sure for _, _, sure in everyones)
        if self.steps == 0:
            raise DataError(
                f"{self.name} gives no step: its {source.steps} batches of {source.batch_size} samples are fewer than "
                f"the {share.size} processes, and drop_last=True drops them. Make batch_size smaller or say "
                "drop_last=False."
            )

    def _count(self, everyones: list[int | None]) -> int | None:
        if self._is_own:
            known = [steps for steps in everyones if steps is not None]
            return max(known) if len(known) == len(everyones) else None
        steps, size = self._source.steps, self._share.size
        if steps is None:
            return None
        return steps // size if self._source.drop_last else -(-steps // size)

    @property
    def replays(self) -> int:
        """Batches that have to be read again, to go on behind them."""
        return self._source.replays

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's batch of each step."""
        first, self._first = self._first, None
        if first is None:
            first = start if self._is_own else start * self._share.size
        with closing(self._source.batches(epoch, first)) as batches:  # type: ignore[type-var]
            yield from self._filled(batches, start, first)

    def _filled(self, batches: Iterator[Batch], start: int, first: int) -> Iterator[Batch]:
        self._handed, index, kept = first, start, None
        while not (self.is_certain and self.steps is not None and index >= self.steps):
            batch = next(batches, None)
            if index == start:
                batches = self._begin(batch, batches, first)
                batch = next(batches, None)
            if not self.is_certain and not any(self._share.everyone(batch is not None)):
                return
            is_filler = batch is None or not (self._is_own or self._share.takes(batch.index, first))
            if batch is not None:
                self._handed += 1
                kept = dataclasses.replace(batch)  # callbacks may change the batch itself
            elif kept is None:
                raise DataError(self._why_none())
            yield dataclasses.replace(kept, index=index, is_filler=is_filler)
            index += 1
            del batch  # the loop may want its memory
        next(batches, None)  # so that the source sees its end

    def _begin(self, head: Batch | None, batches: Iterator[Batch], first: int) -> Iterator[Batch]:
        """See that all processes read the same; return this one's batches."""
        again = iter(()) if head is None else iter((head,))
        if self._is_own:
            if not all(found := self._share.everyone(head is not None)) and any(found):
                empty = ", ".join(str(rank) for rank, has in enumerate(found) if not has)
                raise DataError(
                    f"{self.name} is empty in the process {empty}, and others have some. Share it out anew."
                )
            return _joined(again, batches)
        signature = self._source.signature
        if not self._source.deals:
            signature = ("no batch", 0) if head is None else (head.describe(), checksum(tensors((head.x, head.y))))
        self._agree(signature)
        joined = _joined(again, batches)
        if self._source.deals:
            return joined
        numbered = ((batch.index, batch) for batch in joined)
        dealt = self._share.deal(numbered, first, drop_last=self._source.drop_last)
        return (batch for _, batch in dealt)

    def _agree(self, signature: Any) -> None:
        found = self._share.everyone((self._source.steps, signature))
        other = next((rank for rank, each in enumerate(found) if each != found[0]), None)
        if other is None:
            return
        raise DataError(
            f"The processes read different data as {self.name}: process 0 begins with {_shown(found[0])}, process "
            f"{other} with {_shown(found[other])}. Each is given its part of each batch, so all have to read the same "
            f"in the same order. {self._source.advice}If each process has its own share already, by a sampler or by "
            "itself, pass kt.Sharded(data) in place of the data."
        )

    def _why_none(self) -> str:
        return f"{self.name} ended before its first batch, though it says that it has {self._source.steps} batches."

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return where the reading is; of data of its own, each process tells the others."""
        if self._is_own:
            own = self._source.state_dict(min(finished, self._handed) if finished else 0)
            return {"processes": self._share.everyone(own), "finished": finished}
        known, behind = self._source.steps, finished * self._share.size
        return self._source.state_dict(behind if known is None else min(behind, known))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, also where it was saved by another number of processes."""
        own = self._own(state)
        self._source.load_state_dict(own)
        self._first = self._source.place(own)

    def place(self, state: Mapping[str, Any]) -> int | None:
        """Return the step to go on at."""
        if self._is_own:
            self._own(state)
            return int(state["finished"])
        number = self._source.place(state)
        if number is None:
            return None
        if self._source.steps is not None and number >= self._source.steps and self.steps is not None:
            return self.steps
        return number // self._share.size

    def _own(self, state: Mapping[str, Any]) -> Any:
        if not self._is_own:
            return state
        processes = state.get("processes", [state])
        if len(processes) == self._share.size:
            return processes[self._share.rank]
        if not state.get("finished", 1):
            return {}
        raise DataError(
            f"{self.name} was shared out by yourself, kt.Sharded, among {len(processes)} processes, and here are "
            f"{self._share.size}. In the middle of an epoch nobody knows what of it was read. Go on with as many as "
            "before, or from the end of an epoch."
        )

    def fingerprint(self) -> dict[str, Any]:
        """Say what the other source says, with the seed of the user's, if there is one."""
        told = self._source.fingerprint()
        return {**told, "seed": self._told_seed} if "seed" in told else told

    def reside(self, device: torch.device) -> None:
        """Keep data in memory on a device as well."""
        self._source.reside(device)

    def close(self) -> None:
        """Let go of what the other source holds."""
        self._source.close()


def _joined(*parts: Iterator[Batch]) -> Iterator[Batch]:
    for part in parts:
        yield from part


def _total(each: list[int | None]) -> int | None:
    known = [count for count in each if count is not None]
    return sum(known) if len(known) == len(each) else None


def _shown(found: Any) -> str:
    steps, (what, _) = found
    return what if steps is None else f"{what}, {steps} batches"
