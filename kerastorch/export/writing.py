"""`model.export`, from its arguments to the file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kerastorch import checkpoint
from kerastorch.checkpoint.files import replaced
from kerastorch.checkpoint.writing import own_version
from kerastorch.errors import ExportError, did_you_mean
from kerastorch.export import check, inputs, onnx
from kerastorch.export.graph import Graph, arguments_of, full_precision, portable, quiet, samples_in, undisturbed
from kerastorch.export.programs import HEADER, SUFFIXES, program_in
from kerastorch.export.result import Exported, Tensors
from kerastorch.facts import Facts, as_texts

_ZEROS = "Inputs that are no floating numbers were zeros; with input_data the file is compared on real ones."
_OTHERS = "Given batches of other shapes than the first were left out: only the size of the batch is free."


def suffix_of(path: Path) -> str:
    """Return the kind of file that is wanted.

    Raises:
        ExportError: There is no such kind.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    if suffix in (".pt", ".pth", ".safetensors"):
        raise ExportError(f"{path.name} is a file of weights: type model.save({str(path)!r}). {_kinds()}")
    raise ExportError(f"Unknown kind of file {path.suffix!r}.{did_you_mean(suffix, SUFFIXES)} {_kinds()}")


def _kinds() -> str:
    return "model.export writes .onnx for any runtime and .pt2 for torch."


def export(net: nn.Module, path: Path, facts: Facts, input_data: Any, input_shape: Any) -> Exported:
    """Write a net as a program, if that gives what the net gives.

    Args:
        net: The net; it is as before in the end.
        path: Where to.
        facts: What is known of it.
        input_data: Data as for `fit`, or None.
        input_shape: The shape of a sample, or None.

    Raises:
        ExportError: It cannot be exported, or the program differs; then no file is written.
    """
    path = path.expanduser()
    suffix = suffix_of(path)
    if input_data is not None and input_shape is not None:
        raise ExportError("export got both of input_data and input_shape: give one of them.")
    if any(checkpoint.is_sharded(parameter) for parameter in net.parameters()):
        raise ExportError(
            "The net lies in parts on several processes. Type model.save('net.pt') there, and export in one process: "
            "kt.load_model('net.pt', net).export(...)."
        )
    if getattr(net, "is_program", False):
        raise ExportError("The model is an exported file already; copy that file.")
    if suffix == ".onnx":
        onnx.require()
    net = portable(net)
    if suffix == ".onnx":
        onnx.check_size(net)
    with undisturbed(net):
        return _export(net, path, facts, input_data, input_shape)


def _export(net: nn.Module, path: Path, facts: Facts, input_data: Any, input_shape: Any) -> Exported:
    given: list[Any] = []
    if input_data is not None:
        given = [full_precision(x) for x in inputs.given_batches(net, input_data)]
        form = inputs.form_or_error(given[0])
    else:
        form = inputs.remembered(facts) if input_shape is None else inputs.form_of_shapes(input_shape, net)
        form = inputs.in_full_precision(form)
    example = _example(form, given)
    graph = _graph(net, example, form, given, is_remembered=input_data is None and input_shape is None)
    told = Facts(facts.classes, form).told() | {"output": graph.form}
    program, data = _program(net, path, graph, told)
    fitting = [x for x in given if inputs.form_or_error(x) == form]
    on_given = check.difference(net, program, graph.outputs, fitting) if given else None
    on_random = check.difference(net, program, graph.outputs, inputs.random_batches(form, given))
    with replaced(path, len(data)) as file:
        file.write(data)
    notes = (
        [_ZEROS] if inputs.has_integers(form) and not given else [],
        [_OTHERS] if len(fitting) < len(given) else [],
    )
    ports = _ports(graph)
    return Exported(
        path,
        *ports,
        samples=sum(samples_in(x) for x in fitting),
        largest_difference=max(on_given or 0.0, on_random),
        on_given=on_given,
        on_random=on_random,
        notes=tuple(note for found in notes for note in found),
    )


def _example(form: Any, given: list[Any]) -> Any:
    """Return the batch to trace with."""
    if not given:
        return full_precision(inputs.made_up(form, inputs.TRACED, torch.Generator().manual_seed(0)))
    samples = samples_in(given[0])
    return inputs.rows(given[0], [number % samples for number in range(inputs.TRACED)])


def _graph(net: nn.Module, example: Any, form: Any, given: list[Any], *, is_remembered: bool) -> Graph:
    try:
        return Graph(net, example)
    except ExportError:
        raise
    except Exception as error:
        said = f"{str(error).strip().partition(chr(10))[0].rstrip('.')}."
        raise ExportError(_refusal(net, form, given, said, is_remembered=is_remembered)) from error


def _refusal(net: nn.Module, form: Any, given: list[Any], said: str, *, is_remembered: bool) -> str:
    """Return what to say of a net that fails with the inputs that it is to be traced with."""
    name = type(net).__name__
    if given and _computes(net, given[0]):
        return (
            f"{name} computes a batch of {samples_in(given[0])}, but none of {inputs.TRACED}: {said} The size of the "
            "batch is fixed somewhere in the net. Take it from the input: x.flatten(1), x.view(x.shape[0], -1)."
        )
    if given:
        return (
            f"{name} fails with input_data, {json.dumps(form)} without the batch: {said} Several inputs go into a "
            "tuple of their own: ((a, b),), or ((a, b), y)."
        )
    source = "the last call of the model had" if is_remembered else "were asked for"
    return (
        f"{name} fails with the inputs that {source}, {json.dumps(form)} without the batch: {said} For inputs that are "
        "no floating numbers, or others, give input_data=..."
    )


def _computes(net: nn.Module, x: Any) -> bool:
    arguments, keywords = arguments_of(net, x)
    try:
        net(*arguments, **keywords)
    except Exception:
        return False
    return True


def _program(net: nn.Module, path: Path, graph: Graph, told: dict[str, Any]) -> tuple[nn.Module, bytes]:
    header = {"kerastorch": own_version()} | as_texts(told)
    if path.suffix.lower() == ".onnx":
        data = onnx.written(graph, net, header)
        return program_in(path.suffix, data), data
    header["names"] = json.dumps(graph.inputs)
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(graph.program, buffer, extra_files={HEADER: json.dumps(header)})
        data = buffer.getvalue()
        return program_in(path.suffix, data), data


def _ports(graph: Graph) -> tuple[tuple[Tensors, ...], tuple[Tensors, ...]]:
    nodes = {node.name: node for node in graph.program.graph.nodes}
    signature = graph.program.graph_signature
    taken = [_tensors(name, nodes[str(node)]) for name, node in zip(graph.inputs, signature.user_inputs, strict=True)]
    ends = next(node for node in graph.program.graph.nodes if node.op == "output").args[0]
    users = ends[len(ends) - len(graph.outputs) :]  # buffers that change come first
    gives = [_tensors(name, node) for name, node in zip(graph.outputs, users, strict=True)]
    return tuple(taken), tuple(gives)


def _tensors(name: str, node: Any) -> Tensors:
    value = node.meta["val"]
    shape = tuple(size if isinstance(size, int) else _named(size) for size in value.shape)
    return Tensors(name, str(value.dtype).removeprefix("torch."), shape)


def _named(size: Any) -> str:
    text = str(size)
    symbols = sorted(map(str, size.node.expr.free_symbols))
    return text.replace(symbols[0], "batch") if len(symbols) == 1 else text
