"""Several histories side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kerastorch import curves
from kerastorch.curves.charts import TRAINING, Chart, Curve
from kerastorch.history import History


def compare(histories: Mapping[str, History], names: Sequence[str] | None = None, *, log_scale: bool = False) -> Any:
    """Draw the curves of several histories: a chart for each metric, a colour for each history.

    Training is dashed where there is validation, which is solid. A star is at the best epoch: of the validation, or of
    training alone. Colours repeat after eight histories.

    Example:
        >>> kt.plot.compare({"adam": first, "sgd": second}, ["loss"])

    Args:
        histories: What `fit` has returned, by name.
        names: As for `History.plot`; where a history lacks one, it has no curve.
        log_scale: As for `History.plot`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        TypeError: These are no histories by name.
        ValueError: There is nothing to draw.
        KeyError: No history has a value of that name.
        MissingPackageError: matplotlib is not installed.
    """
    if not isinstance(histories, Mapping) or not all(isinstance(item, History) for item in histories.values()):
        raise TypeError(f"histories is a dict of what fit returns; got {histories!r}. Type {{'first': history, ...}}.")
    every = {name: () for history in histories.values() for name in history}
    wanted = curves.charts(every, (), best={}, names=names)  # a name that no history knows is refused
    found: dict[str, list[Curve]] = {chart.title: [] for chart in wanted}
    for colour, history in enumerate(histories.values()):
        known = curves.known(history)
        for chart in history.charts(None if names is None else [name for name in names if name in known]):
            found.setdefault(chart.title, []).extend(replace(curve, colour=colour) for curve in _marked(chart))
    found = {title: lines for title, lines in found.items() if lines}
    if not found:
        raise ValueError("There is nothing to draw: no history has a finished epoch with values that are one number.")
    styles = _styles([curve for lines in found.values() for curve in lines])
    charts = [
        Chart(title, [replace(curve, style=styles[curve.label]) for curve in lines]) for title, lines in found.items()
    ]
    key = [Curve(str(name), (), colour=colour) for colour, name in enumerate(histories)]
    if len(styles) > 1:
        key += [Curve(label, (), colour=-1, style=style) for label, style in styles.items()]
    return curves.draw(charts, log_scale=log_scale, key=key, purpose="kt.plot.compare")


def _marked(chart: Chart) -> list[Curve]:
    """Leave the star to the validation where there is one: two for each history are too many."""
    alone = len(chart.curves) == 1
    return [curve if alone or curve.label != TRAINING else replace(curve, best=None) for curve in chart.curves]


def _styles(lines: list[Curve]) -> dict[str, int]:
    labels = dict.fromkeys(curve.label for curve in lines)
    validated = [label for label in labels if label != TRAINING]
    styles = {label: style for style, label in enumerate(validated, 1)}
    return ({TRAINING: 0 if validated else 1} if TRAINING in labels else {}) | styles
