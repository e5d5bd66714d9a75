"""Pictures: of the data, of what a model makes of them, and of several histories side by side.

Each function returns a `matplotlib.figure.Figure`, which a notebook shows where it is the last value of a cell;
`figure.savefig("name.png")` writes it to a file. Nothing is known to pyplot, so nothing need be closed.
"""

from kerastorch.plot.compare import compare
from kerastorch.plot.matrix import confusion_matrix
from kerastorch.plot.samples import predictions, samples

__all__ = ["compare", "confusion_matrix", "predictions", "samples"]
