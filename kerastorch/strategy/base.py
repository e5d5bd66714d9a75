"""What the loop and the step ask of the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kerastorch import layout
from kerastorch.strategy.group import Group

if TYPE_CHECKING:
    from kerastorch.precision import Casting
    from kerastorch.updates import Updates

_PLAIN = nullcontext()


class Strategy:
    """The verbs that differ between one device and many; here for one. It knows no epochs and no logs.

    Attributes:
        group: The processes that train together.
        synchronises: Whether BatchNorm waits for other processes, in a net that is trained.
        places: Whether `wrap` puts the net where it belongs.
        evaluates_together: Whether a forward waits for those of the others, also in evaluation.

    Args:
        precision: What is computed in, see `Casting`.
        channels_last: Whether images lie pixel by pixel in memory.
        group: The processes that train together; this one alone by default.

    Raises:
        ValueError: The precision is unknown.
    """

    evaluates_together: bool = False
    places: bool = False
    synchronises: bool = False

    def __init__(self, precision: Any = "32-true", *, channels_last: bool = False, group: Group | None = None) -> None:
        self.group = group or Group()
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

    @property
    def is_main(self) -> bool:
        """Whether this is the process that shows and logs."""
        return self.group.is_main

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module to train; its parameters may be others than before, so optimizers are built afterwards."""
        return module

    def held(self) -> AbstractContextManager[Any]:
        """Return the context in which a net is evaluated, and its loss: parameters are what they are in training."""
        return _PLAIN

    def net(self, module: nn.Module) -> nn.Module:
        """Return what is called in its place in training; asked for at the first batch of an epoch."""
        return module

    def around(self, module: nn.Module, counts: Callable[[], bool]) -> AbstractContextManager[Any]:
        """Return the context in which a net is trained.

        Args:
            module: The net.
            counts: Whether the batch that is worked on counts, or only keeps step.
        """
        return _PLAIN

    def synchronise(self, *, last: bool) -> None:
        """Get ready for a batch, the last one whose gradients make the step, or not."""

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

    def backward(self, loss: Tensor, share: float | Tensor | None = None) -> None:
        """Compute the gradients of a loss, or add to them.

        Args:
            loss: That of a batch, multiplied by its share.
            share: How much the batch counts; None where gradients are not divided by it, but added up.
        """
        self.scaled(loss).backward()  # type: ignore[no-untyped-call]

    def scaled(self, loss: Tensor) -> Tensor:
        """Return a loss by the size that half precision needs."""
        return loss if self._casting is None else self._casting.scaled(loss)

    def whole(self, total: float | Tensor | None) -> float | Tensor | None:
        """Return what gradients are to be divided by, given the shares of this process; None for nothing."""
        return total

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

    def parts(self) -> dict[str, Any]:
        """Return what has a state of its own, by name: the scaler, where there is one."""
        casting = self._casting
        return {} if casting is None or casting.precision != "16-mixed" else {"precision": casting}

    def settle(self, module: nn.Module) -> None:
        """Let all processes have the same buffers, behind the batches of an epoch."""
