"""A trace of a few steps, for Perfetto and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

BEFORE = 3  # the first steps are slower than others, and the tracer itself has to warm up
TRACED = 5
_OF_THE_USER = "a torch.profiler is at work already"


class Trace:
    """Records what torch does in some steps, by operation.

    torch makes one trace at a time: a second one ends the process. So it is not begun where there is another, and given
    up where another begins before this one records.

    Args:
        path: A file `.json` or `.json.gz` for Perfetto or `chrome://tracing`; any other name is a directory for
            TensorBoard.
        needed: Whether it is an error that there is another; else `describe` says so.

    Attributes:
        is_open: Whether there are steps left to count.

    Raises:
        RuntimeError: It is needed, and there is another.
    """

    _present: ClassVar[Trace | None] = None  # the one of this process that is open

    def __init__(self, path: Path, *, needed: bool = True) -> None:
        self.path = path
        self.is_open = False
        self._is_written = False
        self._left = BEFORE + TRACED
        self._obstacle = _obstacle()
        if not self._obstacle:
            self._open()
        elif needed:
            raise RuntimeError(
                f"No trace can be made: {self._obstacle}, and torch makes one at a time. Leave out the other, or type "
                "Profiler() without trace=..., for the table alone."
            )

    def _open(self) -> None:
        from torch import profiler

        path = self.path
        (path.parent if _is_file(path) else path).mkdir(parents=True, exist_ok=True)  # fails before the training
        self._profiler = profiler.profile(
            schedule=profiler.schedule(wait=1, warmup=BEFORE - 1, active=TRACED, repeat=1),
            on_trace_ready=self._write,
        )
        self._profiler.start()
        self.is_open, Trace._present = True, self

    def finish_step(self) -> None:
        """Count a step; the last one closes it."""
        if self._left == 1 or self._has_to_yield():
            self.close()
        else:
            self._left -= 1
            self._profiler.step()

    def close(self) -> None:
        """Write what is recorded so far, if it is not written."""
        if not self.is_open:
            return
        self.is_open, Trace._present = False, None
        if self._has_to_yield():
            self._obstacle = _OF_THE_USER  # and do not stop: torch would begin to record, to stop at once
        else:
            self._profiler.stop()

    def _has_to_yield(self) -> bool:
        return self._left > TRACED and _another_records()

    def describe(self) -> str:
        """Say where it is, and how to look at it."""
        if self._obstacle:
            return f"No trace: {self._obstacle}."
        if not self._is_written:
            return f"No trace: it begins after {BEFORE} steps, and there were no more."
        if _is_file(self.path):
            return f"Trace: {self.path}, for https://ui.perfetto.dev"
        return f"Trace: tensorboard --logdir {self.path}, with torch-tb-profiler"

    def _write(self, profiler: Any) -> None:
        from torch.profiler import tensorboard_trace_handler

        if self._left >= TRACED:
            return  # the run was over before a step was recorded
        if _is_file(self.path):
            profiler.export_chrome_trace(str(self.path))
        else:
            tensorboard_trace_handler(str(self.path))(profiler)
        self._is_written = True


def _obstacle() -> str:
    if Trace._present is not None:
        return f"that of another Profiler is being made, {Trace._present.path}"
    return _OF_THE_USER if _another_records() else ""


def _another_records() -> bool:
    return bool(torch.autograd._profiler_enabled())  # type: ignore[attr-defined]


def _is_file(path: Path) -> bool:
    return path.name.endswith((".json", ".json.gz"))
