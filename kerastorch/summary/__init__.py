"""What a net is made of: layers, output shapes, parameters and sizes, without touching the net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kerastorch import launched
from kerastorch.errors import add_note, did_you_mean
from kerastorch.tree import describe

if TYPE_CHECKING:  # imported when a summary is wanted
    from kerastorch.summary.inputs import Inputs
    from kerastorch.summary.trace import Trace

__all__ = ["summary"]

_STYLES = ("rich", "table")


def summary(
    net: nn.Module,
    input_shape: Sequence[Any] | Mapping[str, Sequence[int]] | None = None,
    input_dtype: Any = torch.float32,
    batch_size: int = -1,
    *,
    input_data: Any = None,
    style: str = "table",
    print_fn: Callable[[str], object] = print,
) -> None:
    """Print the layers of a net with their output shapes and parameters.

    The net runs once, in evaluation mode and without gradients. Afterwards its training flags, buffers and hooks and
    all random numbers are as before. Every call of a layer has a row; parameters are counted once: a later call of
    the same layer shows `(recursive)`, a layer whose parameters all belong to an earlier one shows `(tied)`. A
    parameter that a container holds itself is counted in the container's row. A layer that `forward` never calls has
    no output shape. A net with lazy modules is not initialised, a copy is.

    Args:
        net: Any module.
        input_shape: The shape of one sample, without the batch dimension: `(1, 28, 28)`. A list of shapes for a net
            with several inputs, a dict of shapes for inputs by name. Floating inputs are random numbers in [0, 1),
            all others zeros, on the device of the net's first parameter. The batch has two samples, or one if the net
            fails with two.
        input_dtype: The dtype of the inputs (or an old type such as `torch.LongTensor`), one for all, or a list or
            dict parallel to `input_shape`. `torch.float32` stands for the floating dtype of the net's parameters.
        batch_size: What is shown as dimension 0; the input and forward/backward sizes are for that many samples, for
            one sample if it is -1.
        input_data: Instead of `input_shape`, a real batch: what `forward` takes, so no targets. A tensor `x` is given
            as `net(x)`, a tuple or list as `net(*x)`, a dict as `net(**x)`.
        style: `"table"`, the plain layout known from torchkeras and torchsummary: 64 columns, sizes in units of
            1024^2 bytes, forward/backward = 2 x the outputs of all layers. `"rich"`, a tree of the calls with
            multiply-adds and memory for one sample. Multiply-adds are those of matrix products, convolutions,
            attention and recurrent layers.
        print_fn: Receives the whole text in one call. The built-in `print` shows `"rich"` in colours in a terminal.

    Raises:
        ValueError: The arguments do not say which inputs to use, or hold something that is no shape, dtype or style.
        Exception: What `forward` raises, with a note that tells which inputs were tried.

    Example:
        >>> summary(nn.Linear(8, 4), input_shape=(8,))
        ----------------------------------------------------------------
                Layer (type)               Output Shape         Param #
        ================================================================
                    Linear-1                    [-1, 4]              36
        ================================================================
        Total params: 36
        Trainable params: 36
        Non-trainable params: 0
        ----------------------------------------------------------------
        Input size (MB): 0.000031
        Forward/backward pass size (MB): 0.000031
        Params size (MB): 0.000137
        Estimated Total Size (MB): 0.000198
        ----------------------------------------------------------------
    """
    if style not in _STYLES:
        raise ValueError(f"Unknown style {style!r}.{did_you_mean(str(style), _STYLES)} Known: {', '.join(_STYLES)}.")
    if batch_size != -1 and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}: give -1 (any), or the number of samples.")
    if (input_shape is None) == (input_data is None):
        got = "neither" if input_data is None else "both"
        raise ValueError(
            f"summary got {got} of input_shape and input_data: give one of them, such as input_shape=(1, 28, 28), "
            "the shape of one sample without the batch dimension."
        )
    from kerastorch.summary import nested, table

    if input_shape is None:
        traced = _trace_data(net, input_data, is_rich=style == "rich")
    else:
        traced = _trace_shapes(net, input_shape, input_dtype, is_rich=style == "rich")
    if print_fn is print and not launched.is_main():
        pass  # several processes have one net
    elif style == "rich":
        nested.show(traced, batch_size, print_fn)
    else:
        print_fn(table.text(traced, batch_size))


def _trace_data(net: nn.Module, input_data: Any, *, is_rich: bool) -> Trace:
    from kerastorch.summary.inputs import from_data
    from kerastorch.summary.trace import trace

    inputs = from_data(input_data, net)
    try:
        return trace(net, inputs, measure=is_rich)
    except Exception as error:
        add_note(error, f"{_tried(inputs)} input_data is what forward takes, without targets; a tuple is unpacked.")
        raise


def _trace_shapes(net: nn.Module, input_shape: Any, input_dtype: Any, *, is_rich: bool) -> Trace:
    from kerastorch.summary.inputs import from_shapes
    from kerastorch.summary.trace import trace

    inputs = from_shapes(input_shape, input_dtype, net, samples=2)
    try:
        return trace(net, inputs, measure=is_rich)
    except Exception as error:
        with suppress(Exception):  # some nets take one sample only
            return trace(net, from_shapes(input_shape, input_dtype, net, samples=1), measure=is_rich)
        hint = f"input_shape={input_shape!r} is the shape of one sample, without the batch dimension."
        add_note(error, f"{_tried(inputs)} {hint} The dtype is input_dtype={input_dtype!r}.")
        raise


def _tried(inputs: Inputs) -> str:
    return f"summary called the net with {describe(inputs.kwargs or inputs.args)}."
