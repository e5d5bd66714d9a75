"""Curves over the epochs, drawn with matplotlib from plain columns."""

from kerastorch.curves.charts import Chart, Curve, charts, known
from kerastorch.curves.drawing import draw
from kerastorch.curves.files import check_path, write

__all__ = ["Chart", "Curve", "charts", "check_path", "draw", "known", "write"]
