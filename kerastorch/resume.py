"""Going on where a run was killed: what a checkpoint of it holds, and how that is put back.

Counters and history come first, so that every callback knows in `on_train_begin` where the run goes on; all else after
it, since callbacks begin there with what they have set up for a new training. Random numbers come last.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kerastorch import checkpoint, isolate, randomness
from kerastorch.errors import CheckpointError
from kerastorch.hooks import Hooks
from kerastorch.run import Resumed, Run
from kerastorch.script import Difference, environment, script, surroundings, unlike, worth_telling
from kerastorch.state import Stateful


def content_of(run: Run) -> dict[str, Any]:
    """Return all that this run needs to go on from this moment, between two steps of the optimizer: plain containers.

    Its tensors are those that are trained, not copies.
    """
    content = run.state.state_dict()
    content["progress"]["stop_reason"] = None if run.interrupted else run.stop_reason
    named = [*run.state.module.named_parameters()]
    return content | {
        "frozen": [name for name, parameter in named if not parameter.requires_grad],
        "held": [name for name, part in run.state.module.named_modules() if isolate.is_held(part)],
        "data": run.train_data.state_dict(run.state.batch),
        "script": script(run),
        "environment": environment(run),
        "random": randomness.capture(),
    }


def read(path: str | Path) -> Resumed:
    """Return what a file says of where to go on.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It is damaged, or holds no state of a training.
    """
    content = checkpoint.load(path)
    if not isinstance(content.get("progress"), Mapping):
        raise CheckpointError(
            f"{path} holds weights, but no state of a training to go on from. Type model.load_weights({str(path)!r}) "
            "before fit, and leave resume out."
        )
    progress = content["progress"]
    return Resumed(progress["epoch"], progress["batch"], progress["step"], str(path), content)


def is_complete(run: Run) -> bool:
    """Return whether the training is over already; if so, its final weights and its history are there."""
    if run.resumed is None or not run.resumed.content["progress"].get("finished"):
        return False
    content, source = run.resumed.content, run.resumed.source
    _compare(content, source, run)
    run.state.load_progress(content)
    checkpoint.load_into(run.state.module, content["model"], source)
    epochs = f"{run.state.epoch} epoch{'' if run.state.epoch == 1 else 's'}"
    run.say(f"This training of {epochs} is complete; its weights are those of {source}. Nothing was trained.")
    return True


def begin(run: Run) -> None:
    """Set counters and history, if this run goes on from a checkpoint.

    Raises:
        CheckpointError: It is a checkpoint of another training.
    """
    if run.resumed is None:
        return
    content, source = run.resumed.content, run.resumed.source
    if "script" in content:
        _compare(content, source, run)
    else:
        warnings.warn(
            f"{source} is of an older version and has no position in the data: order begins anew.", stacklevel=2
        )
    run.state.load_progress(content)
    run.stop_reason = run.stop_reason or content["progress"].get("stop_reason")


def finish(run: Run, hooks: Hooks) -> None:
    """Put back all else, if this run goes on from a checkpoint.

    Raises:
        CheckpointError: Weights have other names or shapes.
    """
    if run.resumed is None:
        return
    state, content, source = run.state, run.resumed.content, run.resumed.source
    if state.batch:
        state.begin_epoch()
        hooks.emit("on_epoch_begin", state.epoch, {})
    _restore_net(run, content, source)
    for kind, here in (("optimizers", state.optimizers), ("parts", state.parts), ("callbacks", state.extras)):
        _restore_parts(kind, content.get(kind, {}), here)
    if state.batch:
        state.load_sums(content)
    for note in surroundings(content.get("environment", {}), environment(run)):
        warnings.warn(f"{source}: {note}.", stacklevel=2)
    run.resumed = dataclasses.replace(run.resumed, content={})  # it would be held in memory for the whole training
    if "data" in content:
        run.train_data.load_state_dict(content["data"])
        randomness.restore(content["random"])


def _compare(content: Mapping[str, Any], source: str, run: Run) -> None:
    if content["optimizer"] is not None and run.state.optimizer is None and run.keeper is not None:
        run.keeper.optimizer(run.state)  # a step of the user's own has not asked for it as yet
    then, now = content["script"], script(run)
    found = unlike(then, now)
    if found:
        raise CheckpointError(_refusal(source, found))
    for note in worth_telling(then, now):
        warnings.warn(f"{source}: {note}.", stacklevel=2)


def _restore_net(run: Run, content: Mapping[str, Any], source: str) -> None:
    state = run.state
    if "frozen" in content:
        _restore_flags(state.module, set(content["frozen"]), set(content["held"]))
    if run.keeper is not None:
        run.keeper.take_in_unfrozen(state)
    checkpoint.load_into(state.module, content["model"], source)
    if state.optimizer is not None and content["optimizer"] is not None:
        state.optimizer.load_state_dict(content["optimizer"])
    state.load_gradients(content.get("gradients", {}))


def _restore_flags(module: nn.Module, frozen: set[str], held: set[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name not in frozen
    modes = {id(child): parent.training for parent in module.modules() for child in parent.children()}
    for name, part in module.named_modules():
        if name in held:
            isolate.hold(part)
        else:
            isolate.release(part, modes.get(id(part), True))


def _restore_parts(kind: str, kept: Mapping[str, Any], here: Mapping[str, Stateful]) -> None:
    for name in kept.keys() & here.keys():
        here[name].load_state_dict(kept[name])
    for name in kept.keys() - here.keys():
        warnings.warn(
            f"The checkpoint has a state of {name!r} among its {kind}, which this script lacks.", stacklevel=4
        )
    for name in here.keys() - kept.keys():
        if getattr(here[name], "stage", None) == "logger":
            continue  # a new one has nothing to go on with
        warnings.warn(f"The checkpoint has no state of {name!r}, which begins anew.", stacklevel=4)


def _refusal(source: str, found: list[Difference]) -> str:
    shown = [f"  {name}: {before!r} in the checkpoint, {now!r} in this script" for name, before, now in found[:8]]
    more = [f"  and {len(found) - 8} more"] if len(found) > 8 else []
    return "\n".join(
        [
            f"{source} is of another training than this script describes:",
            *shown,
            *more,
            "Nothing was changed. Undo the change to go on with it, or begin anew in another directory. For its "
            "weights alone type model.load_weights(...).",
        ]
    )
