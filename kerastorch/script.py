"""What a training is made of, in plain words: to see whether a checkpoint is of the same one."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from kerastorch.run import Run
from kerastorch.state import bare

Difference = tuple[str, Any, Any]
_ALONE = {"processes": 1}  # what is not told of a training in one process
_SHARED = ("batches", "batch size")  # in another number of processes there may be others; the place is in samples
_SOFT = ("workers",)  # without a seed their number changes the augmentation, but neither samples nor order


def script(run: Run) -> dict[str, Any]:
    """Return what must be the same for a run to go on, and what is told where it is not, in plain containers."""
    state = run.state
    optimizer = state.optimizer
    return {
        "net": type(getattr(state.module, "_orig_mod", state.module)).__name__.removeprefix("FSDP"),  # put before it
        "weights": {bare(name): _shape(value) for name, value in state.module.state_dict().items()},
        "parameters": [bare(name) for name, _ in state.module.named_parameters()],
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "groups": list(_groups(run)),
        "options": {} if optimizer is None else {name: _plain(value) for name, value in optimizer.defaults.items()},
        "loss": None if run.loss is None else run.loss.name,
        "metrics": sorted(state.metrics.metrics),
        "data": run.train_data.fingerprint(),
        "began": state.began,
        **_processes(run),
    }


def environment(run: Run) -> dict[str, Any]:
    """Return what the last digits of numbers depend on."""
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": str(run.device),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        **_processes(run),
    }


def unlike(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return in what two scripts differ, so that one cannot go on with the training of the other.

    Returns:
        Name, value then and value now of each difference.
    """
    found = [*_differences({"net": then["net"]}, {"net": now["net"]})]
    found += _differences(then["weights"], now["weights"], "shape of ")
    if not found:
        found += _first_difference(then["parameters"], now["parameters"], "parameter")
    found += _differences({"optimizer": then["optimizer"]}, {"optimizer": now["optimizer"]})
    if not found:
        found += _first_difference(*_comparable(then["groups"], now["groups"]), "parameter group")
    left_out = () if _size(then) == _size(now) else _SHARED
    found += _differences(_hard(then["data"], left_out), _hard(now["data"], left_out), "training data: ")
    name = "steps of the optimizer before this fit"
    return [*found, *_differences({name: then["began"]}, {name: now["began"]})]


def worth_telling(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what two scripts differ in that goes on all the same."""
    for name, before, after in _differences(then["options"], now["options"]):
        yield f"the optimizer had {name}={before!r} there and has {after!r} here; that of the checkpoint goes on"
    for name in ("loss", "metrics"):
        if then[name] != now[name]:
            yield f"{name}: {then[name]!r} there and {now[name]!r} here; the values of the running epoch are of both"
    if now["data"].get("seed") is None:
        for name, before, after in _differences(_soft(then["data"]), _soft(now["data"])):
            yield (
                f"{name} were {before!r} there and are {after!r} here; samples and order are the same, but not random "
                "augmentation. With fit(..., seed=0) it would be"
            )


def surroundings(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield what two environments differ in."""
    then, now = _ALONE | then, _ALONE | now
    for name, before, after in _differences(then, {name: now[name] for name in then if name in now}):
        yield f"{name} was {before!r} there and is {after!r} here; last digits may differ"


def _processes(run: Run) -> dict[str, int]:
    size = run.strategy.group.size
    return {"processes": size} if size > 1 else {}


def _size(script: Mapping[str, Any]) -> Any:
    return script.get("processes", 1)


def _hard(data: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in (*_SOFT, *left_out)}


def _soft(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data.get(name) for name in _SOFT}


def _groups(run: Run) -> Iterator[list[str]]:
    names = {id(parameter): bare(name) for name, parameter in run.state.module.named_parameters()}
    for group in () if run.state.optimizer is None else run.state.optimizer.param_groups:
        yield [names.get(id(parameter), "?") for parameter in group["params"]]


def _comparable(then: list[list[str]], now: list[list[str]]) -> tuple[list[Any], list[Any]]:
    # What was unfrozen in the course of the training is frozen at its beginning, and not in a group as yet
    frozen = {name for group in then for name in group} - {name for group in now for name in group}
    return [[name for name in group if name not in frozen] for group in then], now


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[Difference]:
    names = dict.fromkeys([*then, *now])
    pairs = [(name, then.get(name, "not there"), now.get(name, "not there")) for name in names]
    return [(prefix + name, before, after) for name, before, after in pairs if _differ(before, after)]


def _differ(before: Any, after: Any) -> bool:
    return bool(before != after) and "unknown yet" not in (before, after)


def _first_difference(then: list[Any], now: list[Any], what: str) -> list[Difference]:
    if len(then) != len(now):
        return [(f"number of {what}s", len(then), len(now))]
    pairs = enumerate(zip(then, now, strict=True))
    found = [(f"{what} {place + 1}", before, after) for place, (before, after) in pairs if before != after]
    return found[:1]


def _shape(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "unknown yet" if is_lazy(value) else list(value.shape)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
