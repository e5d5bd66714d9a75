"""A training that goes on where it was killed."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from kerastorch import checkpoint, resume
from kerastorch.callbacks.monitor import lost_in_any
from kerastorch.callbacks.pace import Pace
from kerastorch.errors import BusyError, CheckpointError, add_note, needs
from kerastorch.hooks import Callback, Hooks, Logs, Stage
from kerastorch.roles import Resumed

_FINISHED = "finished.pt"
_ended: Counter[Path] = Counter()  # complete trainings of this process whose files are deleted, by directory
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
        directory: Where its files are, and no others of their names; it is made. One training at a time can have it.
            Several processes need the same one, also where they are on several machines.
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
        self._pace = Pace(save_freq)
        self._reset()

    def __repr__(self) -> str:
        return (
            f"BackupAndRestore({str(self.directory)!r}, {self.save_freq!r}, keep={self.keep}, "
            f"delete_checkpoint={self.delete_checkpoint}, background={self.background})"
        )

    def _reset(self) -> None:
        self._home = self.directory.absolute()  # the script may change its own directory
        self.last: str | None = None
        self._good: list[Path] = []
        self._submitted: Path | None = None
        self._validating: dict[str, Any] | None = None
        self._writer = checkpoint.Writer() if self.background else None
        self._done = 0
        self._has_begun = self._is_over = self._is_due = False

    @contextmanager
    def around(self, hooks: Hooks) -> Iterator[None]:
        """Hold the directory, and find where to go on; at the end of a complete training, delete what is no use."""
        if not self.run.trains:
            yield
            return
        self._reset()
        with self._held():
            self._pace.begin(self.run.strategy.group)
            self.run.peers["backup"].append(self)
            self._look_for_file()
            try:
                yield
            finally:
                self._wait()
            if self._is_over and self.delete_checkpoint and self.run.signal is None:  # else what follows fit is not run
                _ended[self._home] += 1
                self.last, self._good = None, []
                checkpoint.by_main(self.run.strategy.group, lambda: self._keep([]))

    def on_train_begin(self, logs: Logs) -> None:
        """Note that the file fits the script, if there was one."""
        self._has_begun = True

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Write, if it is time."""
        self._done += 1
        self._is_due = self._is_due or self._pace.after_batch(self._done)
        if self._is_due and not self.run.state.pending:
            self._save()

    def on_test_begin(self, logs: Logs) -> None:
        """Note where the data of the validation are, which is done again after an interruption."""
        if self.run.trains and self._validating is None:
            self._validating = {name: data.state_dict(0) for name, data in self.run.val_sets.items()}

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write, if it is time."""
        self._validating = None
        is_last = epoch + 1 == self.run.epochs or self.run.stop_reason is not None
        if self._pace.after_epoch() or (
            is_last and not self.delete_checkpoint
        ):  # a training that is kept can be made longer
            self._save()

    def on_interrupt(self) -> None:
        """Write at once: the process is about to end."""
        self._save()
        checkpoint.by_all(self.run.strategy.group, self._wait)

    def on_train_end(self, logs: Logs) -> None:
        """Note that the training is complete, and its end if that is kept."""
        run = self.run
        checkpoint.by_all(run.strategy.group, self._wait)
        if run.interrupted or self._is_lost():
            return
        self._is_over = True
        if not self.delete_checkpoint:
            content = resume.content_of(run)
            content["progress"]["finished"] = True
            checkpoint.save_together(content, self._home / _FINISHED, run.strategy.group)

    def on_exception(self, error: BaseException) -> None:
        """Say where the training can go on."""
        if not self.run.trains:
            return
        with suppress(CheckpointError):  # this error is on its way already, or another came first
            self._wait()
        if self.last is not None and self._has_begun:
            add_note(error, f"kerastorch: the last backup is {self.last}. Run the script again to go on from there.")

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were counted, and how many fits with this directory came to their end before."""
        return {"batches": self._done, "earlier": _ended[self._home]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._done = state["batches"]

    @contextmanager
    def _held(self) -> Iterator[None]:
        locks: list[Any] = []
        checkpoint.by_main(self.run.strategy.group, lambda: locks.append(self._lock()))
        try:
            yield
        finally:
            for lock in locks:  # in the main process
                lock.release()
                if not self._good and not (self._home / _FINISHED).exists():  # nothing was kept
                    Path(lock.lock_file).unlink(missing_ok=True)
                    with suppress(OSError):  # something else is in it
                        self._home.rmdir()

    def _lock(self) -> Any:
        """Take hold of the directory, and put it in order."""
        locks = needs("filelock", purpose="BackupAndRestore")
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            lock = locks.FileLock(self._home / ".lock", timeout=0)
            lock.acquire()
        except locks.Timeout as error:
            raise BusyError(
                f"Another process, or another fit of this one, is training with the backup in {self.directory}. Give "
                "each training a directory of its own, or wait for that one to end."
            ) from error
        except (OSError, NotImplementedError) as error:
            raise CheckpointError(f"{self.directory} cannot be the directory of a backup: {error}.") from error
        checkpoint.sweep(self._home)
        return lock

    def _files(self) -> list[Path]:
        """Return the files that could be gone on from, the newest last."""
        found = sorted(self._home.glob(_PATTERN), key=lambda path: [int(part) for part in path.stem.split("-")[1:]])
        return [*found, *self._home.glob(_FINISHED)]

    def _look_for_file(self) -> None:
        """Find the newest whole file: the main process does, and the others read it too."""
        run, group = self.run, self.run.strategy.group
        path = checkpoint.by_main(group, self._newest)
        if path is None:
            return
        if not group.is_main:
            run.resumed = self._read(path, is_checked=True)
        if group.any(run.resumed is None):
            raise CheckpointError(f"{self._shown(path)} is not there for all: each machine must see it.")
        if path.name != _FINISHED:
            self.last = run.last_good = self._shown(path)
            self._good = [path]

    def _newest(self) -> Path | None:
        for path in reversed(self._files()):
            found = self._read(path)
            if found is None:
                continue
            if path.name != _FINISHED:
                self._refuse_another_fit(found)
            elif not found.content["progress"].get("decision") and found.epoch < self.run.epochs:
                continue
            self.run.resumed = found
            return path
        return None

    def _refuse_another_fit(self, found: Resumed) -> None:
        earlier = found.content.get("callbacks", {}).get("BackupAndRestore", {}).get("earlier", 0)
        if earlier != _ended[self._home]:
            raise CheckpointError(
                f"{found.source} is of fit number {earlier + 1} of a script with this directory, and this is number "
                f"{_ended[self._home] + 1}. Nothing was changed. Give each fit a directory of its own, such as "
                "f'runs/fold{number}', and delete this one."
            )

    def _read(self, path: Path, *, is_checked: bool = False) -> Resumed | None:
        mesh = checkpoint.mesh_of(self.run.state.module)
        try:
            return dataclasses.replace(resume.read(path, mesh, is_checked=is_checked), source=self._shown(path))
        except (CheckpointError, FileNotFoundError) as error:
            warnings.warn(f"{error} The backup before it is used, if there is one.", stacklevel=2)
            return None

    def _shown(self, path: Path) -> str:
        return str(self.directory / path.name)

    def _save(self) -> None:
        group, state = self.run.strategy.group, self.run.state
        path = self._home / f"backup-{state.epoch:04d}-{state.batch:07d}.pt"
        self._pace.note()
        self._is_due = False
        if path == self._submitted or self._is_lost():
            return
        content = resume.content_of(self.run)
        if self._validating is not None:
            content["val data"] = self._validating
        if self._writer is None:
            checkpoint.save_together(content, path, group)
            self._written(path)
        else:
            self._writer.submit(content, path, then=functools.partial(self._written, path), group=group)
        self._submitted = path

    def _is_lost(self) -> bool:
        """Whether the net must not be saved; it is said once."""
        run = self.run
        broken = None if run.lost else lost_in_any(run)
        run.lost = run.lost or broken is not None
        if broken is not None and run.strategy.group.is_main:
            kept = "" if run.last_good is None else f" The last good one is {run.last_good}."
            text = f"No backup is written any more: {broken} holds values that are not finite.{kept}"
            warnings.warn(text, stacklevel=2)
        return run.lost

    def _written(self, path: Path) -> None:
        """Delete the older ones, and those that are damaged."""
        self._good = [*self._good, path][-self.keep :]
        self.last = self.run.last_good = self._shown(path)
        if self.run.strategy.group.is_main:
            self._keep([*self._good, self._home / _FINISHED])

    def _keep(self, good: list[Path]) -> None:
        for path in set(self._files()) - set(good):
            checkpoint.remove(path)

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()
