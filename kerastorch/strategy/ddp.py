"""Several processes, each with the whole net: `torch.nn.parallel.DistributedDataParallel`.

DDP makes of the gradients of all processes their mean, while backward is still going on. That is the gradient of the
whole batch only if all processes count alike, which an uneven last batch does not, nor one with ignored labels. So each
loss is multiplied by what its batch counts, and the gradients are divided by the mean of these shares. The mean comes
at no cost: shares are the gradient of one more parameter, the tally, and travel with the others. So does the wish of a
process to end the training, which all have to hear at the same step.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from kerastorch.errors import DistributedError
from kerastorch.strategy.base import Strategy
from kerastorch.strategy.batch_norm import synchronised
from kerastorch.strategy.group import Group
from kerastorch.strategy.options import DDP
from kerastorch.strategy.tally import Tally


class Ddp(Strategy):
    """Processes that each have the whole net, and a part of every batch.

    Args:
        options: What DDP is told.
        group: The processes.
        precision: As for `Strategy`.
        channels_last: As for `Strategy`.
    """

    def __init__(self, options: DDP, group: Group, precision: Any = "32-true", *, channels_last: bool = False) -> None:
        super().__init__(precision, channels_last=channels_last, group=group)
        self.options = options
        self._parallel: DistributedDataParallel | None = None
        self._built_for: list[Any] = []
        self._aligned: int | None = None
        self._counts = Tally(group)
        # A search for unused parameters begins at the outputs, which know of no tally; and bfloat16 cannot count
        self._has_tally = not options.find_unused_parameters and options.compression is None

    def __getstate__(self) -> dict[str, Any]:
        blank: dict[str, Any] = {"_parallel": None, "_built_for": [], "_aligned": None, "_counts": Tally(self.group)}
        return {**super().__getstate__(), **blank}

    def net(self, module: nn.Module) -> nn.Module:
        """Return the net with DDP around it; it is built anew where other parameters are to be trained than before."""
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trained:
            return module  # its own error says more
        if any(map(is_lazy, trained)):
            raise DistributedError(
                "The net has layers whose shapes are not known before its first batch, and several processes must have "
                "the same. First show it one: model.predict_on_batch(x)."
            )
        built_for = [id(module), *((id(parameter), parameter.device) for parameter in trained)]
        if self._parallel is None or built_for != self._built_for:
            self._parallel, self._built_for = self._built(module, trained[0]), built_for
        return self._parallel

    def _built(self, module: nn.Module, first: Tensor) -> DistributedDataParallel:
        options = self.options
        parallel = DistributedDataParallel(
            Tallied(module, first) if self._has_tally else module,
            find_unused_parameters=options.find_unused_parameters,
            static_graph=options.static_graph,
            gradient_as_bucket_view=options.gradient_as_bucket_view,
            **_buffers(options.broadcast_buffers),
            bucket_cap_mb=options.bucket_cap_mb,
        )
        if options.compression == "bf16":
            parallel.register_comm_hook(None, bf16_compress_hook)
        return parallel

    def begin(self, module: nn.Module, device: torch.device) -> None:
        """Get ready; processes that have drawn other weights each get those of the main one."""
        super().begin(module, device)
        if self._aligned != id(module):
            held = itertools.chain(module.parameters(), module.buffers())
            self.group.align(tensor for tensor in held if not is_lazy(tensor))
            self._aligned = id(module)

    @contextmanager
    def around(self, module: nn.Module, counts: Callable[[], bool]) -> Iterator[None]:
        """Begin with the same weights everywhere; let go of the buffers for gradients in the end."""
        self._aligned, self._counts = None, Tally(self.group)
        self.synchronises = self.options.sync_batch_norm
        try:
            with synchronised(module, self.group, counts) if self.synchronises else nullcontext():
                yield
        finally:
            self.synchronises = False
            self._parallel, self._built_for = None, []

    def settle(self, module: nn.Module) -> None:
        """Give all processes the statistics of the main one: they evaluate the same net."""
        self.group.align(module.buffers())

    def synchronise(self, *, last: bool) -> None:
        """Send gradients on their way in the backward of this batch, or only add them up."""
        if self._parallel is not None:
            self._parallel.require_backward_grad_sync = last  # what its no_sync() does, where backward is known here

    def backward(self, loss: Tensor, share: float | Tensor | None = None) -> None:
        """Compute the gradients of a loss, or add to them; those of the step's last batch come as a mean."""
        if share is None:
            loss = loss * self.group.size  # of a mean over processes, back to the sum
        tally = self._tally
        if tally is None:
            super().backward(loss)
            return
        torch.autograd.backward((self.scaled(loss), tally), (None, self._counts.own(share, tally)))

    def whole(self, total: float | Tensor | None) -> float | Tensor | None:
        """Return the mean over the processes of what this window counts; hear what they wish."""
        tally = self._tally
        if tally is not None and tally.grad is not None:
            means, tally.grad = tally.grad, None
        else:
            device = torch.device("cpu") if self._parallel is None else next(self._parallel.parameters()).device
            means = self._counts.asked(total, device)
        return self._counts.read(means, total)

    @property
    def _tally(self) -> nn.Parameter | None:
        module = None if self._parallel is None else self._parallel.module
        return module.tally if isinstance(module, Tallied) else None


def _buffers(broadcast: bool) -> dict[str, Any]:
    if broadcast:
        return {}
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if newer else "broadcast_buffers": False}


class Tallied(nn.Module):
    """A net with one more parameter, whose gradient is what this process has to tell the others.

    Args:
        net: The net.
        like: One of its parameters.

    Attributes:
        tally: What the batch counts, and whether this process wishes to end.
    """

    def __init__(self, net: nn.Module, like: Tensor) -> None:
        super().__init__()
        self.net = net
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        self.tally = nn.Parameter(torch.zeros(2, dtype=dtype, device=like.device))  # the last: its bucket leaves first

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the net."""
        return self.net(*inputs, **named)
