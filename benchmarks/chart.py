"""Draw the figures of `python -m benchmarks --json FILE`: how many times as long as the optimised loop each row takes.

    python -m benchmarks.chart FILE benchmarks.svg

The colours can be read on white and on black; the ground is transparent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, OURS, OTHERS = "#7d8590", "#2f81f7", "#8b949e"
PANELS = {"step": "Step of a tiny MLP", "epoch": "Epoch over data in memory"}
Bars = list[tuple[str, float, bool]]


def bars(results: dict[str, Any], workload: str) -> Bars:
    """Return title, ratio and whether it is ours, the fastest first."""
    found = [
        (row["title"], ratio(results, row, workload), row["key"].startswith("kerastorch")) for row in results["rows"]
    ]
    return sorted(((title, times, ours) for title, times, ours in found if times is not None), key=lambda bar: bar[1])


def draw(results: dict[str, Any], *, stacked: bool = False) -> Figure:
    """Return a figure with a panel for each workload that was measured, side by side or one below the other."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = {name: found for name in PANELS if (found := bars(results, name))}
    if not panels:
        raise ValueError("These results have neither steps nor epochs to draw.")
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 10}):
        rows, columns = (len(panels), 1) if stacked else (1, len(panels))
        high = rows * (1.1 + 0.3 * max(map(len, panels.values())))
        figure = Figure(figsize=(5.6 * columns, high), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for (name, found), axes in zip(panels.items(), grid, strict=True):
            panel(axes, PANELS[name], found)
        figure.supxlabel("CPU time over that of an optimised eager loop; shorter is faster", color=TEXT, fontsize=10)
    return figure


def panel(axes: Axes, title: str, found: Bars) -> None:
    titles, ratios, ours = zip(*found, strict=True)
    places = range(len(found))
    drawn = axes.barh(places, ratios, 0.68, color=[OURS if own else OTHERS for own in ours])
    axes.bar_label(drawn, [f"{times:.2f}" for times in ratios], padding=4, color=TEXT, fontsize=9)
    slower = [place - 0.34 for place, times in zip(places, ratios, strict=True) if times >= 1]
    if slower:  # the line of the reference; above it are bars that do not reach it, and their labels
        axes.plot([1, 1], [slower[0], len(found) - 0.5], color=TEXT, linewidth=1, linestyle=(0, (3, 3)))
    axes.set_yticks(places, titles)
    for label, own in zip(axes.get_yticklabels(), ours, strict=True):
        label.set_color(OURS if own else TEXT)
        label.set_fontweight("bold" if own else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, max(ratios) * 1.12)
    axes.set_title(title, color=TEXT, fontsize=11, fontweight="bold", loc="left")
    axes.tick_params(length=0, labelbottom=False)
    axes.patch.set_alpha(0)
    axes.spines[:].set_visible(False)


def save(results: dict[str, Any], path: Path, *, stacked: bool = False) -> None:
    """Write SVG, PNG or what the name ends on."""
    import matplotlib as mpl

    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context({"svg.hashsalt": "kerastorch"}):  # the same figures make the same file
        draw(results, stacked=stacked).savefig(path, transparent=True, dpi=160, metadata=metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    save(json.loads(arguments.results.read_text(encoding="utf-8")), arguments.picture)


if __name__ == "__main__":
    main()
