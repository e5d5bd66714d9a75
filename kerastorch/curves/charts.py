"""Which column goes into which chart, and what it is called there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kerastorch.errors import did_you_mean

TRAINING = "training"
_ONLY_IF_ASKED = ("seconds", "samples_per_second")
Best = tuple[int, float]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: What the legend calls it.
        points: Epochs, counted from 1, and their finite values.
        best: The one to mark.
        colour: Which of the colours, from 0.
        style: 0 for a dashed line, then a solid one, a dotted one, and one of dashes and dots.
    """

    label: str
    points: Sequence[tuple[int, float]]
    best: Best | None = None
    colour: int = 0
    style: int = 1


@dataclass(frozen=True)
class Chart:
    """One pair of axes.

    Attributes:
        title: The name of the metric.
        curves: Training first.
    """

    title: str
    curves: Sequence[Curve]


def grouped(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Put the training and the validation of a metric together.

    Example:
        >>> grouped(["loss", "val_loss", "lr"])
        {'loss': {'loss': 'training', 'val_loss': 'validation'}, 'lr': {'lr': 'training'}}

    Returns:
        For each metric the names of its columns, and what each of them is.
    """
    names = list(names)
    trained = [name for name in names if not name.startswith("val_")]
    validated = [name.removeprefix("val_") for name in names if name.startswith("val_")]
    # Validation sets have names or there is one without: val_weighted_loss beside val_loss is a metric, not a set
    sets = [] if set(validated) & set(trained) else _sets(validated, trained)
    found = {name: {name: TRAINING} for name in trained}
    for rest in validated:
        place = max((place for place in sets if rest.startswith(place)), key=len, default="")
        label = f"validation {place[:-1]}" if place else "validation"
        found.setdefault(rest.removeprefix(place), {})[f"val_{rest}"] = label
    return found


def _sets(validated: list[str], trained: list[str]) -> list[str]:
    """Return what the values of each validation set are named after, such as `easy_`."""
    found = []
    for rest in validated:
        metrics = [name for name in trained if rest.endswith(f"_{name}")]
        if metrics:
            found.append(rest.removesuffix(max(metrics, key=len)))
    return list(dict.fromkeys(found))


def charts(
    columns: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    *,
    best: Mapping[str, Best],
    names: Sequence[str] | None = None,
) -> list[Chart]:
    """Make a chart of each metric.

    Args:
        columns: One number per epoch by name; what is not finite is left out.
        epochs: Their numbers, from 0.
        best: Number and value of the best epoch of those columns that have one.
        names: Metrics, each with its validation, or single columns; by default all of them but times, and a learning
            rate that stays the same.

    Raises:
        KeyError: There is no such name.
    """
    chosen = _all(columns) if names is None else _chosen(columns, names)
    marks = {name: (epoch + 1, value) for name, (epoch, value) in best.items()}
    found = []
    for title, labels in chosen.items():
        first = 0 if TRAINING in labels.values() else 1  # validation has the same colour without training beside it
        curves = [
            Curve(
                label=label,
                points=_points(epochs, columns[name]),
                best=marks.get(name),
                colour=colour,
                style=0 if label == TRAINING and len(labels) > 1 else 1,
            )
            for colour, (name, label) in enumerate(labels.items(), first)
        ]
        found.append(Chart(title, curves))
    return found


def known(columns: Iterable[str]) -> set[str]:
    """Return the names that can be asked for: of metrics and of single columns."""
    columns = list(columns)
    return {*grouped(columns), *columns}


def _all(columns: Mapping[str, Sequence[float]]) -> dict[str, dict[str, str]]:
    found = {title: labels for title, labels in grouped(columns).items() if title not in _ONLY_IF_ASKED}
    rates = {title: found.pop(title) for title in list(found) if title == "lr" or title.startswith("lr_")}
    return found | {
        title: labels for title, labels in rates.items() if any(len(set(columns[name])) > 1 for name in labels)
    }


def _chosen(columns: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, dict[str, str]]:
    if isinstance(names, str):
        raise TypeError(f"names is a list of names; got {names!r}. Type names=[{names!r}].")
    known = grouped(columns)
    found: dict[str, dict[str, str]] = {}
    for name in names:
        title = next((title for title, labels in known.items() if name == title or name in labels), None)
        if title is None:
            hint = did_you_mean(name, [*known, *columns])
            raise KeyError(f"No value {name!r} to draw.{hint} There are: {', '.join({**known, **columns})}.")
        labels = known[title]
        found.setdefault(title, {}).update(labels if name == title else {name: labels[name]})
    return found


def _points(epochs: Sequence[int], values: Sequence[float]) -> list[tuple[int, float]]:
    pairs = zip(epochs, map(float, values), strict=True)
    return [(epoch + 1, value) for epoch, value in pairs if math.isfinite(value)]
