"""The layer table in the layout of torchkeras and torchsummary."""

from __future__ import annotations

from kerastorch.summary.layers import count, count_text, in_order_of_return, shape_text, size
from kerastorch.summary.trace import Trace

_HEADER = ("Layer (type)", "Output Shape", "Param #")
_MEGABYTE = 1024**2


def text(trace: Trace, batch_size: int) -> str:
    """Write the whole table, 64 columns wide, wider only where a cell needs it."""
    rows = [_HEADER, *table_rows(trace, batch_size)]
    widths = [max(least, *(len(row[column]) for row in rows)) for column, least in enumerate((20, 25, 15))]
    header, *lines = (f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}} {row[2]:>{widths[2]}}" for row in rows)
    thin, thick = (character * (sum(widths) + 4) for character in "-=")
    parts = [thin, header, thick, *lines, thick, *_totals(trace), thin, *_sizes(trace, batch_size), thin]
    return "\n".join(parts)


def table_rows(trace: Trace, batch_size: int) -> list[tuple[str, str, str]]:
    """Return name, output shape and parameters of each leaf and each container with parameters of its own."""
    layers = [layer for layer in in_order_of_return(trace.root) if layer.is_leaf or layer.own]
    return [
        (f"{layer.kind}-{number}", shape_text(layer, batch_size), count_text(layer, layer.own, layer.fresh))
        for number, layer in enumerate(layers, start=1)
    ]


def _totals(trace: Trace) -> list[str]:
    total = count(trace.parameters)
    trainable = count([parameter for parameter in trace.parameters if parameter.requires_grad])
    return [
        f"Total params: {total:,}",
        f"Trainable params: {trainable:,}",
        f"Non-trainable params: {total - trainable:,}",
    ]


def _sizes(trace: Trace, batch_size: int) -> list[str]:
    samples = max(batch_size, 1)
    inputs = trace.input_bytes * samples / _MEGABYTE
    # Twice, because the backward pass holds a gradient for each output. A container returns what a leaf has computed.
    outputs = 2 * output_bytes(trace) * samples / _MEGABYTE
    parameters = size(trace.parameters) / _MEGABYTE
    return [
        f"Input size (MB): {inputs:.6f}",
        f"Forward/backward pass size (MB): {outputs:.6f}",
        f"Params size (MB): {parameters:.6f}",
        f"Estimated Total Size (MB): {inputs + outputs + parameters:.6f}",
    ]


def output_bytes(trace: Trace) -> float:
    """Return the size of the outputs of all leaves for one sample."""
    return sum(layer.output_bytes for layer in in_order_of_return(trace.root) if layer.is_leaf)
