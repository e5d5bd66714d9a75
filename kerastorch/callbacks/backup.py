"""A training that goes on where it was killed."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from kerastorch import checkpoint, health, resume
from kerastorch.callbacks.timer import seconds_in
from kerastorch.errors import BusyError, CheckpointError, add_note, needs
from kerastorch.hooks import Callback, Hooks, Logs, Stage
from kerastorch.run import Resumed

_FINISHED = "finished.pt"
_PATTERN = "backup-[0-9]*-[0-9]*.pt"


class BackupAndRestore(Callback):
    """Lets a training that was killed go on when the same script is run again, as if nothing had happened.

    Weights, optimizer, callbacks, sums, random numbers and the position in the data are written at the end of each
    epoch, or every so many batches or minutes, and when Ctrl-C, SIGTERM, SIGUSR1 or a `Timer` ends the training; then
    `fit` raises `KeyboardInterrupt`, or `SystemExit(143)` after SIGTERM. On the CPU the result is that of a training
    without interruption, bit for bit; with workers that draw random numbers it takes `fit(..., seed=0)`.

    Each `fit` has a directory of its own. The newest file that is whole is used. A script that was changed, so that
    the file does not fit it, gets an error; nothing is written over.

    Example:
        >>> model.fit(90, dl_train, dl_val, callbacks=[kt.callbacks.BackupAndRestore("runs/resnet")])

    Args:
        directory: Where its files are, and no others of their names; it is made. One process at a time can have it.
        save_freq: `"epoch"`, a number of batches, counted on from epoch to epoch, or a time such as `"10min"`.
        keep: How many files to keep, the newest of them.
        delete_checkpoint: Whether to delete them when the training is complete. If not, running the script again loads
            the final weights and the history, and trains on only if it asks for more epochs.
        background: Write while training goes on, from a copy in memory; one write at a time. At the end `fit` waits.

    Attributes:
        last: The file that was written last, or gone on from.

    Raises:
        ValueError: An empty directory, another `save_freq`, or `keep` below 1.
        BusyError: Another process trains with this directory.
        CheckpointError: A file cannot be written, or belongs to another training.
    """

    stage: Stage = "backup"  # what it keeps of the other callbacks is complete

    def __init__(
        self,
        directory: str | Path,
        save_freq: Literal["epoch"] | int | str = "epoch",
        *,
        keep: int = 2,
        delete_checkpoint: bool = True,
        background: bool = False,
    ) -> None:
        if not str(directory or ""):
            raise ValueError(f"directory is where the backup is kept, such as 'runs/mnist'; got {directory!r}.")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep is a number of files, 1 or more; got {keep!r}.")
        self.directory = Path(directory).expanduser()
        self.save_freq = save_freq
        self.keep = keep
        self.delete_checkpoint = delete_checkpoint
        self.background = background
        self.last: Path | None = None
        self._batches, self._seconds = _frequency(save_freq)
        self._writer: checkpoint.Writer | None = None
        self._good: list[Path] = []

    def __repr__(self) -> str:
        return (
            f"BackupAndRestore({str(self.directory)!r}, {self.save_freq!r}, keep={self.keep}, "
            f"delete_checkpoint={self.delete_checkpoint}, background={self.background})"
        )

    @contextmanager
    def around(self, hooks: Hooks) -> Iterator[None]:
        """Hold the directory, and find where to go on."""
        if not self.run.trains:
            yield
            return
        with self._held():
            checkpoint.sweep(self.directory)
            self.last, self._good = None, []
            self._done = 0
            self._next = monotonic() + self._seconds if self._seconds else 0.0
            self._writer = checkpoint.Writer() if self.background else None
            self.run.peers["backup"].append(self)
            self._look_for_file()
            try:
                yield
            finally:
                self._wait()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Write, if it is time."""
        self._done += 1
        if (self._batches and self._done % self._batches == 0) or (self._seconds and monotonic() >= self._next):
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write, if it is time."""
        if self.save_freq == "epoch" or (self._seconds and monotonic() >= self._next):
            self._save()

    def on_interrupt(self) -> None:
        """Write at once: the process is about to end."""
        if self.run.lost:
            return
        self._save()
        self._wait()

    def on_train_end(self, logs: Logs) -> None:
        """Delete the files of a complete training, or add its end."""
        self._wait()
        run = self.run
        if run.interrupted:
            return
        if self.delete_checkpoint:
            for path in (*self.directory.glob(_PATTERN), self.directory / _FINISHED):
                path.unlink(missing_ok=True)
            self.last = run.last_good = None
            return
        content = resume.content_of(run)
        content["progress"]["finished"] = True
        checkpoint.save(content, self.directory / _FINISHED)

    def on_exception(self, error: BaseException) -> None:
        """Say where the training can go on."""
        if self.run.trains and self.last is not None:
            add_note(error, f"kerastorch: the last backup is {self.last}. Run the script again to go on from there.")

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were counted."""
        return {"batches": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._done = state["batches"]

    @contextmanager
    def _held(self) -> Iterator[None]:
        locks = needs("filelock", purpose="BackupAndRestore")
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = locks.FileLock(self.directory / ".lock", timeout=0)
        try:
            lock.acquire()
        except locks.Timeout as error:
            raise BusyError(
                f"Another process, or another fit of this one, is training with the backup in {self.directory}. Give "
                "each training a directory of its own, or wait for that one to end."
            ) from error
        try:
            yield
        finally:
            lock.release()
            if self.last is None:  # nothing was kept
                Path(lock.lock_file).unlink(missing_ok=True)
                with suppress(OSError):  # something else is in it
                    self.directory.rmdir()

    def _look_for_file(self) -> None:
        """Find the newest whole file."""
        run, finished = self.run, self.directory / _FINISHED
        if finished.exists():
            found = self._read(finished)
            if found is not None and (found.content["progress"].get("stop_reason") or found.epoch >= run.epochs):
                run.resumed = found
                return
        for path in sorted(self.directory.glob(_PATTERN), reverse=True):
            found = self._read(path)
            if found is not None:
                run.resumed = found
                run.last_good = str(path)
                self.last, self._good = path, [path]
                return

    def _read(self, path: Path) -> Resumed | None:
        try:
            return resume.read(path)
        except CheckpointError as error:
            warnings.warn(f"{error} The backup before it is used, if there is one.", stacklevel=2)
            return None

    def _save(self) -> None:
        run, state = self.run, self.run.state
        path = self.directory / f"backup-{state.epoch:04d}-{state.batch:07d}.pt"
        self._next = monotonic() + self._seconds if self._seconds else 0.0
        if path == self.last or run.lost:
            return
        broken = health.first_lost(state.module)
        if broken is not None:
            run.lost = True
            warnings.warn(f"No backup is written any more: {broken} holds values that are not finite.", stacklevel=2)
            return
        content = resume.content_of(run)
        if self._writer is None:
            checkpoint.save(content, path)
            self._written(path)
        else:
            self._writer.submit(content, path, then=functools.partial(self._written, path))
        self.last = path

    def _written(self, path: Path) -> None:
        """Delete the older ones, and those that are damaged."""
        self._good = [*self._good, path][-self.keep :]
        self.run.last_good = str(path)
        for other in self.directory.glob(_PATTERN):
            if other not in self._good:
                other.unlink(missing_ok=True)

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()


def _frequency(save_freq: Any) -> tuple[int | None, float | None]:
    """Return batches or seconds between two files."""
    if save_freq == "epoch":
        return None, None
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq, None
    if isinstance(save_freq, str):
        try:
            return None, seconds_in(save_freq)
        except ValueError:
            pass
    raise ValueError(
        f"save_freq is 'epoch', a number of batches above 0, or a time such as '10min'; got {save_freq!r}."
    )
