"""What to do about a bottleneck, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.utils.data import DataLoader

from kerastorch.cpus import usable_cpus
from kerastorch.profiler.clock import Part
from kerastorch.profiler.report import OTHER, by_name

_NET = ("forward", "backward", "train_step", "optimizer")
# From which share on a part is in the way. Of an optimizer and a validation, half as much again is ordinary
_TOO_MUCH = {"optimizer": 0.4, "validation": 0.4}
_TOO_MUCH_OF_OTHERS = 0.25
_SHORT_STEP = 1e-3  # seconds in which a step is mostly the calling of small operations


@dataclass(frozen=True)
class Circumstances:
    """What the advice depends on.

    Attributes:
        loader: What the batches are read from; None for data in memory.
        optimizer: The optimizer, where there is one.
        on_accelerator: Whether the net is on one.
        steps: Steps of the optimizer.
        displays: The rows of callbacks that show progress.
    """

    loader: Any = None
    optimizer: Optimizer | None = None
    on_accelerator: bool = False
    steps: int = 0
    displays: frozenset[str] = frozenset()


def advise(seconds: Mapping[Part, float], circumstances: Circumstances) -> str:
    """Name the largest obstacle and what to do about it; or say that there is none.

    Args:
        seconds: The time of each part.
        circumstances: What else is known of the run.
    """
    whole = max(sum(seconds.values()), 1e-9)
    shares = {name: time / whole for name, time in by_name(seconds).items()}
    worst = max(shares, key=lambda name: _weight(name, shares[name]), default=OTHER)
    if worst == "optimizer" and _is_short(shares, whole, circumstances.steps):
        worst = OTHER  # its cost, too, is that of calls
    if _weight(worst, shares.get(worst, 0.0)) >= 1:
        detail = max((part for part in seconds if part.name == worst), key=lambda part: seconds[part]).detail
        spent, remedy = _obstacle(worst, detail, circumstances)
        return f"{_percent(shares[worst])} of the time was spent {spent}: {remedy}."
    return _of_the_net(shares, whole, circumstances.steps)


def _weight(name: str, share: float) -> float:
    """Return how far a part is in the way: 1 and more is too far."""
    if name == OTHER or (name in _NET and name != "optimizer"):
        return 0.0
    return share / _TOO_MUCH.get(name, _TOO_MUCH_OF_OTHERS)


def _of_the_net(shares: Mapping[str, float], whole: float, steps: int) -> str:
    net = sum(shares.get(name, 0.0) for name in _NET)
    if _is_short(shares, whole, steps):
        return (
            f"A step takes {1000 * _step_seconds(shares, whole, steps):.2f} ms, most of it the cost of starting many "
            "small operations: a larger batch_size does more in each."
        )
    if net >= 0.5:
        return f"The net itself takes {_percent(net)}: nothing stands in its way."
    others = sorted((name for name in shares if name not in (*_NET, OTHER)), key=lambda name: -shares[name])[:2]
    named = " and ".join(f"{name} {_percent(shares[name])}" for name in others)
    return f"Nothing stands out: the net itself takes {_percent(net)}{f', {named}' if named else ''}."


def _is_short(shares: Mapping[str, float], whole: float, steps: int) -> bool:
    return steps > 0 and _step_seconds(shares, whole, steps) < _SHORT_STEP


def _step_seconds(shares: Mapping[str, float], whole: float, steps: int) -> float:
    return sum(shares.get(name, 0.0) for name in _NET) * whole / steps


def _obstacle(name: str, detail: str, circumstances: Circumstances) -> tuple[str, str]:
    """Return what the time was spent on, and what to do."""
    known = {
        "waiting for data": (name, _faster_data(circumstances.loader)),
        "transfer": ("moving data to the device", _faster_transfer(circumstances.loader)),
        "optimizer": ("in optimizer.step()", _faster_optimizer(circumstances)),
        "metrics": (f"on the metric {detail!r}", 'leave it to the validation with on="val", or take a cheaper one'),
        "validation": ("on validation", "validate less often, validation_freq=5, or on less, validation_steps=100"),
        "trace": ("on writing the trace", "look at the trace now, and at these shares without it"),
    }
    callback = name.removeprefix("callback ")
    return known.get(name) or (f"in {callback}.{detail}", _faster_callback(detail, name in circumstances.displays))


def _faster_data(loader: Any) -> str:
    if loader is None:
        return "they are in memory already, so it is the cutting; a larger batch_size makes fewer cuts"
    if not isinstance(loader, DataLoader):
        return "read them by a DataLoader with num_workers, or pass tensors if they fit into memory"
    workers, cpus = loader.num_workers, usable_cpus()
    if not workers:
        return f"raise num_workers from 0 (usable CPUs: {cpus}), or pass tensors if the data fit into memory"
    ways = [f"raise num_workers from {workers} (usable CPUs: {cpus})"] if workers < cpus else []
    ways += [] if loader.persistent_workers else ["set persistent_workers=True"]
    return ", ".join([*ways, "make the transforms cheaper"]).replace(", make", ", or make")


def _faster_transfer(loader: Any) -> str:
    if loader is None:
        return "if the data fit there, put them on the device before fit: x.to(device)"
    if isinstance(loader, DataLoader) and not loader.pin_memory:
        return "set pin_memory=True on the DataLoader"
    return "send less: images as uint8, numbers in half precision"


def _faster_optimizer(circumstances: Circumstances) -> str:
    optimizer = circumstances.optimizer
    name = type(optimizer).__name__
    if optimizer is None or not type(optimizer).__module__.startswith("torch.optim."):
        return f"take one of torch.optim in place of {name}, or a larger batch_size for fewer steps"
    fused = optimizer.defaults.get("fused", True)
    if not fused:
        return f"{name}(..., fused=True) does it in one operation"
    if optimizer.defaults.get("foreach", True) is False and circumstances.on_accelerator:
        return f"{name}(..., foreach=True) takes all parameters at once"
    if len(optimizer.param_groups) > 1:
        return f"make its {len(optimizer.param_groups)} groups of parameters fewer, or batch_size larger"
    return "a larger batch_size makes fewer steps"


def _faster_callback(hook: str, shows: bool) -> str:
    if shows:
        return "verbose=2 shows less"
    if "_batch" in hook:
        return "do less there, or only every 100th batch; reading a value of logs there waits for the device"
    return "do less there, or only every few epochs" if "_epoch" in hook else "do less there"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
