"""Inputs to trace a net with, and to compare a program with it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kerastorch import feed
from kerastorch.data.batch import count_samples
from kerastorch.errors import ExportError
from kerastorch.facts import Facts, dtype_of, form_of, is_leaf
from kerastorch.tree import describe, leaves, map_leaves

MOST = 256  # samples that are compared
TRACED = 3  # 0 and 1 are numbers of their own to torch.export, and 2 is easily another dimension
SIZES = (1, 2, 7)
_NOTHING_KNOWN = (
    "It is not known what goes into the net. Type model.export(path, input_shape=(1, 28, 28)), the shape of one "
    "sample; or input_data=dl_val, any data that fit takes, which the file is then compared on; or call fit, evaluate "
    "or predict before."
)


def given_batches(net: nn.Module, data: Any) -> list[Any]:
    """Return the inputs of the first samples of data, batch by batch, on the CPU; targets are left out.

    Raises:
        DataError: The data are empty, or of an unknown form.
        ExportError: Inputs are no tensors.
    """
    found: list[Any] = []
    samples = 0
    source = next(iter(feed.for_prediction(net, data, batch_size=None, steps=None).val_sets.values()))
    batches = source.batches(0)
    try:
        for batch in batches:
            x = dict(batch.x) if isinstance(batch.x, Mapping) else batch.x  # a tokenizer's has methods of its own
            form_or_error(x)
            if not count_samples(x):
                continue
            found.append(rows(x, range(min(batch.size, MOST - samples))))
            samples += count_samples(found[-1])
            if samples >= MOST:
                break
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
        source.close()
    if not found:
        raise ExportError("input_data gave no batch at all; it is empty, or an iterator that was read before.")
    return found


def form_of_shapes(input_shape: Any, net: nn.Module) -> Any:
    """Return the form of inputs whose shapes the user has typed, as for `summary`."""
    from kerastorch.summary.inputs import from_shapes

    made = from_shapes(input_shape, torch.float32, net, samples=1)
    if made.kwargs:
        return form_of(made.kwargs)
    is_one = len(made.args) == 1 and not (input_shape and isinstance(input_shape[0], (list, tuple)))
    return form_of(made.args[0] if is_one else made.args)


def remembered(facts: Facts) -> Any:
    """Return the form of the inputs that a model has seen last.

    Raises:
        ExportError: It has seen none.
    """
    if facts.inputs is None:
        raise ExportError(_NOTHING_KNOWN)
    return facts.inputs


def form_or_error(x: Any) -> Any:
    """Return the form of inputs.

    Raises:
        ExportError: Something in them is no tensor.
    """
    form = form_of(x)
    if form is None:
        raise ExportError(
            "The inputs of a program are tensors with a batch dimension, in dicts and lists as well; got "
            f"{describe(x)}."
        )
    return form


def in_full_precision(form: Any) -> Any:
    """Return a form with float32 in place of half precision."""
    if is_leaf(form):
        return ["float32" if form[0] in ("float16", "bfloat16") else form[0], form[1]]
    if isinstance(form, Mapping):
        return {key: in_full_precision(part) for key, part in form.items()}
    return [in_full_precision(part) for part in form]


def made_up(form: Any, samples: int, generator: torch.Generator) -> Any:
    """Return inputs of a form: random floating numbers (normal distribution), zeros for all else."""
    if is_leaf(form):
        dtype, shape = dtype_of(form), (samples, *form[1])
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(shape, generator=generator, dtype=_drawn(dtype)).to(dtype)
        return torch.zeros(shape, dtype=dtype)
    if isinstance(form, Mapping):
        return {key: made_up(part, samples, generator) for key, part in form.items()}
    return tuple(made_up(part, samples, generator) for part in form)


def random_batches(form: Any, given: list[Any]) -> Iterator[Any]:
    """Yield batches of a few sizes; what is no floating number is taken from the given samples, if there are some."""
    generator = torch.Generator().manual_seed(0)  # one of our own: the random numbers of the program stay
    for size in SIZES:
        batch = made_up(form, size, generator)
        yield (
            _with_integers(batch, rows(given[0], [number % count_samples(given[0]) for number in range(size)]))
            if given
            else batch
        )


def rows(x: Any, numbers: Any) -> Any:
    """Return some samples of a batch, on the CPU."""
    index = torch.as_tensor(list(numbers), dtype=torch.long)
    return map_leaves(lambda leaf: leaf.detach().cpu()[index], x)


def has_integers(form: Any) -> bool:
    """Whether something in a form is no floating number."""
    if is_leaf(form):
        return not dtype_of(form).is_floating_point
    return any(has_integers(part) for part in (form.values() if isinstance(form, Mapping) else form))


def _with_integers(batch: Any, given: Any) -> Any:
    numbers = iter([leaf for leaf in leaves(given) if isinstance(leaf, Tensor)])

    def chosen(leaf: Tensor) -> Tensor:
        own = next(numbers)
        return leaf if leaf.is_floating_point() else own

    return map_leaves(chosen, batch)


def _drawn(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.itemsize > 2 else torch.float32
