"""One call of `fit`, from its arguments to its end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kerastorch import checks, feed, guard, loop, resume, several
from kerastorch.data import class_names
from kerastorch.display import Verbose
from kerastorch.history import History
from kerastorch.hooks import Callback
from kerastorch.signals import child_deaths_deferred, obey, preemptible


def fit(
    model: Any,
    data: tuple[Any, Any],
    options: feed.Options,
    callbacks: Sequence[Callback] | None,
    verbose: Verbose,
    *,
    initial_epoch: int,
    path: str | Path | None,
    microbatch: int | Literal["auto"] | None,
    **parts: Any,
) -> History:
    """Do what `Model.fit` promises.

    Args:
        model: The model.
        data: What is trained on, and what is validated on.
        options: How it is read.
        callbacks: The user's.
        verbose: What to show.
        initial_epoch: The number of the first epoch, from 0.
        path: A file to go on from.
        microbatch: How to split batches.
        parts: Of the run: `epochs`, `validation_freq`, `log_step_freq`, `nan`; and `profile`.
    """
    guard.check(parts["nan"])
    if microbatch is not None:
        from kerastorch.memory import check

        check(microbatch)
    session, epochs = model._session, parts["epochs"]
    session.compiled("fit")
    checks.epochs(epochs, initial_epoch)
    checks.positive(validation_freq=parts["validation_freq"], log_step_freq=parts["log_step_freq"])
    notes: list[str] = []
    group = session.strategy.group
    if isinstance(options.batch_size, str):
        session.refuse_several("batch_size='auto'", "Say a number of samples per process.")
        from kerastorch.batch_size import settled  # few want it, and it brings much along

        options, notes = settled(model, data[0], options, callbacks)
    read = feed.for_training(model.module, *data, options, epochs=epochs - initial_epoch, share=session.share)
    read.notes.extend(notes)
    model._facts.learn({"classes": class_names(data[0])})
    with session.begin(callbacks, verbose, read, trains="fit", microbatch=microbatch, **parts) as (run, hooks):
        run.state.begin_fit(initial_epoch)
        model.history = run.state.history
        if not resume.is_complete(run, path):
            preempted = preemptible(run.preempt, saves=bool(run.peers["backup"]), tells=group.is_main)
            with preempted, child_deaths_deferred(), several.own_randomness(group, options.seed):
                loop.fit(run, hooks)
            run.hear()  # what came last of all
        run.state.is_open = run.interrupted
        if group.is_main and (run.interrupted or (run.stop_reason and verbose)):
            print(run.farewell(), file=sys.stdout if verbose else sys.stderr, flush=True)
    obey(run.signal, is_saved=bool(run.peers["backup"] and run.last_good))
    return model.history  # type: ignore[no-any-return]
