"""Exported files as nets: they compute, and are not trained."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kerastorch.errors import ExportError, needs
from kerastorch.export.graph import quiet
from kerastorch.export.naming import key_of, rebuilt
from kerastorch.facts import from_texts

if TYPE_CHECKING:
    from typing_extensions import Self

HEADER = "kerastorch.json"  # of a .pt2 file
_FLOATING = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}
NOT_TRAINED = (
    "An exported file is not trained: it computes what the net computed. Train the net itself: kt.load_model(path, "
    "net) with a file of model.save."
)


class Program(nn.Module, ABC):
    """A net in a file: its bytes, what its inputs are called, and what it tells.

    Args:
        data: The bytes of the file.

    Attributes:
        names: What the inputs are called, in order.
        dtypes: The dtypes of floating inputs, None for others.
        told: What the file tells of classes and inputs.

    Raises:
        ExportError: These are not the bytes of such a file.
    """

    is_program = True
    names: list[str]
    dtypes: list[torch.dtype | None]
    told: dict[str, Any]
    _made: tuple[str, ...] = ()  # attributes that are made anew from the bytes

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.training = False
        self._data = data
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Make from the bytes what computes."""

    @abstractmethod
    def _compute(self, inputs: list[Tensor]) -> Any:
        """Return what the program gives for inputs in their order."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in self._made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute; inputs are taken by their order, or by their names."""
        return self._compute(cast(in_order(self.names, inputs, named), self.dtypes))

    @property
    def float_dtype(self) -> torch.dtype:
        """The one dtype that floating inputs have, else torch's default."""
        found = {dtype for dtype in self.dtypes if dtype is not None}
        return found.pop() if len(found) == 1 else torch.get_default_dtype()

    def train(self, mode: bool = True) -> Self:
        """Stay as it is.

        Raises:
            ExportError: It is to be trained.
        """
        if mode:
            raise ExportError(NOT_TRAINED)
        return self


class OnnxNet(Program):
    """Runs an ONNX file by onnxruntime, on the CPU; outputs go to where the inputs are."""

    _made = ("_session",)

    def _begin(self) -> None:
        runtime = needs("onnxruntime", purpose="An ONNX file")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors alone; the rest is about its own optimisations
        try:
            self._session = runtime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class in common
            raise ExportError(f"onnxruntime cannot read the file: {str(error).strip().splitlines()[0]}") from error
        self.names = [port.name for port in self._session.get_inputs()]
        self.dtypes = [_FLOATING.get(port.type) for port in self._session.get_inputs()]
        self._outputs = [port.name for port in self._session.get_outputs()]
        self.told = from_texts(self._session.get_modelmeta().custom_metadata_map)

    def _compute(self, inputs: list[Tensor]) -> Any:
        feed = {name: value.detach().cpu().numpy() for name, value in zip(self.names, inputs, strict=True)}
        device = inputs[0].device if inputs else torch.device("cpu")
        found = [torch.from_numpy(value).to(device) for value in self._session.run(self._outputs, feed)]
        form = self.told.get("output", 0 if len(found) == 1 else {name: at for at, name in enumerate(self._outputs)})
        return rebuilt(form, found)


class TorchNet(Program):
    """Runs a program of `torch.export`, on the device of its inputs."""

    _made = ("_program", "_placed")

    def _begin(self) -> None:
        header = {HEADER: ""}
        try:
            with quiet():
                self._program = torch.export.load(io.BytesIO(self._data), extra_files=header)
        except Exception as error:
            text = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ExportError(f"torch {torch.__version__} cannot read the file: {text}") from error
        known = json.loads(header[HEADER] or "{}")
        self.told = from_texts(known)
        inputs = [str(name) for name in self._program.graph_signature.user_inputs]
        self.names = json.loads(known.get("names", "null")) or inputs
        values = {node.name: node.meta.get("val") for node in self._program.graph.nodes}
        self.dtypes = [_floating(values.get(name)) for name in inputs]
        self._placed: dict[torch.device, Any] = {}

    def _compute(self, inputs: list[Tensor]) -> Any:
        device = inputs[0].device if inputs else torch.device("cpu")
        if device not in self._placed:
            self._placed[device] = self._on(device)
        arguments, keywords = pytree.tree_unflatten(inputs, self._program.call_spec.in_spec)
        return self._placed[device](*arguments, **keywords)

    def _on(self, device: torch.device) -> Any:
        program = self._program
        if device.type != "cpu":  # pragma: no cover - needs an accelerator
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()


SUFFIXES = (".onnx", ".pt2")


def program_in(suffix: str, data: bytes) -> Program:
    """Return the net in the bytes of a file of one of `SUFFIXES`."""
    return OnnxNet(data) if suffix.lower() == ".onnx" else TorchNet(data)


def in_order(names: list[str], inputs: tuple[Any, ...], named: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that are given, in the order of the names.

    Raises:
        ExportError: There are too many or too few, or something is no tensor.
    """
    first = inputs[0] if len(inputs) == 1 else None
    if isinstance(first, Mapping) and not named:  # the names are its keys
        return in_order(names, (), first)
    found = dict(zip(names, pytree.tree_leaves(inputs), strict=False))
    count = len(pytree.tree_leaves(inputs))
    for path, leaf in pytree.tree_flatten_with_path(dict(named))[0]:
        found["_".join(str(key_of(key)) for key in path)] = leaf
        count += 1
    if count != len(names) or set(found) != set(names):
        got = f"{count} inputs" if not named else ", ".join(map(repr, named))
        raise ExportError(f"The exported program takes {', '.join(map(repr, names))}; got {got}.")
    strange = next((name for name, leaf in found.items() if not isinstance(leaf, Tensor)), None)
    if strange is not None:
        raise ExportError(
            f"Inputs of an exported program are tensors; {strange!r} is a {type(found[strange]).__name__}."
        )
    return [found[name] for name in names]


def cast(inputs: list[Tensor], dtypes: list[torch.dtype | None]) -> list[Tensor]:
    """Return inputs, floating ones as a program takes them: it may be in another precision than its net was."""
    pairs = zip(inputs, dtypes, strict=True)
    return [leaf.to(dtype) if dtype is not None and leaf.is_floating_point() else leaf for leaf, dtype in pairs]


def _floating(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, Tensor) and value.is_floating_point() else None
