"""Data of which each process has a share of its own already."""

from __future__ import annotations

from typing import Any


class Sharded:
    """Says that each process has its own share of the data already, and reads all of it.

    Where several processes train together, every process is given a part of each batch by itself. That takes the same
    data in all of them. What is shared out already, such as files by the number of the process, is wrapped in this. The
    shares may differ in length: a process that has no more waits for the others, and nothing is counted twice. In one
    process it changes nothing.

    Example:
        >>> files = sorted(Path("data").glob("*.tar"))[rank::size]
        >>> model.fit(3, kt.Sharded(DataLoader(Tars(files), 32)))

    Args:
        data: Anything that `fit` takes.

    Attributes:
        data: The same.
    """

    def __init__(self, data: Any) -> None:
        self.data: Any = bare(data)

    def __repr__(self) -> str:
        return f"Sharded({self.data!r})"


def bare(data: Any) -> Any:
    """Return the data without the word that they are shared out."""
    return data.data if isinstance(data, Sharded) else data
