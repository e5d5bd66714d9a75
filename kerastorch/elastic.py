"""What each process has of its own in a checkpoint, and who takes it up where there are more or fewer of them."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kerastorch import randomness
from kerastorch.checkpoint.plain import plain
from kerastorch.strategy.group import Group


def of_all(group: Group, own: Mapping[str, Any], name: str) -> Any:
    """Return what one process alone keeps as it is; of several a list of what each has, on the CPU."""
    if group.size == 1:
        return own
    file = io.BytesIO()  # pickle cannot read the words of NumPy's generator again
    torch.save(plain(own, name, copied=lambda tensor: tensor.detach().cpu()), file)
    return [torch.load(io.BytesIO(each), weights_only=True) for each in group.everyone(file.getvalue())]


def restore_random(kept: Any, group: Group) -> None:
    """Put back the random numbers of each process; where their number is another, those of the main one.

    The others draw numbers of their own then, which follow from those of the main one.
    """
    states = kept if isinstance(kept, list) else [kept]
    if len(states) == group.size:
        randomness.restore(states[group.rank])
        return
    randomness.restore(states[0])
    if group.rank:
        randomness.reseed(zlib.crc32(states[0]["torch"].numpy().tobytes()), group.rank)


def sums_of(kept: Any, group: Group, source: str) -> Any:
    """Return the sums that this process goes on with: its own, or where their number is another those of all in one."""
    states = kept if isinstance(kept, list) else [kept]
    if len(states) == group.size:
        return states[group.rank]
    return _added(states, source) if group.is_main else {}


def _added(states: Sequence[Mapping[str, Any]], source: str) -> dict[str, Any]:
    if len(states) == 1:
        return dict(states[0])
    lost = sorted({name for state in states for name in state["metrics"]})
    if lost:
        warnings.warn(
            f"{source} is of {len(states)} processes. The metrics {', '.join(lost)} keep sums of their own, which "
            "cannot be added up: they begin anew in the middle of this epoch.",
            stacklevel=2,
        )
    sums: dict[str, list[Any]] = {}
    for state in states:
        for name, parts in state["sums"].items():
            sums[name] = [_sum(*both) for both in zip(sums[name], parts, strict=True)] if name in sums else parts
    return {
        "samples": sum(state["samples"] for state in states),
        "sums": {name: parts for name, parts in sums.items() if name not in lost},
        "recorded": sorted({name for state in states for name in state["recorded"]}),
        "metrics": {},
    }


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping):  # rows
        return {"rows": torch.cat([one["rows"], other["rows"]])}
    return other + one if isinstance(other, Tensor) else one + other
