"""What the TensorBoard callback writes beside curves: histograms, the graph, precision over recall, HPARAMS."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kerastorch import isolate
from kerastorch.callbacks.values import as_array, finite
from kerastorch.errors import needs


def add_histogram(writer: Any, tag: str, values: Any, step: int) -> None:
    """Write how the finite ones of some numbers are spread; nothing where there are none."""
    numbers = finite(values)
    if numbers.size:
        writer.add_histogram(tag, numbers, step)


def add_histograms(writer: Any, module: nn.Module, step: int) -> None:
    """Write each parameter, and its gradient where it has one."""
    for name, parameter in module.named_parameters():
        for kind, tensor in (("parameters", parameter), ("gradients", parameter.grad)):
            array = None if tensor is None else as_array(tensor.coalesce().values() if tensor.is_sparse else tensor)
            if array is not None:  # as a complex one is
                add_histogram(writer, f"{kind}/{name}", array, step)


def add_precision_recall(writer: Any, tag: str, counts: Tensor, step: int) -> None:
    """Write the curve of each class or label, of the value of a PrecisionRecallCurve."""
    for place, (true, false) in enumerate(counts.double().transpose(1, 2)):
        missed = true[0] - true
        precision = true / (true + false).clamp(min=1e-7)
        recall = true / true[0].clamp(min=1e-7)
        rows = (true, false, false[0] - false, missed, precision, recall)
        name = tag if len(counts) == 1 else f"{tag}/{place}"
        writer.add_pr_curve_raw(name, *(row.numpy() for row in rows), step, num_thresholds=counts.shape[1])


def add_graph(writer: Any, module: nn.Module, x: Any) -> None:
    """Trace a copy of a net with a batch, in evaluation mode; the net and the random numbers stay as they are.

    Raises:
        TypeError: The inputs are no tensors.
        Exception: The net cannot be copied or traced.
    """
    inputs = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    if not all(isinstance(part, Tensor) for part in inputs):
        raise TypeError("its inputs must be tensors, or a tuple of them")
    twin = copy.deepcopy(module)
    with isolate.evaluation(twin), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that a trace takes for constants; the picture is meant for people
        writer.add_graph(twin, inputs, use_strict_trace=False)


def hparams_event(hparams: Mapping[str, Any], *, ends: bool) -> Any:
    """Return what the tab HPARAMS reads: at the begin of a run what distinguishes it, at its end that it succeeded."""
    module = needs("torch.utils.tensorboard.summary", purpose="The TensorBoard callback", install="tensorboard")
    plain = {name: _plain(value) for name, value in hparams.items()}
    _, begin, end = module.hparams(plain, {})
    return end if ends else begin


def sizes_of(folder: Path, ending: str) -> dict[str, int]:
    """Return the bytes of each file of events with this ending, by its place in the folder."""
    found = sorted(folder.rglob(f"events.out.tfevents.*{ending}"))
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


def go_back(folder: Path, ending: str, sizes: Mapping[str, int], before: Path) -> None:
    """Let the files of events with this ending hold what they held when they had these sizes.

    Args:
        folder: Where they are to be.
        ending: Of their names; others are left alone.
        sizes: As `sizes_of` returned them.
        before: Where they were then; what is there stays, and is copied where it is another folder.
    """
    for name in sizes_of(folder, ending):
        if name not in sizes:
            (folder / name).unlink()
    for name, size in sizes.items():
        source, target = before / name, folder / name
        if source.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if target.is_file() and target.stat().st_size > size:
            os.truncate(target, size)


def _plain(value: Any) -> int | float | str:
    array = None if isinstance(value, (list, tuple)) else as_array(value)
    if array is not None and array.size == 1:
        value = array.item()
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)
