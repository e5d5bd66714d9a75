"""BatchNorm over all processes: the statistics of the whole batch, on any device.

What torch has for it, `nn.SyncBatchNorm`, works on accelerators only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from kerastorch.strategy.group import Group

_HALVES = (torch.float16, torch.bfloat16)


@contextmanager
def synchronised(module: nn.Module, group: Group, counts: Callable[[], bool] | None = None) -> Iterator[None]:
    """Let every BatchNorm in training mode take its statistics over the samples of all processes.

    Outputs, gradients and running statistics are those of one process that has all the samples. Layers in evaluation
    mode, such as frozen ones, do what they always do. A layer sends one message in forward and one in backward, so
    every process must call the same layers in the same order. Names and the state_dict stay as they are.

    Args:
        module: The net.
        group: The processes; with one alone nothing is done.
        counts: Tells whether the samples of this process are to count in the present step. Without it all do, also
            those of a batch that is there only for the sake of the others.
    """
    parts = [part for part in module.modules() if isinstance(part, _BatchNorm)] if group.size > 1 else []
    before = [(part, vars(part).get("forward")) for part in parts]
    try:
        for part, _ in before:
            vars(part)["forward"] = Synchronised(part, part.forward, counts)
        yield
    finally:
        for part, own in before:
            if own is not None:
                vars(part)["forward"] = own
            elif isinstance(vars(part).get("forward"), Synchronised):
                del vars(part)["forward"]


class Synchronised:
    """The `forward` of a BatchNorm, over all processes. It takes the place of the method, in the module itself.

    A copy or a pickle of the layer has its plain `forward`.

    Args:
        module: The layer.
        forward: What it does in evaluation mode.
        counts: Tells whether the samples of this process count.
    """

    def __init__(
        self, module: _BatchNorm, forward: Callable[..., Any], counts: Callable[[], bool] | None = None
    ) -> None:
        self.module = module
        self.__wrapped__ = forward  # `inspect.signature` looks here
        self._counts = counts

    def __reduce__(self) -> Any:
        return _itself, (self.__wrapped__,)

    def __call__(self, input: Tensor) -> Tensor:
        """Return inputs `(N, C, ...)` normalized by channel."""
        part = self.module
        if not part.training:
            return self.__wrapped__(input)  # type: ignore[no-any-return]
        part._check_input_dim(input)  # type: ignore[no-untyped-call]
        does_count = self._counts is None or self._counts()
        output, mean, variance, count = _Normalize.apply(input, part.weight, part.bias, (part.eps, does_count))
        _update(part, mean, variance, count)
        return output  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    """Normalize by the mean and the variance over all processes; return these and the number of samples as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, options: tuple[float, bool]) -> tuple[Tensor, ...]:
        eps, counts = options
        numbers = x.float() if x.dtype in _HALVES else x
        mean, variance, count = _moments(numbers, counts)
        inverse = torch.rsqrt(variance + eps)
        normal = (numbers - _beside(mean, x)) * _beside(inverse, x)
        output = normal if weight is None else normal * _beside(weight.to(normal.dtype), x)
        output = output if bias is None else output + _beside(bias.to(normal.dtype), x)
        ctx.save_for_backward(x, weight, bias, mean, inverse, count)
        ctx.counts = counts
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_rest: Any) -> tuple[Any, ...]:
        x, weight, bias, mean, inverse, count = ctx.saved_tensors
        gradient = gradient.to(mean.dtype)
        normal = (x.to(mean.dtype) - _beside(mean, x)) * _beside(inverse, x)
        sums = torch.stack([_over_samples(gradient), _over_samples(gradient * normal)])
        of_bias, of_weight = sums.clone()  # of this process: those of parameters are added up with all others
        dist.all_reduce(sums)  # mean and variance are of all samples, so the losses of all processes depend on them
        of_x = gradient
        if ctx.counts:
            by_mean, by_variance = sums / count
            of_x = gradient - _beside(by_mean, x) - normal * _beside(by_variance, x)
        of_x = of_x * _beside(inverse if weight is None else inverse * weight.to(inverse.dtype), x)
        return (
            of_x.to(x.dtype),
            None if weight is None else of_weight.to(weight.dtype),
            None if bias is None else of_bias.to(bias.dtype),
            None,
        )


def _moments(numbers: Tensor, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel `(C,)` over all processes, and how many numbers that is of `()`.

    Means and squared differences from them are put together as in Chan, Golub and LeVeque, "Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances" (1979): the difference of sums of squares would lose digits.
    """
    amount = numbers.numel() // numbers.shape[1] if counts else 0
    mean = _over_samples(numbers) / max(amount, 1) if amount else numbers.new_zeros(numbers.shape[1])
    squares = _over_samples((numbers - _beside(mean, numbers)).square()) if amount else torch.zeros_like(mean)
    own = torch.cat([mean.new_full((1,), amount), mean, squares])
    everyones = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, own)
    rows = torch.stack(everyones)
    amounts, (means, differences) = rows[:, :1], rows[:, 1:].chunk(2, 1)
    count = amounts.sum()
    mean = (amounts * means).sum(0) / count
    variance = (differences + amounts * (means - mean).square()).sum(0) / count
    return mean, variance, count


@torch.no_grad()
def _update(part: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Let the running statistics follow, as BatchNorm does in one process."""
    if part.running_mean is None or part.running_var is None or part.num_batches_tracked is None:
        return
    part.num_batches_tracked.add_(1)
    counted = part.num_batches_tracked.to(mean.dtype)
    share: Any = counted.reciprocal() if part.momentum is None else part.momentum
    unbiased = variance * (count / (count - 1).clamp(min=1))
    part.running_mean += share * (mean - part.running_mean)
    part.running_var += share * (unbiased - part.running_var)


def _over_samples(numbers: Tensor) -> Tensor:
    return numbers.sum([dim for dim in range(numbers.ndim) if dim != 1])


def _beside(by_channel: Tensor, numbers: Tensor) -> Tensor:
    """Return `(C,)` in a shape that goes with `(N, C, ...)`."""
    return by_channel.view(1, -1, *[1] * (numbers.ndim - 2))


def _itself(forward: Callable[..., Any]) -> Callable[..., Any]:
    return forward
