"""Where batches come from: the forms of data behind one face."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from kerastorch.data.batch import Batch
from kerastorch.errors import DataError
from kerastorch.tree import leaves


class DataSource(ABC):
    """Batches, epoch by epoch.

    Attributes:
        name: What the user calls it, for messages: `"dl_train"`.
        steps: Batches per epoch; None while unknown.
        one_shot: It can be read once only.
        loader: What the batches are read from; None for data in memory.
        batch_size: Samples in a full batch; None while unknown.
        samples: Those of an epoch, as far as one can tell; None while unknown.
        nbytes: What data in memory take; 0 for what is read as it is needed.
        drop_last: A last batch that is short is left out.
        is_certain: There are as many steps as it says, and nobody need ask.
        advice: What to do where it is not, a sentence and a space.
        replaces: The name of what was to share it out, and is not needed.
    """

    name: str
    steps: int | None
    one_shot: bool = False
    loader: Iterable[Any] | None = None
    batch_size: int | None = None
    samples: int | None = None
    nbytes: int = 0
    drop_last: bool = False
    is_certain: bool = False
    advice: str = ""
    replaces: str | None = None

    @property
    def replays(self) -> int:
        """Batches that have to be read again, to go on behind them; known after `load_state_dict`."""
        return 0

    @property
    def deals(self) -> bool:
        """Whether it reads the share of this process only, and not all; known at the first batch."""
        return False

    @property
    def signature(self) -> tuple[str, int]:
        """What must be the same in all processes if they are to share the data, in words and in a checksum."""
        return "", 0

    @abstractmethod
    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `start` on; nothing is read before the first is asked for."""

    def state_dict(self, finished: int) -> dict[str, Any]:
        """Return what `load_state_dict` needs, as plain numbers and tensors.

        Args:
            finished: Batches of the running epoch that are worked off; one more may have been handed out. 0 between two
                epochs.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state with the next `batches(epoch, start)`, where `start` is what `finished` was.

        The global random numbers are those of the time when it was saved, and are so again at the first batch.
        """

    def place(self, state: Mapping[str, Any]) -> int | None:
        """Return the batch to go on at from a state, also of another number of processes; None if it does not say.

        Raises:
            DataError: The state is of batches of another size, and this place is in the middle of one.
        """
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Say what decides on the batches: runs with another one cannot go on where this one was."""
        return {}

    def reside(self, device: torch.device) -> None:
        """Keep data in memory on a device as well, and cut batches there, until `close`; others stay as they are."""

    def close(self) -> None:
        """Let go of what is held from one epoch to the next, such as the workers of a loader."""


class NoData(DataSource):
    """What a run without training or without validation has."""

    name = "no data"
    steps = 0

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield nothing."""
        return iter(())


def common_length(data: tuple[Any, ...], name: str) -> int:
    """Return how many samples there are.

    Args:
        data: Tensors, arrays or tables, however nested.
        name: What the user calls it, for messages.

    Raises:
        DataError: There are none, or lengths differ.
    """
    shapes = [tuple(leaf.shape) for part in data for leaf in leaves(part) if leaf is not None]
    lengths = [shape[0] if shape else 0 for shape in shapes]
    if len(set(lengths)) != 1:
        raise DataError(f"The arrays of {name} differ in length: {', '.join(map(str, lengths))}.")
    if not lengths[0]:
        raise DataError(f"{name} is empty: its arrays have no samples.")
    return int(lengths[0])


def too_few(name: str, samples: int | None, batch_size: int | None) -> str:
    """Say why there is no batch."""
    those = "samples" if samples is None else f"{samples} samples"
    return (
        f"{name} gives no batch: its {those} are fewer than batch_size={batch_size}, and drop_last=True drops them. "
        "Make batch_size smaller or say drop_last=False."
    )
