"""What happened, epoch by epoch."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kerastorch.errors import did_you_mean, needs

if TYPE_CHECKING:
    from kerastorch import curves

_MINIMISED = {"loss", "error", "err", "mse", "mae", "rmse", "mape", "perplexity", "ppl", "hinge", "nll", "wer", "cer"}
_MAXIMISED = {
    "acc",
    "accuracy",
    "auc",
    "auroc",
    "f1",
    "precision",
    "recall",
    "iou",
    "dice",
    "r2",
    "map",
    "ap",
    "bleu",
    "jaccard",
    "kappa",
}


def better_direction(name: str) -> Literal["min", "max"]:
    """Tell from its name whether a lower or a higher value is better.

    Raises:
        ValueError: The name does not tell.
    """
    words = set(name.lower().split("_"))
    if words & _MINIMISED or name.lower().endswith(("loss", "error")):
        return "min"
    if words & _MAXIMISED or re.search(r"accuracy$|(^|_)top_?\d+$", name.lower()):
        return "max"
    raise ValueError(
        f"Whether a low or a high {name!r} is better cannot be told from its name. Say mode='min' or 'max'."
    )


class Best(NamedTuple):
    """The best epoch, from 0, and its value."""

    epoch: int
    value: float


class History:
    """Loss, metrics, learning rate, seconds and samples per second of each epoch.

    Every column has one value per epoch; where an epoch has none (it was not validated, say) the value is NaN.

    Example:
        >>> history = model.fit(3, dl_train, dl_val)
        >>> history["val_loss"]
        [0.087, 0.152, 0.086]
        >>> history.best("val_loss")
        Best(epoch=2, value=0.086)
        >>> history.plot()  # in a notebook, the last line of a cell

    Attributes:
        epoch: The numbers of the epochs, from 0.
        rows: One dict per epoch.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.rows: list[dict[str, Any]] = []

    def append(self, epoch: int, row: dict[str, Any]) -> None:
        """Add an epoch. The dict itself is kept: what a callback writes into its `logs` is part of the history."""
        self.epoch.append(epoch)
        self.rows.append(row)

    @property
    def history(self) -> dict[str, list[float]]:
        """The columns by name, each with one value per epoch."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [row.get(name, math.nan) for row in self.rows] for name in names}

    def best(self, name: str, mode: Literal["auto", "min", "max"] = "auto") -> Best:
        """Return the epoch with the best value; NaN is never the best.

        Raises:
            KeyError: There is no such column.
            ValueError: No value is a number, or `mode` is needed or misspelt.
        """
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode is 'auto', 'min' or 'max'; got {mode!r}.")
        column = self[name]
        if not all(map(_is_number, column)):
            raise ValueError(f"{name!r} is not one number per epoch, so it has no best.")
        values = [(value, epoch) for value, epoch in zip(column, self.epoch, strict=True) if not math.isnan(value)]
        if not values:
            raise ValueError(f"No epoch has a value of {name!r} that is a number.")
        direction = better_direction(name) if mode == "auto" else mode
        value, epoch = (min if direction == "min" else max)(values, key=lambda pair: pair[0])
        return Best(epoch, value)

    def plot(
        self, names: Sequence[str] | None = None, *, log_scale: bool = False, path: str | Path | None = None
    ) -> Any:
        """Draw the curves of loss and metrics, training and validation of each in one chart.

        A star is at the best epoch of each curve, where its name tells which one that is. Epochs count from 1. Points
        are joined across epochs without a number.

        Example:
            >>> history.plot(path="history.png")
            >>> history.plot(["loss", "lr"], log_scale=True)

        Args:
            names: Metrics, each with its validation: `"loss"`; or single columns: `"val_loss"`. By default all that
                are one number per epoch, but not the times, and `"lr"` only if it changes.
            log_scale: Whether values are on a logarithmic scale; those that are not positive are left out.
            path: The file to write as well: `.png`, `.svg` or `.pdf`; directories are made.

        Returns:
            A `matplotlib.figure.Figure`. It is in no window and not known to pyplot, so it need not be closed.

        Raises:
            KeyError: There is no such name.
            ValueError: No epoch has finished, nothing is left to draw, or `path` has another ending.
            MissingPackageError: matplotlib is not installed.
        """
        if not self.rows:
            raise ValueError("There is nothing to draw: no epoch has finished.")
        from kerastorch import curves

        file = None if path is None else curves.check_path(path, "History.plot")
        charts = self.charts(names)
        if not charts:
            raise ValueError("There is nothing to draw: no value is one number per epoch, or names is empty.")
        figure = curves.draw(charts, log_scale=log_scale, purpose="History.plot")
        if file is not None:
            curves.write(figure, file)
        return figure

    def charts(self, names: Sequence[str] | None = None) -> list[curves.Chart]:
        """Return what `plot` draws."""
        from kerastorch import curves

        best = {}
        for name in self:
            with suppress(ValueError):  # its name tells no direction, or it is no number
                best[name] = self.best(name)
        return curves.charts(self._shown(), self.epoch, best=best, names=names)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per epoch, indexed by the number of the epoch."""
        pandas = needs("pandas", purpose="History.to_pandas")
        return pandas.DataFrame(self.history, index=pandas.Index(self.epoch, name="epoch"))

    def to_csv(self, path: str | Path) -> None:
        """Write one line per epoch, with the names in the first."""
        columns = self.history
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *columns])
            rows = zip(self.epoch, *columns.values(), strict=True)
            writer.writerows([value if _is_number(value) else _listed(value) for value in row] for row in rows)

    def __getitem__(self, name: str) -> list[float]:
        columns = self.history
        if name not in columns:
            raise KeyError(f"No column {name!r}.{did_you_mean(name, columns)} There are: {', '.join(columns)}.")
        return columns[name]

    def __contains__(self, name: str) -> bool:
        return any(name in row for row in self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "History()"
        lines = [["epoch", *self._shown()], *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def _repr_html_(self) -> str:
        import html  # whose table of entities takes 3 ms to import

        head = "".join(f"<th>{html.escape(name)}</th>" for name in ["epoch", *self._shown()])
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in self._cells())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _shown(self) -> dict[str, list[float]]:
        return {name: column for name, column in self.history.items() if all(map(_is_number, column))}

    def _cells(self) -> Iterator[list[str]]:
        for epoch, *values in zip(self.epoch, *self._shown().values(), strict=True):
            yield [str(epoch + 1), *(format_number(value) for value in values)]


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are one number, not a matrix or one for each class."""
    return {name: value for name, value in logs.items() if _is_number(value)}


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or getattr(value, "ndim", None) == 0


def format_number(value: float) -> str:
    """Write a number for people: three decimals, more where it is small, none where it is large.

    Example:
        >>> [format_number(value) for value in (0.97213, 0.0001, 12345.6, 3)]
        ['0.972', '0.0001', '12346', '3']
    """
    if isinstance(value, int):
        return str(value)
    if 0 < abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:.0f}" if 1000 <= abs(value) < math.inf else f"{value:.3f}"
