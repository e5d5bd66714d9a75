"""One line of JSON for each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerastorch.callbacks import rows
from kerastorch.callbacks.logger import Logger, UpdateFreq, check_update_freq
from kerastorch.callbacks.values import plain


class JSONLogger(Logger):
    """Writes one line of JSON per epoch, `{"step": 938, "epoch": 0, "loss": 0.21, ...}`, and per `update_freq` steps.

    `pandas.read_json(filename, lines=True)` reads it. The lines are strict JSON: NaN and infinity are `null`, arrays
    are lists. What JSON cannot hold, such as a figure, is left out with a warning, and so are arrays of more than
    10,000 numbers.

    Each line is on its way to the disk when training goes on, and the file is not kept open: whatever kills the
    process, at most the line that is being written is lost. Where a run goes on that was killed, so does the file: the
    lines that were written after its checkpoint are cut off. In another file than before, those before it are copied.

    Example:
        >>> kt.callbacks.JSONLogger("runs/cifar10.jsonl", update_freq=100)

    Args:
        filename: The file; directories are made. It is overwritten when the first line is written.
        append: Add lines to a file that is there; a torn last line is taken away.
        update_freq: Steps between two lines with the running means `batch_loss`, ...; 0 or `"epoch"` for none. By
            default what `fit` was told as `log_step_freq`.

    Raises:
        ValueError: `update_freq` is something else.
    """

    def __init__(self, filename: str | Path, append: bool = False, *, update_freq: UpdateFreq = None) -> None:
        check_update_freq(update_freq)
        self.filename = Path(filename)
        self.append = append
        self.update_freq = update_freq
        self._appends = append

    def __repr__(self) -> str:
        return f"JSONLogger({str(self.filename)!r}, append={self.append}, update_freq={self.update_freq!r})"

    def open(self) -> None:
        """See that the file can be written, before an epoch is spent."""
        self.filename.parent.mkdir(parents=True, exist_ok=True)
        with self.filename.open("ab"):
            pass
        self._appends = self.append or not self.run.trains  # an evaluation does not overwrite the training
        kept = self.kept()
        if kept.get("size") is not None:
            self._go_on(Path(kept["file"]), kept["size"])
            self._appends = True
        if self._appends:
            rows.mend(self.filename, _is_json)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line."""
        row: dict[str, Any] = {"step": step}
        for name, value in values.items():
            with self.leaving_out(name):
                if name == "step":
                    raise ValueError("a line has the step of the optimizer by that name")
                row[name] = plain(value)
        line = json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
        rows.add(self.filename, line, anew=not self._appends)
        self._appends = True

    def state_dict(self) -> dict[str, Any]:
        """Return in which file lines are written, and where they end; None where it is still to be overwritten."""
        size = rows.size(self.filename) if self._appends else None
        return {"file": str(self.filename.resolve()), "size": size}

    def _go_on(self, before: Path, size: int) -> None:
        """Let the file have what it had, or another one before it, when the checkpoint was made."""
        if before != self.filename.resolve():
            if before.is_file() and not (self.append and rows.size(self.filename)):
                self.filename.write_bytes(before.read_bytes()[:size])
            return
        rows.go_on(self.filename, size, "")
        if rows.size(self.filename) < size:
            self.warn_once("lost", f"{self.filename} is shorter than when the checkpoint was made; lines are missing.")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
