"""The calls of one forward as a tree, and which parameters each of them answers for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from torch import nn
from torch.nn.parameter import is_lazy

Parameters = list[nn.Parameter]


@dataclass(eq=False)
class Layer:
    """One call of a module, or a module with parameters that forward never calls.

    Attributes:
        name: The qualified name in the net, empty for the net itself.
        kind: The name of the class.
        module: The module.
        is_called: False if forward never called it.
        is_leaf: No other module was called inside it, so it answers for all its parameters.
        is_repeated: The same module has a row before.
        shapes: The shapes of the output tensors, in order.
        output_bytes: The size of all outputs for one sample.
        multiply_adds: Of this call and all calls inside, for one sample.
        own: The parameters it answers for, those of the calls inside left out.
        fresh: Those of `own` that no earlier layer answers for.
        children: The calls inside, in order, then what was not called.
    """

    name: str
    kind: str
    module: nn.Module
    is_called: bool = True
    is_leaf: bool = True
    is_repeated: bool = False
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    output_bytes: float = 0.0
    multiply_adds: float = 0.0
    own: Parameters = field(default_factory=list)
    fresh: Parameters = field(default_factory=list)
    children: list[Layer] = field(default_factory=list)


def in_order_of_return(layer: Layer) -> Iterator[Layer]:
    """Yield the calls inside before the call itself, the order in which outputs are ready."""
    for child in layer.children:
        yield from in_order_of_return(child)
    yield layer


def attribute_parameters(root: Layer, names: dict[int, str], kinds: dict[str, str]) -> None:
    """Say for each layer which parameters are its own, and add the layers that were never called."""
    first_calls: dict[int, Layer] = {}
    for layer in in_order_of_return(root):
        first_calls.setdefault(id(layer.module), layer)
    for layer in in_order_of_return(root):
        # A module may use its submodules without a call, as MultiheadAttention does with out_proj
        layer.is_leaf = not any(id(part) in first_calls for part in islice(layer.module.modules(), 1, None))
        layer.own = list(layer.module.parameters(recurse=layer.is_leaf))
    _Uncalled(first_calls, names, kinds).add_below(root, root.module)
    _mark_fresh(root)


@dataclass(frozen=True)
class _Uncalled:
    first_calls: dict[int, Layer]
    names: dict[int, str]
    kinds: dict[str, str]

    def add_below(self, nearest: Layer, module: nn.Module) -> None:
        if nearest.is_leaf:
            return
        prefix = self.names[id(module)]
        for key, child in module.named_children():
            name = f"{prefix}.{key}" if prefix else key
            if self.names.get(id(child)) == name:  # a module with two homes is looked at in its first
                self._add(nearest, name, child)

    def _add(self, nearest: Layer, name: str, module: nn.Module) -> None:
        call = self.first_calls.get(id(module))
        if call is not None:
            self.add_below(call, module)
            return
        is_leaf = not any(id(part) in self.first_calls for part in module.modules())
        own = list(module.parameters(recurse=is_leaf))
        if own:
            layer = Layer(
                name, self.kinds.get(name, kind_of(module)), module, is_called=False, is_leaf=is_leaf, own=own
            )
            nearest.children.append(layer)
        if not is_leaf:
            self.add_below(nearest, module)


def _mark_fresh(root: Layer) -> None:
    counted: set[int] = set()
    seen: set[int] = set()
    for layer in in_order_of_return(root):
        layer.fresh = [parameter for parameter in layer.own if id(parameter) not in counted]
        layer.is_repeated = id(layer.module) in seen
        counted.update(map(id, layer.fresh))
        seen.add(id(layer.module))


def kind_of(module: nn.Module) -> str:
    """Return the name of a module's class; that of what FSDP makes of it is the name of the class it was before."""
    kind = type(module)
    is_sharded = any(base.__name__ == "FSDPModule" for base in kind.__bases__)
    return kind.__bases__[-1].__name__ if is_sharded else kind.__name__


def count(parameters: Parameters) -> int:
    """Return how many numbers the parameters hold; a lazy one that was never called holds none yet."""
    return sum(parameter.numel() for parameter in parameters if not is_lazy(parameter))


def size(parameters: Parameters) -> int:
    """Return the size of the parameters in bytes."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters if not is_lazy(parameter))


def count_text(layer: Layer, own: Parameters, fresh: Parameters) -> str:
    """Write the number of fresh parameters, or why there are none."""
    if own and not fresh:
        return "(recursive)" if layer.is_repeated else "(tied)"
    is_unknown = bool(fresh) and all(map(is_lazy, fresh))
    return "(uninitialized)" if is_unknown else f"{count(fresh):,}"


def shape_text(layer: Layer, batch_size: int) -> str:
    """Write the shape of the first output tensor with the batch dimension replaced; `...` stands for more tensors."""
    if not layer.shapes:
        return "--"
    first = layer.shapes[0]
    shown = str([batch_size, *first[1:]] if first else [])
    return shown if len(layer.shapes) == 1 else f"{shown}, ..."
