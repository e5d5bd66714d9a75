"""The text of training.

    fit
    ├─ on_train_begin                     a run that was killed goes on here
    ├─ epoch
    │  ├─ on_epoch_begin
    │  ├─ batch
    │  │  ├─ prepare_batch               moved to the device, one ahead of use where that helps
    │  │  ├─ on_train_batch_begin
    │  │  ├─ step: forward, loss, backward, on_optimizer_step_begin, update, sums
    │  │  └─ on_train_batch_end
    │  ├─ validation
    │  │  ├─ on_test_begin
    │  │  ├─ batch: on_test_batch_begin, forward, loss, sums, on_test_batch_end
    │  │  └─ on_test_end
    │  └─ on_epoch_end
    ├─ on_interrupt                       where training ends inside an epoch
    └─ on_train_end                       or on_exception

It knows no device, process, file or screen; callbacks and the strategy do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kerastorch import checks, guard, isolate, resume
from kerastorch.data import Batch, DataSource
from kerastorch.errors import add_note
from kerastorch.gathered import Gathered
from kerastorch.history import History
from kerastorch.hooks import Hooks
from kerastorch.run import Run


def fit(run: Run, hooks: Hooks) -> History:
    """Train for the epochs that are left; return what happened."""
    state = run.state
    with explained(run, hooks), isolate.training(state.module):
        run.early = []
        resume.begin(run)
        hooks.emit("on_train_begin", {})
        run.log_early()
        resume.finish(run, hooks)
        for epoch in run.epochs_left():
            train_epoch(run, hooks, epoch)
            if run.interrupted or not state.batch:  # or it was stopped before the first batch
                break
            logs: dict[str, Any] = state.metrics.result(run.strategy.group)  # the only sync of the epoch
            state.note_speed(run.strategy.group)
            if run.validates(epoch):
                logs |= {f"val_{name}": value for name, value in test_epochs(run, hooks).items()}
            if run.interrupted:
                break
            logs |= run.strategy.group.of_main(state.figures())
            state.finish_epoch(logs)
            hooks.emit("on_epoch_end", epoch, logs)
            run.hear()
            if run.stop_reason:
                break
        if run.interrupted:
            hooks.emit("on_interrupt")
        hooks.emit("on_train_end", state.history.rows[-1] if state.history.rows else {})
    return state.history


def train_epoch(run: Run, hooks: Hooks, epoch: int) -> None:
    """Train on every batch once, from the first that is not finished."""
    state, data = run.state, run.train_data
    run.phase, run.call = "train", None  # validation data may have had another form
    if state.batch == 0:
        state.begin_epoch()
        hooks.emit("on_epoch_begin", epoch, {})
    run.hear()
    batches = iter(()) if run.stop_reason else data.batches(epoch, start=state.batch)
    for batch in prepared(run, hooks, batches):
        hooks.emit("on_train_batch_begin", batch.index, {})
        run.train_step(batch)
        state.batch = batch.index + 1
        hooks.emit("on_train_batch_end", batch.index, state.metrics)  # reading it is a sync, passing it is none
    if state.pending:
        run.finish_window()
    run.strategy.settle(state.module)
    guard.settle(run)
    if state.batch == 0 and not run.stop_reason:
        run.run_dry(data)


def evaluate(run: Run, hooks: Hooks) -> dict[str, Any]:
    """Return loss and metrics over all data."""
    with explained(run, hooks):
        return test_epochs(run, hooks)


def test_epochs(run: Run, hooks: Hooks) -> dict[str, Any]:
    """Evaluate every set of data; the values of each are named after it."""
    values: dict[str, Any] = {}
    for prefix, data in run.val_sets.items():
        values |= {f"{prefix}{name}": value for name, value in test_epoch(run, hooks, data).items()}
        if run.interrupted:
            break
    return values


def test_epoch(run: Run, hooks: Hooks, data: DataSource) -> dict[str, Any]:
    """Evaluate every batch once. Net, modes and random numbers are afterwards as they were."""
    run.phase, run.val_data, run.call, metrics = "val", data, None, run.val_metrics
    metrics.reset()
    with isolate.evaluation(run.state.module):
        hooks.emit("on_test_begin", {})
        for batch in prepared(run, hooks, data.batches(0)):
            hooks.emit("on_test_batch_begin", batch.index, {})
            run.evaluate_step(batch)
            hooks.emit("on_test_batch_end", batch.index, metrics)
        run.hear()
        if not run.strategy.group.of_main(bool(metrics)) and not run.interrupted:
            run.run_dry(data)
        logs = guard.of_evaluation(run, metrics.result(run.strategy.group))
        hooks.emit("on_test_end", logs)
    return logs


def predict(run: Run, hooks: Hooks) -> Any:
    """Return the outputs for all data in their order, on the CPU."""
    data = next(iter(run.val_sets.values()))
    outputs = Gathered(data.samples)
    run.phase, run.val_data = "predict", data
    with explained(run, hooks), isolate.evaluation(run.state.module):
        hooks.emit("on_predict_begin", {})
        for batch in prepared(run, hooks, data.batches(0)):
            hooks.emit("on_predict_batch_begin", batch.index, {})
            outputs.add(run.predict_step(batch), is_filler=batch.is_filler)
            hooks.emit("on_predict_batch_end", batch.index, {})
        run.hear()
        if not run.strategy.group.of_main(bool(outputs)):
            run.run_dry(data)
        hooks.emit("on_predict_end", {})
        return outputs.result(run.strategy.group.everyone if run.strategy.group.size > 1 else None)


def prepared(run: Run, hooks: Hooks, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Hand batches through `prepare_batch`, one ahead of use where the run says so, until the run is to end.

    Not ahead on the CPU: reading the next batch there draws random numbers that the present step has yet to draw.
    """
    waiting: Batch | None = None
    for batch in uninterrupted(run, batches):
        ready: Batch | None = hooks.prepare(batch) if hooks.prepares else batch
        if run.lookahead:
            ready, waiting = waiting, ready
        if ready is not None:
            run.current = ready
            yield ready
            run.current = None  # what fails from here on is no batch's affair
            if run.ends(ready):
                return
    if waiting is not None:
        run.current = waiting
        yield waiting
        run.current = None


def uninterrupted(run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches; a signal may reach the workers of a loader as well, and their death then is no error."""
    try:
        yield from batches
    except (RuntimeError, OSError, EOFError):
        if not run.interrupted:
            raise


@contextmanager
def explained(run: Run, hooks: Hooks) -> Iterator[None]:
    """Tell callbacks of an exception, and the exception of the batch that it happened in."""
    try:
        yield
    except BaseException as error:
        if run.current is not None and isinstance(error, Exception):
            add_note(error, run.explanation(run.current))
        hint = checks.hint(error, run.current, run.state.module)
        if hint is not None:
            add_note(error, hint)
        hooks.emit_exception(error)
        told = run.strategy.group.told(error)
        if told is not error:
            raise told from error
        raise
