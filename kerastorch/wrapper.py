"""A module that wraps another and carries its names: `conv1.weight`, never `net.conv1.weight`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


class Wrapper(nn.Module):
    """Calls, prints and names like the net it wraps; without one, its subclass is the net.

    Parameters, buffers, modules and the state_dict have the net's own names, also where the wrapper is itself part of a
    larger module. Attributes that it does not have are the net's. A subclass that adds layers of its own has the names
    of any module.

    Args:
        net: The net; None for a subclass with a `forward` of its own.

    Raises:
        TypeError: `net` is no module.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        if net is not None and not isinstance(net, nn.Module):
            hint = f" Type Model({net.__name__}())." if isinstance(net, type) else ""
            raise TypeError(f"Model wraps an nn.Module; got {net!r}.{hint}")
        self._wraps = net is not None
        if net is not None:
            self.net = net
            self.register_load_state_dict_pre_hook(_add_prefix)  # type: ignore[no-untyped-call]

    @property
    def module(self) -> nn.Module:
        """What is trained: the wrapped net; or this, where a subclass has a `forward` or layers of its own."""
        return self.net if self._is_transparent and type(self).forward is Wrapper.forward else self

    @property
    def _is_transparent(self) -> bool:
        return self._wraps and len(self._modules) == 1 and not self._parameters and not self._buffers

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Call the wrapped net."""
        if not self._wraps:
            raise NotImplementedError(
                f"{type(self).__name__} wraps no net and has no forward. Write one, or Model(net)."
            )
        return self.net(*inputs, **named_inputs)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Return the state under the net's own names."""
        return (
            self.net.state_dict(*arguments, **options)
            if self._is_transparent
            else super().state_dict(*arguments, **options)
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state with the net's own names."""
        if self._is_transparent:
            return self.net.load_state_dict(state_dict, strict, assign)
        return super().load_state_dict(state_dict, strict, assign)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield this and the net's modules under the net's own names; named_parameters and named_buffers follow."""
        if not self._is_transparent:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        yield from self.net.named_modules(memo, prefix, remove_duplicate)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not self.__dict__.get("_wraps") or name.startswith("__"):
                raise
            return getattr(self._modules["net"], name)

    def __repr__(self) -> str:
        return repr(self.net) if self._is_transparent else super().__repr__()


def _add_prefix(module: Wrapper, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Rename what a larger module hands down, so that the child `net` finds it."""
    if not module._is_transparent:
        return
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}net.{name.removeprefix(prefix)}"] = state.pop(name)
