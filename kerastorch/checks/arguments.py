"""Arguments of a call."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from kerastorch.data.source import DataSource
from kerastorch.errors import DataError


def epochs(count: Any, initial: Any) -> None:
    """See that there is an epoch to train.

    Raises:
        TypeError: `count` is no whole number; often the data were given first.
        ValueError: There is none.
    """
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise TypeError(
            f"epochs is a whole number and comes first: fit(3, dl_train, dl_val); got {type(count).__name__}."
        )
    if not 0 <= initial < count:
        raise ValueError(
            f"There is no epoch to train: epochs={count}, initial_epoch={initial}; epochs is where to end."
        )


def one_validation(data: Any, share: float | None, stratify: Any) -> None:
    """See that there are not two things to validate on, and that what is stratified is split.

    Raises:
        ValueError: There are, or it is not.
    """
    if data is not None and share is not None:
        raise ValueError("dl_val and validation_split are two things to validate on; give one of them.")
    if share is None and stratify is not False and stratify is not None:
        raise ValueError("stratify says how to split; say validation_split=0.2 as well.")


def positive(**numbers: int | None) -> None:
    """See that what is given is at least 1.

    Raises:
        ValueError: It is not.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is at least 1; got {number}.")


def enough_data(source: DataSource, epochs: int) -> None:
    """See that data for several epochs can be read more than once.

    Raises:
        DataError: A generator, or another iterator that has an end.
    """
    if source.one_shot and epochs > 1:
        steps = "validation_steps" if source.name.startswith("dl_val") else "steps_per_epoch"
        raise DataError(
            f"{source.name} is a generator or iterator, which can be read once, but {epochs} epochs were asked for. "
            f"Pass a list or a DataLoader, or say {steps}=."
        )
