"""Metrics of torchmetrics."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kerastorch.errors import MismatchError
from kerastorch.metrics.base import Gather, Metric, On, Sum, Value, as_value
from kerastorch.tree import map_leaves


class TorchMetric(Metric):
    """A metric object of torchmetrics, or one with the same `update`, `compute` and `reset`.

    One that keeps lists, or is a collection of several, is not shown while an epoch runs. Sample weights do not reach
    it.

    Args:
        metric: The object. It is moved to the device of the outputs.
        name: What to call it in messages.
        on: What it is measured on: `"train"`, `"val"` or `"both"`.
    """

    def __init__(self, metric: Any, name: str, *, on: On = "both") -> None:
        super().__init__(on=on)
        self.metric = metric
        self.name = name
        self.measured = False
        self.running = not (_is_collection(metric) or _keeps_lists(metric))

    def measure(self, output: Any, target: Any, weight: Tensor | None, size: int) -> tuple[Sum, ...]:
        """Update the object, which keeps its own sums."""
        if not self.measured and isinstance(self.metric, nn.Module) and isinstance(output, Tensor):
            self.metric.to(output.device)
        self.metric.update(output, target)
        self.measured = True
        return ()

    def value(self, sums: Sequence[Any]) -> Value:
        """Compute; NaN before the first batch.

        Raises:
            MismatchError: What it computes is neither a number, nor a tensor, nor several of them by name.
        """
        return self._named(_computed(self.metric, None, self.name)) if self.measured else float("nan")

    def value_of_all(self, sums: Sequence[Any], gather: Gather) -> Value:
        """Compute of what the objects of all processes have summed up.

        Raises:
            MismatchError: It is no metric of torchmetrics, which alone can be put together.
        """
        return self._named(_computed(self.metric, gather, self.name))

    def _named(self, value: Any) -> Value:
        return as_value(value, f"The metric {self.name!r}")

    def __call__(self, output: Any, target: Any) -> Value:
        """Return the value for one batch, beside what the object has summed up."""
        fresh = self.twin()
        fresh.reset()
        fresh.measure(output, target, None, 0)
        return fresh.value(())

    def twin(self) -> TorchMetric:
        """Return a copy with a copy of the object."""
        return TorchMetric(copy.deepcopy(self.metric), self.name, on=self.on)

    def reset(self) -> None:
        """Forget the epoch."""
        self.metric.reset()
        self.measured = False

    def state_dict(self) -> dict[str, Any]:
        """Return what the object has summed up in this epoch."""
        return {"parts": [_sums_of(part) for part in _parts(self.metric)]} if self.measured else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give it to the object, on whose device it goes."""
        for part, sums in zip(_parts(self.metric), state["parts"], strict=True):
            vars(part).update(map_leaves(functools.partial(_placed, part), sums))
        self.measured = True


def _parts(metric: Any) -> list[Any]:
    """Return all that holds sums: of a collection, a wrapper or a composition of metrics several."""
    return list(metric.modules()) if isinstance(metric, nn.Module) else [metric]


def _sums_of(part: Any) -> dict[str, Any]:
    names = getattr(part, "_defaults", None)
    if isinstance(part, nn.Module) and any(getattr(inner, "_defaults", None) is names for inner in part.children()):
        return {}  # it speaks for the metric inside, which is a part of its own
    if names is None:  # of another library, or of the user's own: what it holds in plain attributes
        return {} if isinstance(part, nn.Module) else dict(vars(part))
    return {name: getattr(part, name) for name in (*names, "_update_count") if hasattr(part, name)}


def _placed(part: Any, leaf: Any) -> Any:
    return leaf.to(getattr(part, "device", leaf.device), copy=True) if isinstance(leaf, Tensor) else leaf


def _is_collection(metric: Any) -> bool:
    return isinstance(metric, nn.ModuleDict)


def _keeps_lists(metric: Any) -> bool:
    parts = metric.modules() if isinstance(metric, nn.Module) else [metric]
    return any(isinstance(state, list) for part in parts for state in getattr(part, "_defaults", {}).values())


def _computed(metric: Any, gather: Gather | None, name: str) -> Any:
    if hasattr(metric, "sync_context"):
        # Not metric.compute(): that remembers the value of one process, and asks the others even if they do not listen
        together = gather is not None
        with metric.sync_context(_gathers(gather), should_sync=together, distributed_available=lambda: together):
            return type(metric).compute(metric)
    if gather is None:
        return metric.compute()
    if not _is_collection(metric):
        raise MismatchError(
            f"The metric {name!r} is of a kind, {type(metric).__name__}, that cannot be put together over processes. "
            "Subclass kerastorch.metrics.Metric, or torchmetrics.Metric."
        )
    values: dict[str, Any] = {}
    for key, part in metric.items():
        value = _computed(part, gather, key)
        values |= value if isinstance(value, dict) else {key: value}
    return values


def _gathers(gather: Gather | None) -> Any:
    if gather is None:
        return None

    def gathered(tensor: Tensor, group: Any = None) -> list[Tensor]:
        parts = gather(tensor)
        # A process without a batch has an empty list, of the wrong dtype
        return [part for part in parts if part.numel()] or parts

    return gathered
