"""One forward, watched from outside: which module was called, what it returned, what that cost."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import UninitializedBuffer, is_lazy

from kerastorch.errors import add_note
from kerastorch.isolate import evaluation
from kerastorch.summary.inputs import Inputs, tensors_in
from kerastorch.summary.layers import Layer, Parameters, attribute_parameters, kind_of


@dataclass(frozen=True)
class Trace:
    """The layers of a net as one forward called them.

    Attributes:
        root: The call of the net, the calls inside as its children.
        parameters: All parameters of the net, each once.
        input_bytes: The size of one sample, all inputs together.
    """

    root: Layer
    parameters: Parameters
    input_bytes: float


def trace(net: nn.Module, inputs: Inputs, *, measure: bool = False) -> Trace:
    """Call the net once and leave no trace in it.

    Args:
        net: Any module; with lazy modules, a copy of it is called.
        inputs: The arguments of the call.
        measure: Count multiply-adds too, which costs a few microseconds for each operation.
    """
    kinds = {name: kind_of(module) for name, module in net.named_modules()}  # LazyLinear becomes Linear
    if any(map(is_lazy, chain(net.parameters(), net.buffers()))):
        net = _copy_of_lazy(net)
    names = _names(net)
    root = Layer("", kinds[""], net)
    with evaluation(net), _contents_kept(net), _every_module_runs(), _flops(measure) as flops:
        watch = _Watch(net, names, kinds, lambda: flops() / 2 / inputs.samples, inputs.samples, [(root, 0.0)])
        with watch.hooked():
            watch.close(net, net(*inputs.args, **inputs.kwargs))
        attribute_parameters(root, names, kinds)
        return Trace(root, list(net.parameters()), inputs.sample_bytes)


def _names(net: nn.Module) -> dict[int, str]:
    # A parametrization is a detail of the layer whose weight it makes
    return {id(module): name for name, module in net.named_modules() if "parametrizations" not in name.split(".")}


@dataclass(frozen=True)
class _Watch:
    net: nn.Module
    names: dict[int, str]
    kinds: dict[str, str]
    multiply_adds: Callable[[], float]
    samples: int
    open_calls: list[tuple[Layer, float]]  # with the multiply-adds counted before the call

    @contextmanager
    def hooked(self) -> Iterator[None]:
        # Hooks for all modules of the process, so that the net itself gets none
        handles = [register_module_forward_pre_hook(self.begin), register_module_forward_hook(self.end)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, module: nn.Module, _arguments: Any) -> None:
        if id(module) not in self.names:  # a stranger, or made by forward just now
            self.names.update(_names(self.net))
        name = self.names.get(id(module))
        if name:  # not the net itself, which is open already
            layer = Layer(name, self.kinds.setdefault(name, kind_of(module)), module)
            self.open_calls[-1][0].children.append(layer)
            self.open_calls.append((layer, self.multiply_adds()))

    def end(self, module: nn.Module, _arguments: Any, output: Any) -> None:
        if self.names.get(id(module)):
            self.close(module, output)

    def close(self, module: nn.Module, output: Any) -> None:
        layer, start = self.open_calls.pop()
        while layer.module is not module:  # a call that raised, and the net went on
            layer, start = self.open_calls.pop()
        outputs = [tensor for tensor in tensors_in(output) if not tensor.is_nested]  # a nested one has no shape
        layer.shapes = [tuple(tensor.shape) for tensor in outputs]
        layer.output_bytes = sum(tensor.numel() * tensor.element_size() for tensor in outputs) / self.samples
        layer.multiply_adds = self.multiply_adds() - start


def _copy_of_lazy(net: nn.Module) -> nn.Module:
    # torch cannot copy lazy buffers, so the copy gets new ones
    buffers = {
        id(buffer): UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]  # stub
        for buffer in net.buffers()
        if is_lazy(buffer)
    }
    try:
        return copy.deepcopy(net, dict(buffers))
    except Exception as error:
        add_note(error, "summary works on a copy of a net with lazy modules. Call the net on a batch first.")
        raise


@contextmanager
def _contents_kept(net: nn.Module) -> Iterator[None]:
    """Take out what forward adds to the net, and put back the buffers it changes or replaces."""
    modules = [module for module in net.modules() if not isinstance(module, torch.jit.ScriptModule)]
    kept = [
        (registry, dict(registry))
        for module in modules
        for registry in (module._parameters, module._buffers, module._modules)
    ]
    values = [(buffer, buffer._version, buffer.clone()) for buffer in net.buffers() if _has_version(buffer)]
    try:
        yield
    finally:
        for registry, before in kept:
            _restore(registry, before)
        for buffer, version, value in values:
            if buffer._version != version:
                buffer.copy_(value)


def _restore(registry: dict[str, Any], before: dict[str, Any]) -> None:
    if list(registry) != list(before) or any(registry[name] is not before[name] for name in before):
        registry.clear()
        registry.update(before)


def _has_version(buffer: Tensor) -> bool:
    return not (is_lazy(buffer) or buffer.is_inference())


@contextmanager
def _every_module_runs() -> Iterator[None]:
    """Turn off what computes several modules in one go: fused transformer layers, compiled nets."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Without it nothing is compiled, and importing it takes a second
        with _eager() if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


@contextmanager
def _eager() -> Iterator[None]:
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        # The hooks see the wrapper as well as the net, which does no harm here
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield


@contextmanager
def _flops(measure: bool) -> Iterator[Callable[[], int]]:
    """Give a function that returns the floating-point operations counted so far."""
    if not measure:
        yield lambda: 0
        return
    from torch.utils.flop_counter import FlopCounterMode

    fused = {torch.ops.aten.mkldnn_rnn_layer: _fused_layer_flops, torch.ops.aten._cudnn_rnn: _fused_stack_flops}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        yield counter.get_total_flops


# torch counts no fused recurrent layer. Each weight matrix is used once for each sample and time step.
def _fused_layer_flops(shape: Any, weight: Any, recurrent_weight: Any, *_rest: Any, **_named: Any) -> int:
    return int(2 * prod(shape[:-1]) * (prod(weight) + prod(recurrent_weight)))


def _fused_stack_flops(shape: Any, weights: Any, *_rest: Any, **_named: Any) -> int:
    return int(2 * prod(shape[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2))
