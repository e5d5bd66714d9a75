"""The calls of a net as a tree with multiply-adds and memory, in colours where there is a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from kerastorch.isolate import random_state_kept
from kerastorch.summary.layers import Layer, Parameters, count, count_text, in_order_of_return, shape_text, size
from kerastorch.summary.table import output_bytes
from kerastorch.summary.trace import Trace

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_COLUMNS = ("Layer", "Output shape", "Parameters", "Trainable", "Multiply-adds", "Memory")
_DISPENSABLE = ("Memory", "Trainable", "Multiply-adds")  # the first is left out first
_WIDE = 10_000  # wider than any table, so that plain text is neither cut nor wrapped
_ASCII = str.maketrans("├└│─", "|`|-")


def show(trace: Trace, batch_size: int, print_fn: Callable[[str], object]) -> None:
    """Print in colours where `print` would write to a terminal, else hand plain text to `print_fn`."""
    prints_here = print_fn is print
    if prints_here and not _can_encode_guides():
        print(text(trace, batch_size).translate(_ASCII))
    elif prints_here and sys.stdout.isatty():
        _print_to(trace, batch_size, file=sys.stdout)
    else:
        print_fn(text(trace, batch_size))


def text(trace: Trace, batch_size: int) -> str:
    """Write the tree without control codes."""
    file = io.StringIO()
    _print_to(trace, batch_size, file=file, width=_WIDE, color_system=None, force_jupyter=False)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _can_encode_guides() -> bool:
    try:
        "".join(map(chr, _ASCII)).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _print_to(trace: Trace, batch_size: int, **options: Any) -> None:
    with random_state_kept():  # the first import of rich draws a random number
        from rich.console import Console

        console = Console(highlight=False, **options)
        console.print(_fitting_tree(trace, batch_size, console), "", _totals(trace), sep="\n")


def _fitting_tree(trace: Trace, batch_size: int, console: Console) -> Table:
    # Cells broken over lines are hard to read: a narrow terminal gets fewer columns
    for number in range(len(_DISPENSABLE) + 1):
        tree = _tree(trace, batch_size, _DISPENSABLE[:number])
        if console.measure(tree, options=console.options.update(width=_WIDE)).maximum <= console.width:
            break
    return tree


def _tree(trace: Trace, batch_size: int, left_out: tuple[str, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    columns = [column for column in _COLUMNS if column not in left_out]
    for column in columns:
        is_left = column in {"Layer", "Output shape"}
        table.add_column(column, justify="left" if is_left else "right", overflow="fold", no_wrap=not is_left)
    for guide, parent, layer in _walk(trace.root):
        cells = dict(zip(_COLUMNS, [_label(guide, parent, layer), *_cells(layer, batch_size)], strict=True))
        table.add_row(*(cells[column] for column in columns))
    if left_out:
        table.caption = f"A wider terminal shows more: {', '.join(left_out).lower()}"
    return table


def _walk(root: Layer) -> Iterator[tuple[str, Layer, Layer]]:
    """Yield each layer after the call around it, with the lines that join the two."""

    def below(parent: Layer, indent: str) -> Iterator[tuple[str, Layer, Layer]]:
        for child in parent.children:
            is_last = child is parent.children[-1]
            yield indent + ("└─ " if is_last else "├─ "), parent, child
            yield from below(child, indent + ("   " if is_last else "│  "))

    yield "", root, root
    yield from below(root, "")


def _label(guide: str, parent: Layer, layer: Layer) -> Text:
    from rich.text import Text

    name = layer.name.removeprefix(f"{parent.name}." if parent.name else "")
    return Text.assemble((guide, "dim"), (f"{name} " if name else "", "bold"), (layer.kind, "cyan"))


def _cells(layer: Layer, batch_size: int) -> list[Any]:
    from rich.text import Text

    inside = list(in_order_of_return(layer))
    own = [parameter for part in inside for parameter in part.own]
    fresh = [parameter for part in inside for parameter in part.fresh]
    shape = shape_text(layer, batch_size) if layer.is_called else "not called"
    numbers = [
        count_text(layer, own, fresh),
        _trainable(own),
        scaled_count(layer.multiply_adds),
        scaled_size(layer.output_bytes),
    ]
    return [Text(shape), *(Text(cell, style="dim" if cell in {"0", "-"} else "") for cell in numbers)]


def _trainable(parameters: Parameters) -> str:
    flags = {parameter.requires_grad for parameter in parameters}
    if not flags:
        return "-"
    return "partly" if len(flags) == 2 else "yes" if True in flags else "no"


def _totals(trace: Trace) -> Table:
    from rich.table import Table

    total = count(trace.parameters)
    trainable = count([parameter for parameter in trace.parameters if parameter.requires_grad])
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("Parameters", f"{total:,}", scaled_size(size(trace.parameters)))
    table.add_row("  trainable", f"{trainable:,}")
    table.add_row("  frozen", f"{total - trainable:,}")
    table.add_row("Multiply-adds", scaled_count(trace.root.multiply_adds), "for one sample")
    table.add_row("Input", scaled_size(trace.input_bytes), "for one sample")
    table.add_row("Outputs of the layers", scaled_size(output_bytes(trace)), "for one sample")
    return table


def scaled_count(number: float) -> str:
    """Write a large number in short: `1.81 G`."""
    return _scaled(number, 1000, ("", "K", "M", "G", "T"))


def scaled_size(number: float) -> str:
    """Write a number of bytes, in units of 1024 and its powers: `44.59 MB`."""
    return _scaled(number, 1024, ("B", "KB", "MB", "GB", "TB")) if number else "0"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while number >= step and power < len(units) - 1:
        number, power = number / step, power + 1
    return f"{number:.2f} {units[power]}" if power else f"{number:.0f} {units[0]}".rstrip()
