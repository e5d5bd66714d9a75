"""A module that wraps another and carries its names: `conv1.weight`, never `net.conv1.weight`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kerastorch import checkpoint, parameters
from kerastorch.errors import ExportError
from kerastorch.facts import Facts, names_in
from kerastorch.strategy.group import Group
from kerastorch.summary import summary as print_summary

if TYPE_CHECKING:
    from kerastorch.export import Exported


class Wrapper(nn.Module):
    """Calls, prints, names, saves and sums up like the net it wraps; without one, its subclass is the net.

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
        self._is_opaque = False
        self._facts = Facts()
        if net is not None:
            self.net = net
            self.register_load_state_dict_pre_hook(_add_prefix)  # type: ignore[no-untyped-call]

    @property
    def module(self) -> nn.Module:
        """What is trained: the wrapped net; or this, where a subclass adds something, or hooks are to be run."""
        own = type(self)
        plain = own.forward is Wrapper.forward and own.train is nn.Module.train and "forward" not in vars(self)
        hooks = (self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks)
        return self.net if self._is_transparent and plain and not any(hooks) else self

    @property
    def _is_transparent(self) -> bool:
        is_alone = len(self._modules) == 1 and not self._parameters and not self._buffers
        return self._wraps and is_alone and not self._is_opaque

    @property
    def _hands_on(self) -> bool:
        """Whether inputs go to the wrapped net as they are."""
        return type(self).forward is Wrapper.forward

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Call the wrapped net."""
        if not self._wraps:
            raise NotImplementedError(
                f"{type(self).__name__} wraps no net and has no forward. Write one, or Model(net)."
            )
        return self.net(*inputs, **named_inputs)

    def summary(
        self,
        input_shape: Any = None,
        input_dtype: Any = torch.float32,
        batch_size: int = -1,
        *,
        input_data: Any = None,
        style: str = "table",
        print_fn: Callable[[str], object] = print,
    ) -> None:
        """Print layers, output shapes and parameters; the arguments are those of `kerastorch.summary`."""
        options = {"input_data": input_data, "style": style, "print_fn": print_fn}
        print_summary(self.module, input_shape, input_dtype, batch_size, **options)

    def freeze(self, *patterns: str) -> None:
        """Keep parameters and BatchNorm statistics as they are: `model.freeze("backbone.*", "*.bias")`; all by default.

        See `kerastorch.parameters.freeze`. An optimizer that `compile` was given as a name leaves them out.
        """
        parameters.freeze(self, *patterns)

    def unfreeze(self, *patterns: str) -> None:
        """Train again what was frozen; an optimizer that `compile` has built takes it in."""
        parameters.unfreeze(self, *patterns)
        self._take_in_unfrozen()

    def _take_in_unfrozen(self) -> None:
        """Tell a subclass that has an optimizer."""

    def save_weights(self, path: str | Path) -> None:
        """Write the weights, as `.safetensors` or in torch's format; the file is whole or not there.

        Of several processes all call it. The main one writes, and the others wait for it.

        Raises:
            CheckpointError: It cannot be written.
        """
        _refuse_program(self.module)
        group = joined()
        weights = checkpoint.whole(self.state_dict(), is_main=group.is_main)
        checkpoint.by_main(group, lambda: checkpoint.save_weights(weights, path, self._told()))

    def save(self, path: str | Path, *, classes: Sequence[str] | None = None) -> None:
        """Write the weights and what is known of the net: the names of its classes, and the form of its inputs.

        `kt.load_model(path, net)` reads them all, `load_weights` the weights. Optimizer and counters are not in the
        file; see `ModelCheckpoint`. Of several processes all call it, as `save_weights`.

        Args:
            path: A `.pt` or `.safetensors` file, which is whole or not there.
            classes: The names of the classes, if `model.classes` is not what they are.

        Raises:
            CheckpointError: It cannot be written.
        """
        _refuse_program(self.module)
        told, group = self._told(classes), joined()
        weights = checkpoint.whole(self.state_dict(), is_main=group.is_main)
        checkpoint.by_main(group, lambda: checkpoint.save_described(weights, path, told))

    def export(
        self, path: str | Path, input_data: Any = None, *, input_shape: Any = None, classes: Sequence[str] | None = None
    ) -> Exported:
        """Write the net as a program that needs neither its code nor kerastorch: `.onnx`, or `.pt2` for torch.

        The program takes batches of any size. It is compared with the net in evaluation mode before the file takes its
        place: on made-up inputs, and on up to 256 samples of `input_data`. A file that is there is right.

        Example:
            >>> print(model.export("net.onnx", dl_val))

        Args:
            path: Where to; the suffix says as what.
            input_data: Data in any form that `fit` takes. By default inputs are those that the model has seen last.
            input_shape: Instead, the shape of one sample as for `summary`: `(1, 28, 28)`, a list or a dict of shapes.
            classes: The names of the classes, if `model.classes` is not what they are.

        Returns:
            Inputs, outputs and the largest difference to the net; print it.

        Raises:
            ExportError: The net cannot be exported, or the program differs from it.
            MissingPackageError: onnx, onnxscript or onnxruntime is not installed, for an `.onnx` file.
        """
        from kerastorch.export import writing  # what it needs takes a while to import

        facts = Facts()
        facts.learn(self._told(classes))
        work = lambda: writing.export(self.module, Path(path), facts, input_data, input_shape)  # noqa: E731
        return checkpoint.by_main(joined(), work)

    def _told(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """Return what is known of the net; classes are those given, those that were set, or what data or file told."""
        if classes is not None and names_in(classes) is None:
            raise TypeError(f"classes is a list of names, such as ['cat', 'dog']; got {classes!r}.")
        names = names_in(self.classes) if classes is None else names_in(classes)
        return Facts(names or self._facts.classes, self._facts.inputs).told()

    def load_weights(self, path: str | Path, *, strict: bool = True) -> None:
        """Read weights that `save_weights`, `ModelCheckpoint` or `torch.save(net.state_dict(), ...)` wrote.

        They go to where the net is, whatever device they were written on. No code in the file is run.

        Args:
            path: The file, or the directory that `ModelCheckpoint` or `BackupAndRestore` wrote under FSDP.
            strict: Whether names must agree on both sides.

        Raises:
            FileNotFoundError: There is no file.
            CheckpointError: It is damaged or belongs to another net, which then is as it was.
        """
        module = self.module
        weights, told = checkpoint.load_described(path, checkpoint.mesh_of(module))
        checkpoint.load_into(module, weights, path, strict=strict)
        if strict:  # else the file may be that of another task
            self._facts.learn(told)

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
            has_net = self.__dict__.get("_wraps") and not name.startswith("__")
            net = self._modules["net"] if has_net else None
            if name == "classes" and not hasattr(net, name) and "_facts" in self.__dict__:
                return self._facts.classes
            if net is None:
                raise
            return getattr(net, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A layer that is read from the net is written there too: model.head = nn.Linear(512, 10) gives the net a new
        # head. Not in a subclass with a forward of its own, whose layers are its own.
        net = _innermost(self)
        if net is self or name == "net" or type(self).forward is not Wrapper.forward:
            super().__setattr__(name, value)
        elif name in net._parameters or name in net._buffers:
            _set_tensor(net, name, value)
        elif name in net._modules:
            setattr(net, name, value)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return repr(self.net) if self._is_transparent else super().__repr__()


def _refuse_program(module: nn.Module) -> None:
    if getattr(module, "is_program", False):
        raise ExportError("The model is an exported file, and has no weights of its own to save; copy that file.")


def joined() -> Group:
    """Return the processes that have come together, which is done by `fit`."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Group()
    from kerastorch.strategy.processes import join

    return join(torch.device("cpu"))


def _innermost(module: Any) -> nn.Module:
    while module.__dict__.get("_wraps") and "net" in module._modules:
        module = module._modules["net"]
    return module  # type: ignore[no-any-return]


def _set_tensor(net: nn.Module, name: str, value: Any) -> None:
    if name in net._parameters and isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        net._parameters[name] = value  # type: ignore[assignment]  # what torch.func.functional_call does for a while
    else:
        setattr(net, name, value)


def _add_prefix(module: Wrapper, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Rename what a larger module hands down, so that the child `net` finds it."""
    if not module._is_transparent:
        return
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}net.{name.removeprefix(prefix)}"] = state.pop(name)
