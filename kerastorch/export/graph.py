"""From a net to a graph, by torch.export."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from kerastorch import isolate
from kerastorch.binding import bind
from kerastorch.errors import ExportError
from kerastorch.export.naming import form_of_output, input_names, output_names
from kerastorch.export.trouble import explained
from kerastorch.tree import leaves

_TALKATIVE = ("torch.fx.experimental.symbolic_shapes", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Graph:
    """A net as a graph whose batches may have any size.

    Args:
        net: The net, on the CPU, in evaluation mode.
        x: A batch.

    Attributes:
        program: What torch.export gave.
        inputs: What the inputs are called.
        outputs: What the outputs are called.
        form: How the output is nested.

    Raises:
        ExportError: The net cannot be exported.
    """

    def __init__(self, net: nn.Module, x: Any) -> None:
        arguments, keywords = arguments_of(net, x)
        self.inputs = input_names(net, arguments, keywords)
        output = net(*arguments, **keywords)
        self.outputs = output_names(output, self.inputs)
        self.form = form_of_output(output)
        traced = net
        spreads = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in _used(net, arguments, keywords))
        if spreads:
            traced = _ByOrder(net, list(keywords))  # torch.export writes **names in a way that it cannot read
            arguments, keywords = (*arguments, *keywords.values()), {}
        shapes = _dynamic(traced, arguments, keywords)
        with explained(net, "torch.export"), quiet():
            self.program = torch.export.export(traced, arguments, keywords, dynamic_shapes=shapes, strict=False)


class _ByOrder(nn.Module):
    """Hands its last inputs on by their names."""

    def __init__(self, net: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.net = net
        self.names = names

    def forward(self, *inputs: Any) -> Any:
        count = len(inputs) - len(self.names)
        return self.net(*inputs[:count], **dict(zip(self.names, inputs[count:], strict=True)))


def arguments_of(net: nn.Module, x: Any) -> Call:
    """Return the arguments that a net is called with for inputs `x`."""
    record: Callable[..., Call] = lambda *arguments, **keywords: (arguments, keywords)  # noqa: E731
    return bind(record, x, like=net)(x)  # type: ignore[no-any-return]


def portable(net: nn.Module) -> nn.Module:
    """Return the net on the CPU, without `torch.compile`, in float32 where it is in half precision.

    It is the same object where it is so already; else a copy, for which the accelerator needs no memory.
    """
    while hasattr(net, "_orig_mod") or isinstance(net, nn.DataParallel):
        inner: Any = net._orig_mod if hasattr(net, "_orig_mod") else net.module
        net = inner
    own: list[Tensor] = [*net.parameters(), *net.buffers()]
    if any(is_lazy(tensor) for tensor in own):
        raise ExportError(
            f"{type(net).__name__} has layers that learn their shapes from the first batch. Call predict once before."
        )
    if all(tensor.device.type == "cpu" and _full(tensor.dtype) == tensor.dtype for tensor in own):
        return net
    memo: dict[int, Any] = {id(tensor): _on_cpu(tensor) for tensor in own}
    memo[id(vars(net).get("_session"))] = None  # the optimizer of a model is no part of the net
    return copy.deepcopy(net, memo)


def _on_cpu(tensor: Tensor) -> Tensor:
    value = tensor.detach().to("cpu", _full(tensor.dtype), copy=True)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def full_precision(x: Any) -> Any:
    """Return inputs with float32 in place of half precision."""
    return pytree.tree_map(lambda leaf: leaf.to(_full(leaf.dtype)), x)


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards modes, buffers and random numbers are as before."""
    homes = [(module, name, buffer) for module in net.modules() for name, buffer in module._buffers.items()]
    before = [None if buffer is None else buffer.clone() for _, _, buffer in homes]
    try:
        with isolate.evaluation(net), _by_their_places(net):
            yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), value in zip(homes, before, strict=True):
                module._buffers[name] = buffer
                if buffer is not None and value is not None and not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def _by_their_places(net: nn.Module) -> Iterator[None]:
    """Let wrappers name their parameters by where they are: torch.export takes `weight` of one for twice there."""
    wrappers = [vars(module) for module in net.modules() if vars(module).get("_wraps")]
    for wrapper in wrappers:
        wrapper["_is_opaque"] = True
    try:
        yield
    finally:
        for wrapper in wrappers:
            wrapper["_is_opaque"] = False


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what torch's exporters warn of, log and print; what is wrong is in their errors as well."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    nothing = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _dynamic(net: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """Return, nested as the arguments are, that the first dimension of each tensor is the batch."""
    batch = torch.export.Dim("batch")
    bound = inspect.signature(net.forward).bind(*arguments, **keywords).arguments
    return {name: pytree.tree_map(lambda _: {0: batch}, value) for name, value in bound.items()}


def _used(net: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[inspect.Parameter]:
    signature = inspect.signature(net.forward)
    return [signature.parameters[name] for name in signature.bind(*arguments, **keywords).arguments]


def samples_in(x: Any) -> int:
    """Return how many samples a batch has."""
    return int(next(leaf.shape[0] for leaf in leaves(x) if isinstance(leaf, Tensor)))
