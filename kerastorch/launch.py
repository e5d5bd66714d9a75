"""`launch`: several processes from a script or a notebook, without a launcher in front."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal

import torch

from kerastorch.errors import DistributedError, did_you_mean

__all__ = ["launch"]


def launch(
    fn: Callable[..., Any],
    nproc: int | Literal["auto"] = 2,
    *,
    args: Sequence[Any] = (),
    max_restarts: int = 0,
    start: Literal["auto", "spawn", "fork"] = "auto",
    timeout: float = 600.0,
) -> Any:
    """Call a function in several processes that train together; return what it returns in the main one.

    In each, `fit` finds the others by itself as under torchrun, and so do `evaluate` and `predict`. For several
    machines use torchrun. Ctrl-C and SIGTERM reach all processes, each once; they end when this one does.

    Example:
        >>> def train():
        ...     model = kt.Model(make_net())
        ...     model.compile("cross_entropy", "adam")
        ...     return model.fit(3, x, y, verbose=0).history
        >>> if __name__ == "__main__":
        ...     history = kt.launch(train, nproc=2)

    Args:
        fn: What to call. A notebook's function, or one inside another, can only be forked.
        nproc: How many processes; `"auto"` for one per accelerator.
        args: What to call it with.
        max_restarts: How often all processes begin anew after a failure. `BackupAndRestore` lets them go on where they
            were.
        start: `"spawn"` begins with a new interpreter, which imports the script; `"fork"` copies this process, which
            must not have used a GPU. `"auto"` spawns where it can.
        timeout: Seconds that the others may take to end after the first has ended well.

    Returns:
        What `fn` returns in process 0: numbers, tensors, a dict of them; anything that can be pickled.

    Raises:
        Exception: What `fn` has raised in the first process that failed, with its traceback as the cause.
        DistributedError: A process was killed, or processes cannot be started from here.
    """
    from kerastorch.jobs import Job  # which most scripts do without

    _refuse_from_within()
    count = _count(nproc)
    if max_restarts < 0:
        raise ValueError(f"max_restarts must be 0 or more, not {max_restarts}.")
    method = _method(fn, args, start)
    with tempfile.TemporaryDirectory(prefix="kerastorch-") as folder:
        for attempt in range(max_restarts + 1):
            job = Job(count, Path(folder, str(attempt)), timeout)
            with job.signals_forwarded():
                job.start(method, (attempt, max_restarts), fn, args)
                job.wait()
            error = job.error()
            if error is None:
                return job.result()
            if attempt == max_restarts or job.is_final:
                raise error
            told = " ".join(str(error).split())
            print(
                f"kerastorch: {type(error).__name__}: {told}; attempt {attempt + 2} of {max_restarts + 1} begins.",
                file=sys.stderr,
                flush=True,
            )
    raise AssertionError("unreachable")  # pragma: no cover


def _refuse_from_within() -> None:
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a new process reads the script
        from kerastorch.jobs import FOLDER, UNGUARDED

        folder = os.environ.get(FOLDER)
        if folder is None:
            raise DistributedError(UNGUARDED)
        Path(folder, "unguarded").touch()
        raise SystemExit(1)  # the first process tells
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DistributedError(
            f"kt.launch was called in process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}, which was "
            "launched itself. Call the function directly, or start the script without torchrun."
        )


def _count(nproc: Any) -> int:
    if nproc == "auto":
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if count == 0:
            raise DistributedError(
                "nproc='auto' is one process per accelerator, and there is none here. Type kt.launch(fn, nproc=2) for "
                "two processes on the CPU."
            )
        return count
    if isinstance(nproc, bool) or not isinstance(nproc, int) or nproc < 1:
        raise ValueError(f"nproc must be 1 or more, or 'auto', not {nproc!r}.")
    return nproc


def _method(fn: Callable[..., Any], args: Sequence[Any], start: str) -> str:
    known = ["auto", "spawn", "fork"]
    if start not in known:
        raise ValueError(f"Unknown start={start!r}.{did_you_mean(str(start), known)} There are {', '.join(known)}.")
    why = None if start == "fork" else _why_not_sent(fn, args)
    if start == "spawn" and why:
        raise DistributedError(f"A new process cannot get {why}. Type start='fork', or define it in a module.")
    if start == "spawn" or (start == "auto" and not why):
        return "spawn"
    reason = f"A new process cannot get {why}, so this one must be forked. " if why else ""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise DistributedError(f"{reason}This system cannot fork: define the function in a module and import it.")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise DistributedError(
            f"{reason}CUDA is in use in this process, and does not survive a fork. Restart the notebook and call "
            "kt.launch before anything is on the GPU, with all that uses it inside the function; or define the "
            "function in a module and import it."
        )
    return "fork"


def _why_not_sent(fn: Any, args: Sequence[Any]) -> str | None:
    """Return what a new interpreter could not be handed, if anything."""
    name = getattr(fn, "__qualname__", repr(fn))
    if getattr(fn, "__module__", None) == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        return f"{name}, which is in no file"
    try:
        ForkingPickler.dumps(fn)
    except Exception:  # whatever a user's object raises
        return f"{name}, a function inside another or without a name"
    try:
        ForkingPickler.dumps(tuple(args))
    except Exception as error:
        return f"the arguments ({error})"
    return None
