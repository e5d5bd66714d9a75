"""Parameters shared out over processes: torch's `fully_shard`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from kerastorch import recompute, shards
from kerastorch.errors import MismatchError
from kerastorch.strategy.base import Strategy
from kerastorch.strategy.batch_norm import synchronised
from kerastorch.strategy.group import Group
from kerastorch.strategy.materialise import materialise
from kerastorch.strategy.options import FSDP, wanted
from kerastorch.strategy.tally import Tally


class Fsdp(Strategy):
    """A part of every parameter in each process.

    Args:
        options: How.
        group: The processes. With one alone this is the ordinary strategy, so the same script runs there too.
        device: Where this process computes.
        precision: What is computed in, see `Casting`. In `"bf16-mixed"` parameters are put together in bfloat16.
        channels_last: Not to be had together.

    Raises:
        ValueError: The options, the precision or the layout do not go together.
    """

    evaluates_together = True  # a forward puts parameters together, for which it needs every process
    places = True  # parameters that are offloaded stay on the CPU

    def __init__(
        self,
        options: FSDP,
        group: Group,
        device: torch.device,
        precision: Any = "32-true",
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__(precision, channels_last=channels_last, group=group)
        _refuse(options, device, precision, channels_last)
        if self.group.size > 1 and device.type == "cpu" and torch.__version__.startswith("2.6."):
            raise ValueError(
                f"FSDP of torch {torch.__version__} needs an accelerator. Type pip install -U torch, or strategy='ddp'."
            )
        self._options = options
        self._precision = precision
        self._device = device
        self._module: nn.Module | None = None
        self._parts: list[FSDPModule] = []
        self._mesh: DeviceMesh | None = None
        self._reduces = True
        self._counts = Tally(group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_module": None, "_parts": [], "_mesh": None, "_counts": Tally(self.group)}

    def wrap(self, module: nn.Module) -> nn.Module:
        """Share out the parameters of a net in place, once; all processes begin with those of the main one.

        Raises:
            MismatchError: Its parameters cannot be shared out.
            ValueError: A pattern matches nothing.
        """
        if module is not self._module:
            self._shard(module)
            self._module, self._parts, self._reduces = module, _sharded(module), True
        return module

    @contextmanager
    def around(self, module: nn.Module, counts: Callable[[], bool]) -> Iterator[None]:
        """Leave the net so that its parameters can be read."""
        self._counts = Tally(self.group)
        self.synchronises = self._options.sync_batch_norm
        try:
            with synchronised(module, self.group, counts) if self.synchronises else nullcontext():
                yield
        finally:
            self.synchronises = False
            self._reshard()

    def settle(self, module: nn.Module) -> None:
        """Give all processes the statistics of the main one, and back the parameters that are put together."""
        self._reshard()
        self.group.align(module.buffers())

    def synchronise(self, *, last: bool) -> None:
        """Say whether the gradients of the next backward are added up over processes, or wait here."""
        if last != self._reduces:
            for part in self._parts:
                part.set_requires_gradient_sync(last, recurse=False)
            self._reduces = last

    def backward(self, loss: Tensor, share: float | Tensor | None = None) -> None:
        """Compute the gradients of a loss, or add to them; those of the step's last batch come as a mean."""
        if shards.is_shard(loss):
            raise MismatchError(
                "The loss is made of parameters that FSDP has shared out, so no process has all of it. Compute with "
                "outputs of the net only, or type strategy='ddp'."
            )
        super().backward(loss * self.group.size if share is None else loss)  # of a mean, back to the sum

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep parameters together until the loss is there, which may be made of them as well."""
        resharding = [hook for hook in self._hooks() if isinstance(hook, _Resharding)]
        for hook in resharding:
            hook.waits = True
        try:
            yield
        finally:
            for hook in resharding:
                hook.waits = False
            self._reshard()

    def _hooks(self) -> Iterable[Any]:
        return () if self._module is None else self._module._forward_hooks.values()

    def whole(self, total: float | Tensor | None) -> float | Tensor | None:
        """Return the mean over the processes of what this window counts; hear what they wish."""
        return total if self.group.size == 1 else self._counts.read(self._counts.asked(total, self._device), total)

    def step(self, optimizer: Optimizer) -> str | None:
        """Update the parts that this process holds."""
        self._reshard()  # after a batch that was left out, parameters are together: they would stay as they are now
        return super().step(optimizer)

    def _reshard(self) -> None:
        _reshard(self._parts)

    def _shard(self, module: nn.Module) -> None:
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            raise MismatchError(
                "FSDP needs to know the shapes of all layers, and some are lazy. Call the net once, model(x), before "
                "it is trained."
            )
        dtype = torch.bfloat16 if self._precision == "bf16-true" else None
        if self.group.size == 1:
            materialise(module, self._device, dtype, self.group)
            return
        units = [*self._units(module), (module, self._policies(is_root=True))]
        _see_that_none_is_shared(module, [part for part, _ in units])
        for part, options in units:
            materialise(part, self._device, dtype, self.group)  # one part at a time, for nets larger than a device
            if not isinstance(part, FSDPModule):
                fully_shard(part, **options)
        if not any(isinstance(hook, _Resharding) for hook in module._forward_hooks.values()):
            module.register_forward_hook(_Resharding(module))

    def _units(self, module: nn.Module) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
        """Yield what is put together by itself, inner parts first."""
        if self._precision == "bf16-mixed":  # their statistics are in float32, and torch wants their weights alike
            for part in module.modules():
                if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
                    yield part, self._policies(is_root=False) | {"mp_policy": self._policy(None)}
        choices = wanted(self._options.wrap)
        names = [choice for choice in choices if isinstance(choice, str)]
        kinds = tuple(choice for choice in choices if isinstance(choice, type))
        chosen = recompute.units(module, names, "wrap") if names else []
        classes = [part for part in module.modules() if isinstance(part, kinds)] if kinds else []
        if kinds and not classes:
            raise ValueError(
                f"wrap={self._options.wrap!r} matches no module of the net. Type a class that print(net) shows, or "
                "names of its modules, such as wrap='blocks.*'."
            )
        wrapped = {id(part) for part in (*chosen, *classes)} - {id(module)}
        for part in reversed(list(module.modules())):
            if id(part) in wrapped:
                yield part, self._policies(is_root=False)

    def _policies(self, *, is_root: bool) -> dict[str, Any]:
        if self._mesh is None:
            self._mesh = init_device_mesh(self._device.type, (self.group.size,), mesh_dim_names=("data",))
        param = torch.bfloat16 if self._precision == "bf16-mixed" else None
        # What is left for the root is used last in forward and first in backward, so torch keeps it if nothing is said
        given = {} if is_root else {"reshard_after_forward": self._options.reshard_after_forward}
        return given | {
            "mesh": self._mesh,
            "mp_policy": self._policy(param),
            "offload_policy": CPUOffloadPolicy() if self._options.offload else OffloadPolicy(),
        }

    def _policy(self, dtype: torch.dtype | None) -> MixedPrecisionPolicy:
        reduce = self._options.reduce_dtype or (torch.float32 if dtype is not None else None)
        return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce, cast_forward_inputs=dtype is not None)


class _Resharding:
    """A hook on the net: without gradients no backward follows that would give the parameters back.

    What is together after a forward would be taken as it is by the next one, although averages or loaded weights may
    have been put into the parts meanwhile.
    """

    def __init__(self, module: nn.Module) -> None:
        self.waits = False
        self._parts = _sharded(module)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.is_grad_enabled() and not self.waits:
            _reshard(self._parts)


def _reshard(parts: list[FSDPModule]) -> None:
    for part in parts:
        part.reshard()


def _sharded(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _see_that_none_is_shared(module: nn.Module, units: list[nn.Module]) -> None:
    """See that parameters with several names are put together at one time; torch would cut the tie without a word."""
    home: dict[str, int] = {}
    known = {id(part) for part in units}
    for name, part in module.named_modules(remove_duplicate=False):
        home[name] = id(part) if id(part) in known else home[name.rpartition(".")[0]]
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if home[name.rpartition(".")[0]] != home[other.rpartition(".")[0]]:
            raise MismatchError(
                f"{other!r} and {name!r} are one parameter, but FSDP would put them together at different times, and "
                "they would no longer be one. Give wrap= parts that hold both or neither."
            )


def _refuse(options: FSDP, device: torch.device, precision: Any, channels_last: bool) -> None:
    if precision == "16-mixed":
        raise ValueError(
            "FSDP has no precision='16-mixed': whether gradients overflow is known to no process alone. Type "
            "precision='bf16-mixed', whose gradients do not."
        )
    if channels_last:
        raise ValueError("FSDP lays weights out by itself, so channels_last=True has no effect. Leave it out.")
    if options.offload and device.type == "cpu":
        raise ValueError("FSDP(offload=True) keeps parameters on the CPU, where they are already. Leave it out.")
