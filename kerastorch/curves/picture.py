"""A figure that a notebook shows; the only module that imports matplotlib, so it is imported where one draws."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_PIXELS = 2  # per point of the screen, so that text is sharp on fine screens


class Picture(Figure):
    """A matplotlib figure that belongs to no window.

    IPython shows a figure as a picture only once pyplot was imported; this one it always does.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        stream = BytesIO()
        self.savefig(stream, format="png", dpi=_PIXELS * self.dpi)
        width, height = self.get_size_inches() * self.dpi
        return stream.getvalue(), {"width": int(width), "height": int(height)}


def new(width: float, height: float) -> Picture:
    """Return an empty picture of so many inches."""
    return Picture(figsize=(width, height), dpi=100, layout="constrained")
