"""Batches worked off in parts: `fit(microbatch=...)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from numbers import Integral
from typing import Any, Literal, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kerastorch.data import Batch
from kerastorch.errors import DataError, add_note, did_you_mean
from kerastorch.memory.cutting import cut
from kerastorch.memory.shortage import Aside, Past, free, gradients_aside, is_out_of_memory, let_go
from kerastorch.memory.whole import Whole
from kerastorch.run import Run

Microbatch = int | Literal["auto"] | None
Note = Callable[[], None]
Result = TypeVar("Result")


def check(microbatch: Any) -> None:
    """See that `microbatch` says how to split.

    Raises:
        ValueError: It does not.
    """
    is_number = isinstance(microbatch, Integral) and not isinstance(microbatch, bool)
    if microbatch in (None, "auto") or (is_number and microbatch >= 1):
        return
    hint = did_you_mean(microbatch, ["auto"]) if isinstance(microbatch, str) else ""
    raise ValueError(
        f"microbatch is 'auto', a number of samples, 1 or more, or None for whole batches; got {microbatch!r}.{hint}"
    )


class Splitter:
    """Works a batch off whole where it fits into memory, else in parts, and remembers how small these must be.

    The parts are forward and backward passes of their own before one step of the optimizer. Each weighs in it what it
    weighs in the loss of the whole batch, so loss and gradients are those of the whole but for rounding. Another thing
    is what a net makes of the samples of a batch together, such as the statistics of BatchNorm in training; and random
    numbers, such as the masks of Dropout, are drawn part by part.

    A part that does not fit is begun anew in halves. All is then as it was before it: gradients, random numbers of
    Python, NumPy and torch, and statistics of the net. A generator that the net itself holds is not put back, nor what
    it keeps in other attributes.

    Args:
        microbatch: Samples in a part at most, always; or `"auto"`, as many as fit.
    """

    def __init__(self, microbatch: int | Literal["auto"]) -> None:
        self._most: int | None = None if microbatch == "auto" else int(microbatch)
        self._past: Past | None = Past() if microbatch == "auto" else None

    def learn(self, run: Run, batch: Batch, work: Callable[[Batch, Whole | None], Note | None]) -> Note | None:
        """Work a batch off in training.

        Args:
            run: The run.
            batch: The batch.
            work: Makes the gradients of a part and returns what notes its loss and metrics; None where the batch is to
                be left out, of which then nothing is kept.

        Returns:
            What notes what is not noted yet; None where the batch is left out.
        """
        optimizer, whole = run.state.optimizer, Whole(batch)
        assert optimizer is not None
        notes: list[Note] = []

        def part_of_it(part: Batch) -> Note | None:
            of = None if part is batch else whole
            if self._past is None:
                return work(part, of)
            aside = Aside(optimizer)  # a context manager would take 2 us
            try:
                note = work(part, of)
            except BaseException:
                aside.put_back()
                raise
            aside.add()
            return note

        try:
            with gradients_aside(optimizer) if run.nan == "skip" else nullcontext():
                for note in self.each(run, batch, part_of_it):
                    if note is None:
                        raise _LeftOut
                    if run.nan == "skip":
                        notes.append(note)  # a part that comes yet may leave all of them out
                    else:
                        note()  # now, so that it holds no output
        except _LeftOut:
            return None
        return lambda: _call(notes)

    def each(self, run: Run, batch: Batch, work: Callable[[Batch], Result]) -> Iterator[Result]:
        """Yield the results of the parts, in order; one that was yielded is not made again.

        Raises:
            DataError: The batch cannot be cut into parts of the size that was asked for.
        """
        parts, most = self._parts(batch), self._most
        while parts:
            past, part = self._past, parts[0]
            if past is None:
                yield work(parts.pop(0))
                continue
            past.keep(part.x, run.state.module if run.phase == "train" else None, run.device)
            try:
                result = work(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = _halves(parts, past, error)
                let_go(error)
            else:
                past.settle()
                del parts[0], part
                yield result
                del result
                continue
            del part
            past.put_back()
            free(run.device)
            parts, self._most = smaller, max(piece.size for piece in smaller)
        if self._most != most:
            run.say(_told(batch, self._most, run.state.module))

    def _parts(self, batch: Batch) -> list[Batch]:
        if self._most is None or batch.size <= self._most:
            return [batch]
        try:
            return cut(batch, self._most)
        except DataError as error:
            raise DataError(
                f"Batch {batch.index + 1} cannot be split into parts of {self._most} samples: {error}. "
                "Make the batches themselves smaller, and leave microbatch out."
            ) from None


class _LeftOut(Exception):
    """A batch makes no step."""


def _call(notes: list[Note]) -> None:
    for note in notes:
        note()


def _halves(parts: list[Batch], past: Past, error: BaseException) -> list[Batch]:
    """Return what is left of a batch in smaller parts; or raise the error, with a note why there are none."""
    size = parts[0].size
    try:
        if past.inputs_changed():
            raise DataError("the net has changed its inputs in place, so it cannot be begun anew")
        if size == 1:
            raise DataError("it is a single sample already")
        return [piece for part in parts for piece in cut(part, -(-size // 2))]
    except DataError as reason:
        text = str(reason)
    add_note(error, f"kerastorch: the batch did not fit into memory, and cannot be split: {text}.")
    raise error


def _told(batch: Batch, most: int | None, module: nn.Module) -> str:
    assert most is not None
    count = -(-batch.size // most)
    of = f"of {most}" if count * most == batch.size else f"of {most} at most"
    has_statistics = any(isinstance(part, _BatchNorm) and part.training for part in module.modules())
    but = ", but for BatchNorm, which sees one part at a time" if has_statistics else ""
    return (
        f"Batch {batch.index + 1} of {batch.size} samples did not fit into memory: from here on it is split into "
        f"{count} parts {of}; the numbers stay the same{but}."
    )
