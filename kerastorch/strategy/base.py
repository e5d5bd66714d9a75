"""What the loop and the step ask of the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch import layout

if TYPE_CHECKING:
    from kerastorch.precision import Casting
    from kerastorch.updates import Updates

_PLAIN = nullcontext()


class Strategy:
    """The verbs that differ between one device and many; here for one. It knows no epochs and no logs.

    Attributes:
        is_main: Whether this is the process that shows and logs.
        gather: Returns the tensors `(N_i, ...)` of all processes, in the order of their ranks; None for one process.

    Args:
        precision: What is computed in, see `Casting`.
        channels_last: Whether images lie pixel by pixel in memory.

    Raises:
        ValueError: The precision is unknown.
    """

    is_main: bool = True
    gather: Callable[[Tensor], list[Tensor]] | None = None

    def __init__(self, precision: Any = "32-true", *, channels_last: bool = False) -> None:
        self._casting: Casting | None = None
        if precision != "32-true":
            from kerastorch.precision import Casting  # which most do without

            self._casting = Casting(precision)
        self._channels_last = channels_last
        self._updates: Updates | None = None
        self._aligned: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            **vars(self),
            "_updates": None,
            "_aligned": None,
        }  # they belong to the optimizer, and a copy has its own

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module to call instead; its parameters may be others, so optimizers are built afterwards."""
        return module

    def begin(self, module: nn.Module, device: torch.device) -> None:
        """Get net and device ready for the precision and the layout in memory; the net is on the device.

        Raises:
            ValueError: The device cannot compute in this precision, or the net has no such layout.
        """
        if self._casting is not None:
            self._casting.begin(device)
            self._casting.convert(module)
        if self._channels_last:
            layout.channels_last(module)

    def autocast(self, *, fresh: bool = False) -> AbstractContextManager[Any]:
        """Return the context for the net and its loss; a `fresh` one for a compiler that looks into it."""
        if self._casting is None:
            return nullcontext() if fresh else _PLAIN
        return self._casting.fresh() if fresh else self._casting.autocast()

    def inputs(self, x: Any) -> Any:
        """Return inputs as the net takes them."""
        return x if self._casting is None else self._casting.inputs(x)

    def outputs(self, output: Any) -> Any:
        """Return outputs in float32 where half of it was computed with, and laid out as usual."""
        output = output if self._casting is None else self._casting.outputs(output)
        return layout.contiguous(output) if self._channels_last else output

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss of this process's share of a batch."""
        if self._casting is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._casting.backward(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring gradients that wait for the optimizer to their own size."""
        if self._casting is not None:
            self._casting.unscale(optimizer)

    def clip(self, gradients: list[Tensor], norm: float | None, value: float | None) -> None:
        """Limit gradients: first the norm of all together, then each number."""
        from kerastorch import updates  # here and not above, so that `import kerastorch` is quick

        if norm is not None:
            updates.clip_norm(gradients, norm)
        if value is not None:
            updates.clip_value(gradients, value)

    def step(self, optimizer: Optimizer) -> str | None:
        """Update the parameters; return None, or why this step was skipped."""
        if self._updates is None or self._updates.optimizer is not optimizer:
            from kerastorch.updates import Updates

            self._updates = Updates(optimizer)
        if optimizer.state is not self._aligned:  # it is another after a checkpoint was loaded
            layout.align(optimizer)
            self._aligned = optimizer.state
        if self._casting is None:
            self._updates.step()
        elif not self._casting.step(optimizer, self._updates.step):
            return self._casting.note()
        return None

    def total(self, sums: list[float]) -> list[float]:
        """Add up sums over all processes."""
        return sums

    def parts(self) -> dict[str, Any]:
        """Return what has a state of its own, by name: the scaler, where there is one."""
        casting = self._casting
        return {} if casting is None or casting.precision != "16-mixed" else {"precision": casting}
