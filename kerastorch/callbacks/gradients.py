"""How large gradients and updates are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kerastorch import shards
from kerastorch.hooks import Callback, Logs

_LOW_PRECISION = (torch.float16, torch.bfloat16)


class GradientLogger(Callback):
    """Hands the norms of gradients to the loggers, to see where they vanish or explode.

    The names are `grad_norm/total` and `grad_norm/<parameter>`; with `ratios` also `update_ratio/total` and
    `update_ratio/<parameter>`, the norm of the change that the step makes divided by the norm of the parameter before.
    Some 1e-3 is usual; much less learns nothing, much more is unstable. The gradients are those that the optimizer is
    about to use. Parameters without gradient are left out, and so are ratios of parameters that are all zero.

    It works on the device, and waits for it once every `every` steps; the steps between cost nothing.

    Example:
        >>> callbacks = [kt.callbacks.TensorBoard("logs"), kt.callbacks.GradientLogger(every=100)]

    Args:
        every: Steps of the optimizer between two logs; they are counted from `compile` on.
        per_layer: Log each parameter; with False only the totals.
        ratios: Log the ratios too. A copy of the parameters is made for that, at the steps that are logged.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, every: int = 100, *, per_layer: bool = True, ratios: bool = False) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a number of steps, 1 or more; got {every!r}.")
        self.every = every
        self.per_layer = per_layer
        self.ratios = ratios
        self._idle = False
        self._saw_step = False
        self._first_step = 0
        self._gradients: dict[str, Tensor] = {}  # norms, on the device
        self._before: dict[str, tuple[Tensor, Tensor]] = {}  # parameters, and copies of them

    def __repr__(self) -> str:
        return f"GradientLogger(every={self.every}, per_layer={self.per_layer}, ratios={self.ratios})"

    def on_train_begin(self, logs: Logs) -> None:
        """Forget the last `fit`."""
        self._idle = self._saw_step = False
        self._first_step = self.run.state.step
        self._gradients, self._before = {}, {}

    @torch.no_grad()
    def on_optimizer_step_begin(self, step: int) -> None:
        """Take the norms of the gradients, if it is time."""
        self._saw_step = True
        if self._idle or (step + 1) % self.every:
            return
        if not self.run.writers:
            self._idle = True
            warnings.warn(
                "GradientLogger finds no logger to write with. Add one to the callbacks: kt.callbacks.TensorBoard().",
                stacklevel=2,
            )
            return
        named = {name: part for name, part in self.run.state.module.named_parameters() if part.grad is not None}
        self._gradients = _norms({name: part.grad for name, part in named.items() if part.grad is not None})
        if self.ratios:
            self._before = {name: (part, part.detach().clone()) for name, part in named.items()}

    @torch.no_grad()
    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Hand them on, with the ratios."""
        if not self._gradients:
            return
        gradients, self._gradients = self._gradients, {}
        before, self._before = self._before, {}
        sizes = _norms({name: copy for name, (_, copy) in before.items()})
        changes = _norms({name: part.detach() - copy for name, (part, copy) in before.items()})
        columns = _numbers([*gradients.values(), *sizes.values(), *changes.values()])  # the only sync
        count, values = len(gradients), {}
        for name, number in self._named(dict(zip(gradients, columns[:count], strict=True))).items():
            values[f"grad_norm/{name}"] = number
        size = self._named(dict(zip(sizes, columns[count : 2 * count], strict=False)))
        change = self._named(dict(zip(changes, columns[2 * count :], strict=False)))
        for name, number in change.items():
            if size[name]:
                values[f"update_ratio/{name}"] = number / size[name]
        self.run.log(values)

    def on_train_end(self, logs: Logs) -> None:
        """Say so, if there was nothing to see."""
        if not self._saw_step and self.run.state.step > self._first_step:
            warnings.warn(
                "GradientLogger saw no gradients: the train_step of this model does not call the ordinary one, which "
                "tells callbacks before the optimizer's step.",
                stacklevel=2,
            )

    def _named(self, norms: Mapping[str, float]) -> dict[str, float]:
        if not norms:
            return {}
        return {"total": math.hypot(*norms.values()), **(norms if self.per_layer else {})}


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not tensors:
        return {}
    return dict(zip(tensors, shards.norms([_plain(tensor) for tensor in tensors.values()]), strict=True))


def _plain(tensor: Tensor) -> Tensor:
    if tensor.is_sparse:  # of an embedding: rows that are named twice count together
        tensor = tensor.coalesce().values()
    return tensor.float() if tensor.dtype in _LOW_PRECISION else tensor  # squares would overflow


def _numbers(norms: Sequence[Tensor]) -> list[float]:
    device = norms[0].device
    return torch.stack([norm.to(device, torch.float32) for norm in norms]).tolist()
