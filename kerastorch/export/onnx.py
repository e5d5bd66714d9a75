"""A graph as an ONNX file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from kerastorch.errors import ExportError, needs
from kerastorch.export.graph import Graph, quiet
from kerastorch.export.trouble import explained

LARGEST = 2**31 - 2**20  # what one file of protobuf can be, less the graph


def require() -> None:
    """See that all packages are there, before anything takes time."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needs(package, purpose="An ONNX file", install="kerastorch[onnx]")


def check_size(net: torch.nn.Module) -> None:
    """See that the weights fit into one file.

    Raises:
        ExportError: They do not.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if size > LARGEST:
        raise ExportError(
            f"The weights have {size:,} bytes, and one ONNX file holds at most {LARGEST:,}. Export to a .pt2 file."
        )


def written(graph: Graph, net: torch.nn.Module, header: Mapping[str, str]) -> bytes:
    """Return an ONNX file.

    Args:
        graph: The net.
        net: Its module, for messages.
        header: Texts to put into it.

    Raises:
        ExportError: It has an operation that ONNX does not have.
    """
    names: dict[str, Any] = {"input_names": graph.inputs, "output_names": graph.outputs}
    with explained(net, "torch.onnx.export (ONNX)"), quiet():
        program = torch.onnx.export(graph.program, dynamo=True, optimize=True, verbose=False, **names)
        if program is None:  # pragma: no cover - only with dynamo=False
            raise RuntimeError("torch.onnx.export gave nothing")
        proto = program.model_proto
    _name_batch(proto, graph)
    for key, value in header.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    data: bytes = proto.SerializeToString()
    return data


def _name_batch(proto: Any, graph: Graph) -> None:
    """Let the free dimension be called "batch" and not "s77"."""
    symbols = {str(symbol) for symbol in graph.program.range_constraints}
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b") if len(symbols) == 1 else None
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if pattern is not None and dimension.dim_param:
                dimension.dim_param = pattern.sub("batch", dimension.dim_param)
