"""Where the time of a run went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from kerastorch.callbacks.device_transfer import DeviceTransfer
from kerastorch.data import Batch, DataSource
from kerastorch.hooks import Callback, HookName, Hooks, Listener, Logs, Stage
from kerastorch.metrics import Metric, MetricSet
from kerastorch.profiler import (
    Circumstances,
    Clock,
    Part,
    Report,
    Trace,
    advise,
    by_name,
    stand_in,
    usable_cpus,
)
from kerastorch.profiler.report import OTHER
from kerastorch.run import Run

_T = TypeVar("_T")
_WAITED = "The device was waited for after each part; without the profiler it works on while data are read."
_NOT_WAITED = "sync=False: a part is charged with handing work to the device, and with waiting for earlier work."


class Profiler(Callback):
    """Takes the time of each part of a run, and prints at the end where it went and what to do about it.

    The parts: `"waiting for data"`, `"transfer"` to the device, `"forward"` with the loss, `"backward"`, `"optimizer"`,
    `"metrics"` of training, each `"callback ..."` by its name, `"validation"` with all that it consists of but
    callbacks and transfer, `"other"`. Every moment is charged to one of them, so that they add up to the whole. A
    `train_step` of the user's own is one part, `"train_step"`, except for what it leaves to `super().train_step`.

    It changes no number of the training. For `evaluate` and `predict` it is passed as `callbacks=[...]` as well. The
    table is printed whatever `verbose` is; not after an error.

    Example:
        >>> profiler = kt.callbacks.Profiler()
        >>> model.fit(1, dl_train, callbacks=[profiler])
        >>> profiler.report.seconds["waiting for data"]

    Args:
        trace: Also write what torch does in 5 steps, after the first 3. A file `.json` or `.json.gz` opens in
            ui.perfetto.dev, any other name is a directory for TensorBoard. The traced steps are slower. torch makes one
            trace at a time: an evaluation goes without, and says so, where there is another.
        sync: On an accelerator, wait at the end of each part until the device is done, so that a part is charged with
            its own work. Training is a little slower meanwhile, and reading data, which else goes on beside the work of
            the device, shows in full. False takes the time in which work is handed over; what the device still does
            then is charged to whoever waits for it. On the CPU it changes nothing.

    Attributes:
        report: Of the last run: `seconds` by part, `advice`, `share(part)`, `table()`; None before, and there also
            after an error.

    Raises:
        RuntimeError: Another trace is being made, by a second Profiler or a torch.profiler; before the training.
    """

    stage: Stage = "display"

    def __init__(self, trace: str | Path | None = None, *, sync: bool = True) -> None:
        self.trace = None if trace is None else Path(trace)
        self.sync = sync
        self.report: Report | None = None
        self._clock: Clock | None = None  # of the present run

    def __repr__(self) -> str:
        return f"Profiler({None if self.trace is None else str(self.trace)!r}, sync={self.sync})"

    @contextmanager
    def around(self, hooks: Hooks) -> Iterator[None]:
        """Take the time of everything inside."""
        run, outer = self.run, self._clock
        wait = (lambda: _wait_for(run.device)) if self.sync and _accelerator_is_there() else None
        names, first = _names(hooks.callbacks), run.state.step
        trace = None if self.trace is None else Trace(self.trace, needed=run.trains)
        self._clock = clock = Clock(Part(OTHER), wait)
        try:
            hooks.wrap(
                lambda owner, *hook: hook[1] if owner is self else _listener(clock, names[id(owner)], owner, *hook)
            )
            with _timed_metrics(run.state.metrics if run.trains else run.val_metrics, clock):
                _time_steps(run, clock)
                if trace is not None:
                    _trace_steps(run, clock, trace)
                yield
        finally:
            if trace is not None:
                clock.timed(Part("trace"), trace.close)()
            self._clock = outer
            notes = [*_notes(run, sync=self.sync), *([] if trace is None else [trace.describe()])]
            self.report = _report(clock.seconds(), run, hooks.callbacks, run.state.step - first, notes)
        self.report.table()

    def on_test_begin(self, logs: Logs) -> None:
        """From here on it is the validation."""
        if self._clock is not None and self.run.trains:
            self._clock.switch(Part("validation"))

    def on_test_end(self, logs: Logs) -> None:
        """It is over."""
        if self._clock is not None and self.run.trains:
            self._clock.switch(Part(OTHER))


def _names(callbacks: list[Callback]) -> dict[int, str]:
    """Name each callback by its class; a second one of a class by a number, too."""
    seen: Counter[str] = Counter()
    names = {}  # by id: a callback that is a dataclass cannot be hashed
    for callback in callbacks:
        kind = type(callback).__name__
        seen[kind] += 1
        names[id(callback)] = kind if seen[kind] == 1 else f"{kind} {seen[kind]}"
    return names


def _listener(clock: Clock, name: str, owner: Callback, hook: HookName, listener: Listener) -> Listener:
    part = Part("transfer") if isinstance(owner, DeviceTransfer) else Part(f"callback {name}", hook)
    return clock.timed(part, listener)


def _time_steps(run: Run, clock: Clock) -> None:
    """Take the time of data and steps. A run lives as long as the call, so nothing has to be put back."""
    if not run.trains:
        run.val_sets = {name: _timed_source(source, clock) for name, source in run.val_sets.items()}
        run.evaluate_step = clock.timed(Part("forward"), run.evaluate_step)
        run.predict_step = clock.timed(Part("forward"), run.predict_step)
        return
    strategy = run.strategy
    verbs = {
        "backward": clock.timed(Part("backward"), strategy.backward),
        "step": clock.timed(Part("optimizer"), strategy.step),
    }
    run.strategy = stand_in(strategy, verbs)
    run.train_data = _timed_source(run.train_data, clock)
    run.train_step = clock.timed(Part("train_step" if run.has_own_step else "forward"), run.train_step)


def _timed_source(source: DataSource, clock: Clock) -> DataSource:
    def batches(epoch: int, start: int = 0) -> Iterator[Batch]:
        reader = source.batches(epoch, start)
        yield from iter(clock.timed(Part("waiting for data"), reader.__next__), None)

    return stand_in(source, {"batches": batches})


@contextmanager
def _timed_metrics(sums: MetricSet, clock: Clock) -> Iterator[None]:
    """Take the time of each metric; the sums outlive the run, so afterwards they are as before."""
    plain = sums.metrics
    sums.metrics = {name: _timed_metric(name, metric, clock) for name, metric in plain.items()}
    try:
        yield
    finally:
        sums.metrics = plain


def _timed_metric(name: str, metric: Metric, clock: Clock) -> Metric:
    part = Part("metrics", name)
    own = {
        "measure": clock.timed(part, metric.measure),
        "value": clock.timed(part, metric.value),
        "value_of_all": clock.timed(part, metric.value_of_all),
        "whole": metric.whole,  # read at every batch
    }
    return stand_in(metric, own)


def _trace_steps(run: Run, clock: Clock, trace: Trace) -> None:
    """Tell the trace of each step, until it has enough."""
    finish = clock.timed(Part("trace"), trace.finish_step)

    def counted(step: Callable[[Batch], _T]) -> Callable[[Batch], _T]:
        def call(batch: Batch) -> _T:
            result = step(batch)
            if trace.is_open:
                finish()
            return result

        return call

    if run.trains:
        run.train_step = counted(run.train_step)
    else:
        run.evaluate_step, run.predict_step = counted(run.evaluate_step), counted(run.predict_step)


def _accelerator_is_there() -> bool:
    return torch.accelerator.is_available()


def _wait_for(device: torch.device | None) -> None:
    accelerator = torch.accelerator.current_accelerator()
    if device is not None and accelerator is not None and device.type == accelerator.type:
        torch.accelerator.synchronize(device)


def _report(
    seconds: dict[Part, float], run: Run, callbacks: list[Callback], steps: int, notes: Iterable[str]
) -> Report:
    names = _names(callbacks)
    circumstances = Circumstances(
        loader=(run.train_data if run.trains else run.val_data).loader,
        optimizer=run.state.optimizer,
        on_accelerator=_is_accelerator(run.device),
        steps=steps,
        displays=frozenset(f"callback {names[id(each)]}" for each in callbacks if each.stage == "display"),
    )
    return Report(by_name(seconds), steps, advise(seconds, circumstances), tuple(notes))


def _notes(run: Run, *, sync: bool) -> Iterator[str]:
    threads, cpus = torch.get_num_threads(), usable_cpus()
    if run.has_own_step and run.trains:
        yield "train_step is your own; forward, backward and optimizer are in it, save what super().train_step does."
    if _is_accelerator(run.device):
        yield _WAITED if sync else _NOT_WAITED
    if threads > cpus:
        yield f"torch uses {threads} threads on {cpus} usable CPUs; torch.set_num_threads({cpus}) may be faster."


def _is_accelerator(device: torch.device | None) -> bool:
    return device is not None and device.type != "cpu"
