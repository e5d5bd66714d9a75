"""Going on where a run was killed: what a checkpoint of it holds, and how that is put back.

Counters and history come first, so that every callback knows in `on_train_begin` where the run goes on; all else after
it, since callbacks begin there with what they have set up for a new training. Random numbers come last.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kerastorch import checkpoint, elastic, isolate, randomness
from kerastorch.errors import CheckpointError
from kerastorch.hooks import Hooks
from kerastorch.roles import Resumed
from kerastorch.run import Run
from kerastorch.script import Difference, environment, script, surroundings, unlike, worth_telling
from kerastorch.state import Stateful, bare


def content_of(run: Run) -> dict[str, Any]:
    """Return all that this run needs to go on from this moment, between two steps of the optimizer: plain containers.

    Its tensors are those that are trained, not copies. Several processes all call it, and have the same but for tensors
    that lie in parts on them.
    """
    run.look_over()
    group, content = run.strategy.group, run.state.state_dict()
    content["metrics"] = elastic.of_all(group, content["metrics"], "metrics")
    content["progress"]["decision"] = run.decision
    named = [*run.state.module.named_parameters()]
    return content | {
        "frozen": [bare(name) for name, parameter in named if not parameter.requires_grad],
        "held": [bare(name) for name, part in run.state.module.named_modules() if isolate.is_held(part)],
        "names": {name: repr(extra) for name, extra in run.state.extras.items()},
        "data": run.train_data.state_dict(run.state.batch),
        "val data": {name: data.state_dict(0) for name, data in run.val_sets.items()},
        "facts": run.facts.told(),
        "script": script(run),
        "environment": environment(run),
        "random": elastic.of_all(group, randomness.capture(), "random"),
    }


def read(path: str | Path, mesh: Any = None, *, is_checked: bool = False) -> Resumed:
    """Return what a file says of where to go on.

    Args:
        path: The file; under FSDP a directory.
        mesh: The processes that the net is spread over, if it is.
        is_checked: The main process has read the directory, and it is whole.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It is damaged, or holds no state of a training.
    """
    if not isinstance(path, (str, Path)) or path == "auto" or _is_folder(Path(path).expanduser()):
        raise CheckpointError(
            f"resume is a file, such as 'runs/last.pt'; got {path!r}. To go on by itself where it was killed, a "
            "training needs callbacks=[kt.callbacks.BackupAndRestore('runs/name')] and no resume."
        )
    content = checkpoint.load(path, mesh=mesh, is_checked=is_checked)
    if not isinstance(content.get("progress"), Mapping):
        raise CheckpointError(
            f"{path} holds weights, but no state of a training to go on from. Type model.load_weights({str(path)!r}) "
            "before fit, and leave resume out."
        )
    progress = content["progress"]
    return Resumed(progress["epoch"], progress["batch"], progress["step"], str(path), content)


def is_complete(run: Run, path: str | Path | None = None) -> bool:
    """Return whether the training is over already; if so, its final weights and its history are there.

    Args:
        run: The run.
        path: A file to go on from, if no callback has found a later one.
    """
    if path is not None and run.resumed is None:
        mesh, group = checkpoint.mesh_of(run.state.module), run.strategy.group
        run.resumed = checkpoint.by_all(group, functools.partial(read, path, mesh))
    if run.resumed is None or not run.resumed.content["progress"].get("finished"):
        return False
    content, source = run.resumed.content, run.resumed.source
    _compare(content, source, run)
    run.state.load_progress(content)
    _restore_net(run, content, source)
    told = content.get("facts")
    run.facts.learn(told if isinstance(told, Mapping) else {})  # no batch is seen that would tell
    elastic.restore_random(content["random"], run.strategy.group)  # what comes after this fit finds all as it was then
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
        text = f"{source} is of an older version and has no position in the data; the epoch begins anew."
        warnings.warn(text, stacklevel=2)
        content = {**content, "progress": {**content["progress"], "batch": 0}}
        run.resumed = dataclasses.replace(run.resumed, batch=0, content=content)
    _refuse_fewer(run, content["progress"], source)
    run.state.load_progress(content)
    if run.state.batch:
        place = run.train_data.place(content["data"])
        run.state.batch = run.state.batch if place is None else place
    decision = content["progress"].get("decision")
    if decision:
        run.stop(decision)


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
    kept = _by_identity(content.get("callbacks", {}), content.get("names", {}), state.extras)
    _restore_parts("callbacks", kept, state.extras)
    if content["progress"]["batch"]:
        sums = elastic.sums_of(content["metrics"], run.strategy.group, source)
        state.load_sums({**content, "metrics": sums})
    for note in surroundings(content.get("environment", {}), environment(run)):
        warnings.warn(f"{source}: {note}.", stacklevel=2)
    run.resumed = dataclasses.replace(run.resumed, content={})  # it would be held in memory for the whole training
    if "data" in content:
        run.train_data.load_state_dict(content["data"])
        for name in content["val data"].keys() & run.val_sets.keys():
            run.val_sets[name].load_state_dict(content["val data"][name])
        _tell_of_data(run)
        elastic.restore_random(content["random"], run.strategy.group)


def _tell_of_data(run: Run) -> None:
    """Say what cannot be exact, or takes its time."""
    data, found = run.train_data, run.train_data.fingerprint()
    hint = "With fit(..., seed=0) from the beginning on they would be the same."
    if data.replays:
        again = "" if found.get("seed") is not None else f" If they draw random numbers, others may come. {hint}"
        run.say(f"{data.name} has no place to go on from, so {data.replays} batches of it are read again.{again}")
    elif run.state.batch and found.get("workers") and found.get("seed") is None:
        run.say(f"Samples and their order go on exactly; random numbers that workers draw do not. {hint}")


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
    run.look_over()
    checkpoint.load_into(state.module, content["model"], source)
    state.load_buffers(content.get("buffers", {}))
    if state.optimizer is not None and content["optimizer"] is not None:
        state.optimizer.load_state_dict(_placed(content["optimizer"], state.optimizer))
    others = content.get("optimizers", {})
    known = {name: _placed(kept, state.optimizers[name]) for name, kept in others.items() if name in state.optimizers}
    _restore_parts("optimizers", {**others, **known}, state.optimizers)
    _restore_parts("parts", content.get("parts", {}), state.parts)
    state.load_gradients(content.get("gradients", {}))


def _placed(kept: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer in the parts that its parameters are in, if they lie on several processes."""
    if not any(checkpoint.is_sharded(each) for group in optimizer.param_groups for each in group["params"]):
        return dict(kept)
    places = zip(kept["param_groups"], optimizer.param_groups, strict=True)
    own = {place: each for old, new in places for place, each in zip(old["params"], new["params"], strict=False)}
    state = {
        place: {
            name: checkpoint.like(value, own[place]) if getattr(value, "shape", None) == own[place].shape else value
            for name, value in values.items()
        }
        for place, values in kept["state"].items()
    }
    return {**kept, "state": state}


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not checkpoint.is_directory(path)


