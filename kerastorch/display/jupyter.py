"""A place below the cell of a notebook."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Mapping
from typing import Any


def in_notebook() -> bool:
    """Whether this runs in a notebook: of Jupyter, VS Code or Colab. Nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)  # Colab has one of its own


class Place:
    """One output of the present cell, which is shown once and then changes where it is."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, content: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
        """Show content by its type, such as `"text/html"`, in place of what was there."""
        from IPython import display

        if self._handle is None:
            self._handle = display.DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(content, metadata=metadata, raw=True)
        else:
            self._handle.update(content, metadata=metadata, raw=True)

    def show_figure(self, figure: Any) -> None:
        """Show a `Picture`."""
        image, size = figure._repr_png_()
        self.show({"image/png": b64encode(image).decode(), "text/plain": repr(figure)}, {"image/png": size})
