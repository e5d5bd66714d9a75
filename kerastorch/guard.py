"""What happens where a loss is not finite: `fit(nan=...)`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from kerastorch import isolate
from kerastorch.data import Batch
from kerastorch.errors import NonFiniteError, did_you_mean
from kerastorch.health import NanPolicy, Sighting, copied_buffers, first_lost, first_nonfinite, is_loss
from kerastorch.losses import Term
from kerastorch.metrics.base import one_number
from kerastorch.run import Run
from kerastorch.tree import tensors

_LOWER = "Try a lower learning rate or clipped gradients"
_CLEAN = "Type torch.nan_to_num(x), or fillna(...) or dropna() for a data frame"
_SKIP = "fit(..., nan='skip') leaves such batches out"


def check(nan: Any) -> None:
    """See that `nan` says what to do.

    Raises:
        ValueError: It does not.
    """
    known = get_args(NanPolicy)
    if nan not in known:
        raise ValueError(f"Unknown nan={nan!r}.{did_you_mean(str(nan), known)} There are 'raise', 'skip' and 'warn'.")


def prepare(run: Run) -> None:
    """Note, before the net is called, what a bad batch would spoil in the call already."""
    if run.nan in ("raise", "skip") and looks_first(run):
        run.statistics.keep(run.state.module)


def admits(run: Run, batch: Batch, output: Any, loss: Tensor, terms: Sequence[Term]) -> bool:
    """Whether a batch may make its step.

    Raises:
        NonFiniteError: Its loss is not finite, or one before it that has arrived only now.
    """
    if run.nan == "off":
        return True
    if not looks_first(run):
        look_later(run, batch, "loss", _what_counts(loss, terms))
        return True
    value = loss.item()
    is_fine = batch.is_filler or math.isfinite(value) or (_counts_nothing(terms) and _is_well(output))
    if run.nan == "skip" and run.strategy.group.any(not is_fine) and is_fine:  # the batch of another process
        run.statistics.restore()
        run.left_out.append((run.state.epoch, batch.index))
        return False
    if is_fine:
        return True
    run.statistics.restore()
    lost = None if run.nan == "warn" else first_lost(run.state.module)  # nothing was kept for a warning
    found = f"{_place(run, _sighting(run, batch, 'loss'), value)}{_cause(run, batch, output, lost)}"
    if run.nan == "warn":
        _warn(run, found)
        return True
    if run.nan == "skip" and lost is None:
        _leave_out(run, batch, found)
        return False
    run.lost = lost is not None
    begun = "The net was lost by a step before. " if run.lost else "The batch made no step. "
    skip = f", or {_SKIP}" if run.nan == "raise" and not run.lost else ""
    advice = _CLEAN if lost is None and _spoiled_part(batch) else _LOWER
    raise _error(run, f"{found}. {begun}{advice}{skip}.")


def admits_own(run: Run, batch: Batch, values: Mapping[str, Any]) -> bool:
    """Whether what a step of the user's own has measured may be counted; the step is made.

    Raises:
        NonFiniteError: A loss is not finite.
    """
    if run.nan == "off":
        return True
    for name in filter(is_loss, values):
        value = one_number(values[name], f"The value {name!r} of a step")
        if isinstance(value, Tensor):
            if not looks_first(run):
                look_later(run, batch, name, value)
                continue
            value = value.item()
        if not math.isfinite(value):
            return _judge_own(run, batch, _sighting(run, batch, name), value)
    return True


def _judge_own(run: Run, batch: Batch, sighting: Sighting, value: float) -> bool:
    lost, part = first_lost(run.state.module), _spoiled_part(batch)
    causes = [f"the {part} of the batch are not finite"] if part else []
    causes += [f"{lost!r} is not finite after it"] if lost else []
    found = _place(run, sighting, value) + ": ".join(["", ", and ".join(causes)] if causes else [])
    if run.nan == "warn":
        _warn(run, found)
        return True
    if run.nan == "skip" and lost is None:  # the step has looked by itself
        _leave_out(run, batch, found)
        return False
    run.lost = True
    advice = f"Look before optimizer.step(). {_LOWER}"
    raise _error(run, f"{found}. A train_step of your own has made its step by then, so the net is lost. {advice}.")


def settle(run: Run) -> None:
    """See, at the end of an epoch, that all losses of it were finite; tell how many batches were left out.

    Raises:
        NonFiniteError: One was not, or every batch was left out.
    """
    run.late.wait()
    _look(run)
    epoch = run.state.epoch
    count, total = sum(place[0] == epoch for place in run.left_out), run.state.batch
    if not count:
        return
    if count == total:
        raise _error(run, f"No batch of epoch {epoch + 1} has a finite loss, so all of them were left out. {_LOWER}.")
    run.say(f"Epoch {epoch + 1}: {count} of {total} batches made no step, since their loss was not finite.")


def of_evaluation(run: Run, logs: dict[str, Any]) -> dict[str, Any]:
    """Return the values of an evaluation; say so, once, where its loss is no number."""
    name, loss = run.val_data.name, logs.get("loss")
    if isinstance(loss, float) and math.isnan(loss) and name not in run.nan_told:
        run.nan_told.add(name)
        run.say(
            f"The loss of {name} is nan. Are there missing values in it? Type torch.isnan(x).any(), table.isna().sum()."
        )
    return logs


def looks_first(run: Run) -> bool:
    """Whether a loss is looked at before its step is made."""
    return run.nan == "skip" or run.device is None or run.device.type == "cpu"  # else it would wait


def look_later(run: Run, batch: Batch, name: str, value: Tensor) -> None:
    """Send a loss on its way, and look at those that have arrived.

    Raises:
        NonFiniteError: One of them is not finite.
    """
    _look(run)
    if run.nan != "off":  # a warning ends it
        run.late.note(value, _sighting(run, batch, name))


def _look(run: Run) -> None:
    found = run.late.look() if run.nan != "off" else None
    if found is None:
        return
    sighting, value = found
    place, run.current = _place(run, sighting, value), None  # an error now is not the present batch's affair
    if run.nan == "warn":
        _warn(run, place)
        return
    run.lost = True
    where = "kt.callbacks.TerminateOnNaN(diagnose=True) says where it begins"
    advice = f"{_LOWER}; nan='skip' looks before each step, and {where}"
    raise _error(run, f"{place}. This was known when its step was made, so the net is lost. {advice}.")


def _what_counts(loss: Tensor, terms: Sequence[Term]) -> Tensor:
    """Return a number that is not finite if the loss is bad: that of a batch without labels that count is not."""
    if not any(isinstance(weight, Tensor) for _, _, weight in terms):
        return loss
    values = [torch.where(torch.as_tensor(weight) == 0, 0.0, value) for _, value, weight in terms if weight is not None]
    values += [value for _, value, weight in terms if weight is None]
    return sum(values[1:], values[0])


def _is_well(output: Any) -> bool:
    """Whether an output is finite, but for a loss in it."""
    return first_nonfinite(dict(_numbered([part for part in tensors(output) if part.ndim]))) is None


def _counts_nothing(terms: Sequence[Term]) -> bool:
    weights = [weight for _, value, weight in terms if not math.isfinite(float(value))]
    return bool(weights) and not any(weight is None or float(weight) for weight in weights)


def _sighting(run: Run, batch: Batch, name: str) -> Sighting:
    optimizer = run.state.optimizer
    rate = None if optimizer is None else optimizer.param_groups[0]["lr"]
    return Sighting(name, run.state.epoch, batch.index, rate)


def _place(run: Run, sighting: Sighting, value: float) -> str:
    where = f"in batch {sighting.batch + 1} of epoch {sighting.epoch + 1}" if run.trains else "in this batch"
    rate = "" if sighting.rate is None else f" (learning rate {float(sighting.rate):.3g})"
    return f"{sighting.name} is {value} {where}{rate}"


def _cause(run: Run, batch: Batch, output: Any, lost: str | None) -> str:
    """Say where it begins, as far as it is known: the net is called again, which leaves no trace."""
    text = _first_in(run, batch)
    if text.endswith("begins in the loss") and first_nonfinite(dict(_numbered(output))) is not None:
        text = "the output of the net is not finite, but is when it is called again: it depends on random numbers"
    if lost is not None and repr(lost) not in text:
        text = "; ".join(filter(None, [text, f"{lost!r} was not finite before this batch"]))
    return f": {text}" if text else ""


def _first_in(run: Run, batch: Batch) -> str:
    from kerastorch.watch import Watch  # only now, as nearly no run needs it

    module, watch = run.state.module, Watch(run.state.module)
    call = run.call or module
    is_script = any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())
    try:
        with isolate.random_state_kept(), copied_buffers(module), torch.no_grad():
            watch.begin(run.state.epoch, batch)
            if not is_script:  # into a script nothing looks, and its buffers cannot be copied
                call(batch.x)
    except Exception:  # what went wrong first is to be told, not this
        return ""
    finally:
        watch.remove()
    return watch.explain(run.state.epoch, batch.index)


def _spoiled_part(batch: Batch) -> str | None:
    from kerastorch.watch import parts

    spoiled = (name for name, tree in parts(batch).items() if first_nonfinite(dict(_numbered(tree))) is not None)
    return next(spoiled, None)


def _numbered(tree: Any) -> Iterator[tuple[str, Tensor]]:
    return ((str(place), tensor) for place, tensor in enumerate(tensors(tree)))


def _leave_out(run: Run, batch: Batch, found: str) -> None:
    if not run.left_out:
        warnings.warn(f"{found}. It makes no step, by nan='skip', and so do others after it.", stacklevel=2)
    run.left_out.append((run.state.epoch, batch.index))


def _warn(run: Run, found: str) -> None:
    run.nan = "off"  # once is enough
    warnings.warn(f"{found}. Training goes on, by nan='warn'.", stacklevel=2)


def _error(run: Run, text: str) -> NonFiniteError:
    good = "" if run.last_good is None else f" The last good state is in {run.last_good}."
    return NonFiniteError(f"{text}{good}")
