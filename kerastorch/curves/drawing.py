"""Charts as a figure: no pyplot, no window, nothing global."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kerastorch.curves.charts import TRAINING, Chart, Curve
from kerastorch.errors import needs

# Okabe and Ito, "Color Universal Design": told apart by everybody, also on a dark ground
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
_STYLES: tuple[Any, ...] = ((0, (4, 2)), "-", (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MARKED = 30  # points; more of them are a line alone


def draw(charts: Sequence[Chart], *, log_scale: bool = False, key: Sequence[Curve] = (), purpose: str) -> Any:
    """Draw charts side by side.

    Args:
        charts: At least one.
        log_scale: Whether values are on a logarithmic scale, where they are positive.
        key: The entries of one legend above all charts, in place of one in each.
        purpose: Who draws, for the message where matplotlib is missing.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    needs("matplotlib", purpose=purpose)
    from kerastorch.curves import picture

    columns = {1: 1, 2: 2, 4: 2}.get(len(charts), 3)
    rows = math.ceil(len(charts) / columns)
    width = 6.4 if columns == 1 else 4.4 * columns
    figure = picture.new(width, (3.6 if columns == 1 else 3.2) * rows + 0.3 * bool(key))
    for place, chart in enumerate(charts, 1):
        axes = figure.add_subplot(rows, columns, place)
        _draw_chart(axes, chart, log_scale=log_scale)
        if not key:
            _add_legend(axes, chart)
    if key:
        _add_key(figure, key)
    return figure


def _draw_chart(axes: Any, chart: Chart, *, log_scale: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    for curve in chart.curves:
        _draw_curve(axes, curve)
    epochs = [epoch for curve in chart.curves for epoch, _ in curve.points]
    values = [value for curve in chart.curves for _, value in curve.points]
    axes.set_title(chart.title, fontsize=12, parse_math=False)
    axes.set_xlabel("epoch", fontsize=10)
    axes.tick_params(labelsize=10, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not values:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no value is a number", ha="center", va="center", transform=axes.transAxes)
        return
    margin = 0.6 if min(epochs) == max(epochs) else min(0.04 * (max(epochs) - min(epochs)), 0.9)  # no epoch 0
    axes.set_xlim(min(epochs) - margin, max(epochs) + max(margin, 0.02 * max(epochs)))
    if log_scale and max(values) > 0:
        _make_logarithmic(axes, [value for value in values if value > 0])


def _draw_curve(axes: Any, curve: Curve) -> None:
    colour = _colour(curve)
    few = len(curve.points) <= _MARKED
    epochs, values = [epoch for epoch, _ in curve.points], [value for _, value in curve.points]
    style = _STYLES[curve.style % len(_STYLES)]
    axes.plot(epochs, values, color=colour, linestyle=style, linewidth=1.8, marker="o" if few else "", markersize=3.5)
    if curve.best is not None and math.isfinite(curve.best[1]):
        ground = axes.get_facecolor()
        axes.plot(*curve.best, "*", color=colour, markersize=14, markeredgecolor=ground, markeredgewidth=1, zorder=5)


def _make_logarithmic(axes: Any, values: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    ratio = max(values) / min(values)
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_minor_locator(NullLocator())
    if ratio < 10:  # there may be no power of ten between them
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    elif ratio < 1000:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _colour(curve: Curve) -> str:
    return "grey" if curve.colour < 0 else _COLOURS[curve.colour % len(_COLOURS)]


def _entry(curve: Curve, label: str, marker: str = "") -> Any:
    from matplotlib.lines import Line2D

    style = _STYLES[curve.style % len(_STYLES)]
    return Line2D([], [], color=_colour(curve), linestyle=style, linewidth=1.8, marker=marker, label=label)


def _add_legend(axes: Any, chart: Chart) -> None:
    alone = len(chart.curves) == 1 and chart.curves[0].label == TRAINING  # the title says it
    entries = []
    for curve in chart.curves:
        best = "" if curve.best is None else f"best {curve.best[1]:.4g} in epoch {curve.best[0]}"
        label = ", ".join(filter(None, ["" if alone else curve.label, best]))
        if label:
            entries.append(_entry(curve, label, "*" if best else ""))
    if entries:
        axes.legend(handles=entries, fontsize=9, handlelength=2.4, framealpha=0.8, edgecolor="none")


def _add_key(figure: Any, key: Sequence[Curve]) -> None:
    handles = [_entry(curve, curve.label) for curve in key]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 6),
        fontsize=10,
        handlelength=2.4,
        frameon=False,
    )
