"""A trace of a few steps, for Perfetto and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEFORE = 3  # the first steps are slower than others, and the tracer itself has to warm up
TRACED = 5


class Trace:
    """Records what torch does in some steps, by operation.

    Args:
        path: A file `.json` or `.json.gz` for Perfetto or `chrome://tracing`; any other name is a directory for
            TensorBoard.

    Attributes:
        is_open: Whether there are steps left to count.
    """

    def __init__(self, path: Path) -> None:
        from torch import profiler

        (path.parent if _is_file(path) else path).mkdir(parents=True, exist_ok=True)  # fails before the training
        self.path = path
        self.is_open = True
        self._is_written = False
        self._left = BEFORE + TRACED
        self._profiler = profiler.profile(
            schedule=profiler.schedule(wait=1, warmup=BEFORE - 1, active=TRACED, repeat=1),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def finish_step(self) -> None:
        """Count a step; the last one closes it."""
        self._left -= 1
        if self._left:
            self._profiler.step()
        else:
            self.close()

    def close(self) -> None:
        """Write what is recorded so far, if it is not written."""
        if self.is_open:
            self.is_open = False
            self._profiler.stop()

    def describe(self) -> str:
        """Say where it is, and how to look at it."""
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


def _is_file(path: Path) -> bool:
    return path.name.endswith((".json", ".json.gz"))
