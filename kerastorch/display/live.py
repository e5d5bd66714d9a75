"""Curves that grow while training runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal

from kerastorch.curves import check_path, known, write
from kerastorch.display.jupyter import Place, in_notebook
from kerastorch.errors import needs
from kerastorch.hooks import Callback, Logs, Stage
from kerastorch.isolate import random_state_kept

_SHARE = 10  # a picture is drawn when training took so many times as long as the last one


class LivePlot(Callback):
    """Draws the curves of loss and metrics after each epoch: in a notebook below the cell, elsewhere into a file.

    In a notebook the picture changes where it is, and the last one stays, also after an error or Ctrl-C; `fit` shows
    one by itself there, which this one takes the place of. A file is replaced as a whole, so a viewer that reads it
    again never finds half of it. A picture that fails ends no training; it is warned of once.

    Example:
        >>> kt.callbacks.LivePlot("runs/history.png", log_scale=True)

    Args:
        path: The file to write: `.png`, `.svg` or `.pdf`; directories are made. Needed outside a notebook.
        names: What to draw, as for `History.plot`.
        every: Epochs between two pictures; or `"auto"` for as many as keep drawing below a tenth of the time. The last
            epoch is always drawn. A picture takes some tenths of a second.
        log_scale: Whether values are on a logarithmic scale.

    Raises:
        ValueError: There is no path outside a notebook, its ending is unknown, or `every` is below 1.
        TypeError: `names` is no list.
        MissingPackageError: matplotlib is not installed.
    """

    stage: Stage = "display"

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        names: Sequence[str] | None = None,
        every: int | Literal["auto"] = 1,
        log_scale: bool = False,
    ) -> None:
        if path is None and not in_notebook():
            raise ValueError("Outside a notebook, LivePlot writes a file. Type LivePlot('history.png').")
        if every != "auto" and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every is a number of epochs, 1 or more, or 'auto'; got {every!r}.")
        if isinstance(names, str):
            raise TypeError(f"names is a list of names; got {names!r}. Type names=[{names!r}].")
        needs("matplotlib", purpose="LivePlot")
        self.path = None if path is None else check_path(path, "LivePlot")
        self.names = names
        self.every = every
        self.log_scale = log_scale
        self._reset()

    def __repr__(self) -> str:
        path = None if self.path is None else str(self.path)
        return f"LivePlot({path!r}, names={self.names}, every={self.every!r}, log_scale={self.log_scale})"

    def on_train_begin(self, logs: Logs) -> None:
        """Begin a new picture, with the epochs of a run that goes on."""
        self._reset()
        self._behind = bool(self.run.state.history.rows)
        self._draw()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Draw, if it is time."""
        history = self.run.state.history
        self._behind = True
        if perf_counter() >= self._next if self.every == "auto" else len(history) % self.every == 0:
            self._draw()

    def on_train_end(self, logs: Logs) -> None:
        """Draw what is not drawn yet."""
        self._draw()

    def on_exception(self, error: BaseException) -> None:
        """Draw what is not drawn yet."""
        if self.run.trains:
            self._draw()

    def _reset(self) -> None:
        self._place = Place() if in_notebook() else None
        self._next = 0.0
        self._behind = self._warned = False

    def _draw(self) -> None:
        if not self._behind:
            return
        self._behind, began = False, perf_counter()
        try:
            with random_state_kept():
                self._show()
        except Exception as error:  # hours of training are worth more than a picture
            if not self._warned:
                warnings.warn(f"LivePlot could not draw after epoch {self.run.state.epoch}: {error!r}.", stacklevel=2)
            self._warned = True
        now = perf_counter()
        self._next = now + _SHARE * (now - began)

    def _show(self) -> None:
        history, names = self.run.state.history, self.names
        if names is not None and len(history) < self.run.validation_freq:  # there is no validation yet
            names = [name for name in names if name in known(history)]
            if not names:
                return
        figure = history.plot(names, log_scale=self.log_scale)
        if self._place is not None:
            self._place.show_figure(figure)
        if self.path is not None:
            write(figure, self.path)