def _restore_flags(module: nn.Module, frozen: set[str], held: set[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad = bare(name) not in frozen
    modes = {id(child): parent.training for parent in module.modules() for child in parent.children()}
    for name, part in module.named_modules():
        if bare(name) in held:
            isolate.hold(part)
        else:
            isolate.release(part, modes.get(id(part), True))


def _refuse_fewer(run: Run, progress: Mapping[str, Any], source: str) -> None:
    epoch, batch = progress["epoch"], progress["batch"]
    if (epoch, batch) > (run.epochs, 0):
        trained = f"{epoch} epochs" + (f" and {batch} batches" if batch else "")
        raise CheckpointError(
            f"{source} has {trained} behind it, and epochs={run.epochs} asks for fewer. Nothing was changed. Ask for "
            "more epochs, or begin anew in another directory."
        )


def _by_identity(kept: Mapping[str, Any], names: Mapping[str, str], here: Mapping[str, Stateful]) -> dict[str, Any]:
    """Return the states by the names that callbacks have here: of several of one class some may have gone or come."""
    left, found = dict(kept), {}
    for name, extra in here.items():
        same = next((other for other in _alike(left, name) if names.get(other) == repr(extra)), None)
        chosen = same or (name if len(_alike(kept, name)) == len(_alike(here, name)) else None)
        if chosen in left:
            found[name] = left.pop(chosen)
    return found | {names.get(name, name): state for name, state in left.items()}


def _alike(names: Mapping[str, Any], name: str) -> list[str]:
    return [other for other in names if other.partition(" ")[0] == name.partition(" ")[0]]


def _restore_parts(kind: str, kept: Mapping[str, Any], here: Mapping[str, Stateful]) -> None:
    for name in kept.keys() & here.keys():
        here[name].load_state_dict(kept[name])
    for name in kept.keys() - here.keys():
        if not name.startswith("BackupAndRestore"):  # its files may be gone on from without it
            hint = "" if kind == "callbacks" else " What a model has beside its net is made before fit, in __init__."
            text = f"The checkpoint has a state of {name} among its {kind}, which this script lacks.{hint}"
            warnings.warn(text, stacklevel=4)
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
