"""Which samples a DataLoader has handed out, and how to get there again without reading them."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.utils.data import DataLoader

from kerastorch import randomness
from kerastorch.data.order import SeededOrder, WholeOrder
from kerastorch.data.seeded import FETCH, ORDER
from kerastorch.data.share import Share
from kerastorch.errors import DataError

_CHECKED = 64  # samples that show whether an order is the same
_WATCHED = 4  # batches in which a sampler shows that it draws as it goes
_END = object()


class Indices:
    """The batch sampler of a DataLoader, or its sampler where that is asked for batches; it knows where it is.

    It hands out what the sampler gives, when the sampler gives it, so a loop is the same with it and without. To go on
    in the middle of an epoch, the order is drawn again from the random numbers that were there when it was drawn, and
    what was handed out before is skipped.

    Samplers of torch draw from the global random numbers once, at the first batch: those are noted. One of the user's
    own may draw before each batch, between two steps of training. To draw all at once would change what these steps
    draw, and the loop would not be the plain one any more; so the numbers before each draw of such a sampler are noted,
    some 10 kB a batch. It is seen in the first batches. One that shows it later only is found when its order is drawn
    again, and refused, since samples would come twice and others never.

    With a seed, every draw has numbers that follow from it, and nothing need be noted.

    Args:
        loader: Whose sampler it is.
        name: What the user calls it, for messages.
        seed: Of the orders, unless the sampler has generators of its own; None for global random numbers.
        numbered: Hand out `(epoch, number, indices)`.
        ahead: How many batches may be asked for before the first of them is used.
        share: The part of the batches that this process has; those of others are drawn, and not handed out.
        drop_last: Leave out a last step that has not a batch for each process.

    Attributes:
        dealt: The numbers of the batches that were handed out lately, where others have some too.
        first: What was drawn first in this epoch, for others to compare.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        name: str,
        seed: int | None,
        numbered: bool = False,
        ahead: int = 0,
        share: Share = Share(),  # noqa: B008  # it never changes
        drop_last: bool = False,
    ) -> None:
        self._inner: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._name = name
        self._seed = seed
        self._numbered = numbered
        self._ahead = ahead
        self._foreign = not is_known(self._inner)
        self.own = {
            path: generator
            for path, generator in randomness.generators(loader).items()
            if not path.startswith("dataset.") and not randomness.is_global(generator)
        }
        self.epoch = 0
        self.asked = False  # whether the loader asked for samples at all; a subclass may have its own way
        self.dealt: deque[int] = deque()
        self.first: Any = None
        self._share = share
        self._drop_last = drop_last
        self._begun = 0  # where reading began in this epoch
        self._last_step = share.size  # batches that a step may have, and may lack at the end
        self._recent: deque[tuple[int, Any, int]] = deque(maxlen=(ahead + 3) * share.size)
        self._state: dict[str, Any] = {"before": {}, "generators": {}, "begin": None}
        self._position: tuple[dict[str, Any], int, int] | None = None
        self._hides_seed = False
        self._untouched: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_inner" not in vars(self):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return how to get behind so many batches of this epoch."""
        checks = {number: check for number, _, check in self._recent}
        before = {number: state for number, state in self._state["before"].items() if number <= self._last()}
        shared = {"checksum": checks.get(finished - 1), "processes": self._share.size}
        return {**self._state, "before": before, **shared}

    def load_state_dict(self, state: Mapping[str, Any], finished: int, skipped: int = 0) -> None:
        """Begin the next epoch behind so many batches, and so many samples of one."""
        self._position = (dict(state), finished, skipped)

    def hide_seed(self) -> None:
        """Leave no trace of the seed of workers that, but for an interruption, were there already."""
        self._hides_seed = True

    def samples(self, number: int) -> Any:
        """Return which samples a batch is made of that was asked for lately; else None."""
        return next((indices for there, indices, _ in self._recent if there == number), None)

    def _last(self) -> int:
        return self._recent[-1][0] if self._recent else -1

    def begin(self, epoch: int, begun: int = 0) -> None:
        """Begin an epoch, which is read from so many batches on: the loader asks for an iterator next.

        With workers it does so twice.
        """
        self.epoch, self.asked, self._untouched, self._begun = epoch, False, None, begun
        self._recent.clear()
        self.dealt.clear()

    def __iter__(self) -> Iterator[Any]:
        self.asked = True
        now = self._snapshot()
        self._untouched = self._untouched or now  # before the seed of workers was drawn
        if self._position is not None:
            return self._again(*self._position)
        if self._hides_seed:
            return self._fresh(None)
        with self._drawn_by_seed(-1):
            iterator = iter(self._inner)
        self._state = {"before": {}, "generators": {}, "begin": None if _is_lazy(iterator) else now}
        return self._fresh(iterator)

    def _snapshot(self) -> dict[str, Any]:
        generators = {path: randomness.state_of(generator) for path, generator in self.own.items()}
        return {"random": randomness.capture(), "generators": generators}

    def _put_back(self, snapshot: Mapping[str, Any]) -> None:
        randomness.restore(snapshot["random"])
        self._set(snapshot["generators"])

    def _set(self, generators: Mapping[str, Any]) -> None:
        for path, state in generators.items():
            if path in self.own:
                randomness.set_state(self.own[path], state)

    def _drawn_by_seed(self, number: int) -> AbstractContextManager[None]:
        if self._seed is None or (number > 0 and not self._foreign):
            return nullcontext()
        return randomness.derived(self._seed, self.epoch, ORDER, number + 1)

    def _fresh(self, iterator: Iterator[Any] | None) -> Iterator[Any]:
        if iterator is None:
            now = self._without_seed()
            with self._drawn_by_seed(-1):
                iterator = iter(self._inner)
            self._state = {"before": {}, "generators": {}, "begin": now}
        self._state["generators"] = {path: randomness.state_of(one) for path, one in self.own.items()}
        yield from self._hand_out(self._all(iterator, {}, 0, 0, None), 0)

    def _without_seed(self) -> Mapping[str, Any]:
        """Leave no trace of the seed of workers; return the random numbers."""
        untouched = self._untouched or self._snapshot()
        self._position, self._hides_seed = None, False
        self._set(untouched["generators"])
        if self._seed is None:  # else a seed was drawn aside
            randomness.restore(untouched["random"])
        return untouched

    def _again(self, state: Mapping[str, Any], finished: int, skipped: int) -> Iterator[Any]:
        """Draw an order again. The random numbers of now are for what comes after."""
        self._without_seed()
        self._state = {name: state[name] for name in ("before", "generators", "begin")}
        before = dict(state["before"])
        with randomness.kept():
            if state["begin"] is not None:
                self._put_back(state["begin"])
            with self._drawn_by_seed(-1):
                iterator = iter(self._inner)
        self._set(state["generators"])
        self._last_step = max(self._share.size, state.get("processes", 1))
        yield from self._hand_out(self._all(iterator, before, finished, skipped, state.get("checksum")), finished)

    def _hand_out(self, batches: Iterator[tuple[int, Any]], begun: int) -> Iterator[Any]:
        """Yield those of this process, as the loader wants them."""
        is_shared = self._share.size > 1
        if is_shared:
            is_served = begun > self._begun
            batches = self._share.deal(batches, self._begun, is_served=is_served, drop_last=self._drop_last)
        for number, indices in batches:
            if is_shared:
                self.dealt.append(number)
            if self._seed is not None and not self._ahead and (number == begun or is_shared):
                # A class with an __iter__ of its own begins late, and others have had the numbers between
                randomness.reseed(self._seed, self.epoch, FETCH, number)
            yield (self.epoch, number, indices) if self._numbered else indices

    def _all(
        self, iterator: Iterator[Any], before: Mapping[int, Any], finished: int, skipped: int, expected: int | None
    ) -> Iterator[tuple[int, Any]]:
        """Yield number and samples of each batch that is not finished; of the first of them, some may be."""
        check = seen = number = 0
        drawn = max([finished, *(number + 1 for number in before)])  # what was asked for ahead was drawn then, too
        while self._foreign or seen < _CHECKED or number <= drawn:
            indices = self._draw_again(iterator, number, before) if number < drawn else self._draw(iterator, number)
            if indices is _END and number > finished - self._last_step:  # the last step may not be whole
                return
            if number == finished:
                check, seen = self._count(check, seen, indices[:skipped]) if skipped else (check, seen)
                indices = indices[skipped:] if skipped else indices
            if indices is _END or (number == finished and expected not in (None, check)):
                raise DataError(self._why_not(finished))
            check, seen = self._count(check, seen, indices)
            self._recent.append((number, indices, check))
            if number >= finished:
                self.first = indices if number == finished else self.first
                yield number, indices
            number += 1
        for ahead, indices in enumerate(iterator, number):  # nothing is left to be seen to, and no time to be lost
            self._recent.append((ahead, indices, check))
            yield ahead, indices

    def _count(self, check: int, seen: int, indices: Any) -> tuple[int, int]:
        """Count samples into the checksum of the order, which does not depend on how they are cut into batches."""
        several = list(indices) if isinstance(indices, list) else [indices]
        several = several if self._foreign else several[: _CHECKED - seen]
        return (
            (zlib.crc32(f"{repr(several)[1:-1]}, ".encode(), check), seen + len(several)) if several else (check, seen)
        )

    def _draw(self, iterator: Iterator[Any], number: int) -> Any:
        before = self._state["before"]
        if self._seed is not None:
            with self._drawn_by_seed(number):
                return next(iterator, _END)
        if number and not (self._foreign and (number < _WATCHED or len(before) > 1)):
            return next(iterator, _END)
        now = randomness.capture()
        indices = next(iterator, _END)
        if number == 0 or not randomness.same(now, randomness.capture()):
            before[number] = now
        return indices

    def _draw_again(self, iterator: Iterator[Any], number: int, before: Mapping[int, Any]) -> Any:
        if number not in before:
            with self._drawn_by_seed(number):
                return next(iterator, _END)
        with randomness.kept():
            randomness.restore(before[number])
            return next(iterator, _END)

    def _why_not(self, finished: int) -> str:
        kind = type(getattr(self._inner, "sampler", self._inner)).__name__
        return (
            f"{self._name} cannot go on behind batch {finished}: the order of its samples, drawn again by {kind}, is "
            "another one than before. Either the data or the sampler changed, or the sampler draws from random numbers "
            "that are not known here. Give it a generator as an attribute, or say seed= in fit from the beginning on. "
            "This time, go on from the end of an epoch."
        )


def _is_lazy(iterator: Any) -> bool:
    return type(iterator).__name__ == "generator"  # nothing of it has run yet


def is_known(sampler: Any) -> bool:
    """Whether all it draws from the global random numbers comes before its first batch."""
    if not isinstance(sampler, (SeededOrder, WholeOrder, list, tuple, range)) and not type(
        sampler
    ).__module__.startswith("torch."):
        return False
    return not hasattr(sampler, "sampler") or is_known(sampler.sampler)
