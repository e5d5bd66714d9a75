"""A table of the epochs in a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastorch.callbacks import rows
from kerastorch.callbacks.logger import Logger

_NO_METRICS = (
    "epoch",
    "lr",
    "seconds",
    "samples_per_second",
)  # an epoch has these once, not for training and validation


class CSVLogger(Logger):
    """Writes one line per epoch: its number from 0, and every value of the logs by name.

    Each line is on its way to the disk when the next epoch begins, and the file is not kept open, so nothing is lost
    whatever ends training. What an epoch does not have is `NA`, NaN is `nan`, several numbers are a list `[0.5, 1.0]`.
    Values that are not those of an epoch are not written; `JSONLogger` writes them.

    Where a run goes on that was killed, so does the file: it has the finished epochs, none of them twice, and those
    that are trained again are cut off. Lines that did not reach the disk are filled in from the history, and so is
    another file than before.

    The columns are those of the first epoch, and those that its validation would have had.

    Example:
        >>> kt.callbacks.CSVLogger("runs/cifar10.csv")

    Args:
        filename: The file; directories are made. It is overwritten when the first epoch ends.
        separator: One character between the values.
        append: Add lines to a file that is there, in the columns that it has; also in a second `fit`. A torn last line
            is taken away.

    Attributes:
        columns: The names in the first line.

    Raises:
        ValueError: `separator` is not one character; or, at the start of training, the file has no column `epoch`.
    """

    update_freq = "epoch"

    def __init__(self, filename: str | Path, separator: str = ",", append: bool = False) -> None:
        if len(separator) != 1:
            raise ValueError(f"separator is one character, such as ',' or ';' or '\\t'; got {separator!r}.")
        self.filename = Path(filename)
        self.separator = separator
        self.append = append
        self.columns: list[str] = []
        self._start = 0  # of the lines of this fit, in bytes

    def __repr__(self) -> str:
        return f"CSVLogger({str(self.filename)!r}, {self.separator!r}, append={self.append})"

    def open(self) -> None:
        """See that the file can be written, before an epoch is spent."""
        if not self.run.trains:
            return
        self.filename.parent.mkdir(parents=True, exist_ok=True)
        with self.filename.open("a", encoding="utf-8"):
            pass
        kept, self.columns, self._start = self.kept(), [], 0
        if kept.get("file") == self._place:
            self.columns, self._start = list(kept["columns"]), kept["start"]
        elif self.append:
            self._columns_of_file()  # refuses other files before it changes them
            rows.mend(self.filename, lambda line: line.endswith(b"\r"))
            self.columns, self._start = self._columns_of_file(), rows.size(self.filename)
        if self.run.resumed is not None:
            self._go_on()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line, the first time with a line of names before it."""
        if self._epoch is None:
            return
        anew, columns = not self.columns, self.columns or self._expected(values)
        unknown = [name for name in values if name not in columns]
        if unknown:
            self.warn_once(
                ", ".join(unknown),
                f"{self.filename} has no column for {', '.join(unknown)}, which the first epoch lacked; left out.",
            )
        rows.add(self.filename, self._text(columns, [values], names=anew), anew=anew)
        self.columns = columns

    def state_dict(self) -> dict[str, Any]:
        """Return where in which file the lines of this `fit` begin, and their columns."""
        return {"file": self._place, "start": self._start, "columns": list(self.columns)}

    @property
    def _place(self) -> str:
        return str(self.filename.resolve())

    def _go_on(self) -> None:
        """Let the file have the finished epochs, whatever of them and of later ones is there."""
        history = self.run.state.history
        if not history.rows and not self.append:
            return  # the file is overwritten when the first epoch ends
        epochs = [{**row, "epoch": epoch} for epoch, row in zip(history.epoch, history.rows, strict=True)]
        if epochs and not self.columns:
            self.columns = self._expected(epochs[0])
        start = min(self._start, rows.size(self.filename))
        rows.go_on(self.filename, start, self._text(self.columns, epochs, names=bool(epochs) and not start))

    def _text(self, columns: Sequence[str], epochs: Iterable[Mapping[str, Any]], *, names: bool) -> str:
        lines: list[Iterable[Any]] = [columns] if names else []
        for values in epochs:
            cells = dict.fromkeys(columns, "NA")
            for name in columns:
                with self.leaving_out(name):
                    cells[name] = _cell(values.get(name))
            lines.append(cells.values())
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.separator).writerows(lines)
        return text.getvalue()

    def _columns_of_file(self) -> list[str]:
        with self.filename.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file, delimiter=self.separator), [])
        if columns and "epoch" not in columns:
            raise ValueError(
                f"{self.filename} begins with {columns}, without a column 'epoch'. Is another separator than "
                f"{self.separator!r} used there, or is it no file of CSVLogger?"
            )
        return columns

    def _expected(self, values: Mapping[str, Any]) -> list[str]:
        """Return the names of an epoch, with those of a validation that is still to come."""
        trained = [name for name in values if not name.startswith("val_") and name not in _NO_METRICS]
        alone = self.run.val_metrics.metrics.keys() - self.run.state.metrics.metrics.keys()
        measured = [*self.run.validated(trained), *(name for name in self.run.val_metrics.metrics if name in alone)]
        validated = [f"val_{prefix}{name}" for prefix in self.run.val_sets for name in measured]
        has_validation = any(name.startswith("val_") for name in values)
        rest = [name for name in values if name not in trained]
        return list(dict.fromkeys(["epoch", *trained, *([] if has_validation else validated), *rest]))


def _cell(value: Any) -> Any:
    if value is None:
        return "NA"
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
