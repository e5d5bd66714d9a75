"""Where numbers stop being finite: noted on the device batch by batch, and read only when a loss is lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kerastorch.data import Batch
from kerastorch.shards import local
from kerastorch.tree import tensors

Extremes = list[Tensor]  # smallest and largest values: NaN where one is NaN, infinite where one is infinite
_KNOWN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Call(NamedTuple):
    """What a module was given, and what it gave.

    Attributes:
        who: The module, for a message.
        parameters: Names of its own parameters.
        inputs: None for a module that holds others, which were noted before it.
        outputs: What it gave.
    """

    who: str
    parameters: list[str]
    inputs: Extremes | None
    outputs: Extremes


@dataclass
class Notes:
    """What was noted of a batch: its data, the weights before it, each call of a module, the gradients."""

    epoch: int
    batch: int
    data: dict[str, Extremes]
    weights: dict[str, Extremes]
    calls: list[Call] = field(default_factory=list)
    gradients: dict[str, Extremes] = field(default_factory=dict)
    ended_well: bool = False  # its loss is known to be finite


class Watch:
    """Takes notes of a net in training. It waits for the device only when it explains.

    Args:
        module: The net. Its modules have hooks until `remove`; what was compiled is watched as a whole, or not at all.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = dict(module.named_parameters())
        self._notes: list[Notes] = []
        self._open: Notes | None = None
        self._handles: list[RemovableHandle] = []
        for name, part in _modules(module):
            self._handles.append(part.register_forward_hook(self._hook(name, part), with_kwargs=True))

    def begin(self, epoch: int, batch: Batch) -> None:
        """Begin the notes of a batch; what the net does outside of them, in an evaluation, is not noted."""
        data = {name: _extremes(tree) for name, tree in parts(batch).items()}
        weights = {name: _extremes(parameter) for name, parameter in self._parameters.items()}
        self._open = Notes(epoch, batch.index, data, weights)
        self._notes.append(self._open)

    def note_gradients(self) -> None:
        """Note the gradients of the batch."""
        self._notes[-1].gradients = {name: _extremes(parameter.grad) for name, parameter in self._parameters.items()}

    def end(self) -> None:
        """End the notes of the batch."""
        self._open = None

    def forget(self) -> None:
        """Drop notes, since the loss is finite so far.

        Those of the first batch tell what is infinite and does no harm, such as the mask of an attention. The gradients
        of the last may yet spoil the next.
        """
        self._notes = [*self._notes[:1], *self._notes[1:][-1:]]
        for notes in self._notes:
            notes.ended_well = True

    def remove(self) -> None:
        """Leave nothing on the net."""
        for handle in self._handles:
            handle.remove()

    def explain(self, epoch: int, batch: int | None) -> str:
        """Say what is the first that is not finite.

        Args:
            epoch: The present epoch, from 0.
            batch: The batch, from 0, whose loss is not finite; None where it is one of several.
        """
        harmless: set[str] = set()
        for notes, following in zip(self._notes, [*self._notes[1:], None], strict=True):
            is_last = following is None
            suspects = {what: text for what, text in _suspects(notes) if what not in harmless}
            spoiled = _last_bad(notes.gradients)
            if spoiled and following and not _last_bad(following.weights) and (notes.ended_well or not suspects):
                spoiled = None  # the step was left out, as a scaler of gradients does
            if spoiled is None and not is_last and (notes.ended_well or any(notes.gradients.values())):
                harmless.update(suspects)
            elif suspects or spoiled or is_last:
                break
        text = next(iter(suspects.values()), "") or _behind_the_net(notes, spoiled, is_last=is_last)
        return _place(notes, epoch, batch) + text

    def _hook(self, name: str, module: nn.Module) -> Callable[[nn.Module, Any, Any, Any], None]:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        own = [names[id(parameter)] for parameter in module.parameters(recurse=False)]
        is_leaf = next(module.children(), None) is None
        who = f"{repr(name) if name else 'the net'} ({type(module).__name__})"

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._open is not None:
                inputs = _extremes((args, kwargs)) if is_leaf else None
                self._open.calls.append(Call(who, own, inputs, _extremes(output)))

        return note


def parts(batch: Batch) -> dict[str, Any]:
    """Return what a batch holds, by what messages call it."""
    return {"inputs": batch.x, "targets": batch.y, "sample weights": batch.weight}


_UNKNOWN = "where it begins is not known, since nothing looks into a net that is compiled"


def _modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what can have a hook, with its name; each module once."""
    closed: list[str] = []
    for name, part in module.named_modules():
        if any(name.startswith(prefix) for prefix in closed):
            continue
        is_script = isinstance(part, torch.jit.ScriptModule)
        is_compiled = getattr(part, "_compiled_call_impl", None) is not None  # its hooks would be compiled with it
        if is_script or is_compiled or hasattr(part, "_orig_mod"):
            closed.append(f"{name}." if name else "")
        if not is_script and not is_compiled:
            yield name, part


def _extremes(tree: Any) -> Extremes:
    found: Extremes = []
    for tensor in tensors(tree):
        values = local(tensor).detach()
        if values.layout == torch.sparse_coo:
            values = values.coalesce().values()
        if values.is_complex():
            values = torch.view_as_real(values)
        if values.numel() and values.dtype in _KNOWN and values.layout == torch.strided:
            found += torch.aminmax(values)  # one pass; isfinite() would make a tensor of its own first
    return found


def _bad(extremes: Extremes) -> str | None:
    """Return `"nan"` or `"inf"`; None where all is finite."""
    values = [float(value) for value in extremes]
    if any(math.isnan(value) for value in values):
        return "nan"
    return "inf" if any(math.isinf(value) for value in values) else None


def _last_bad(values: dict[str, Extremes]) -> str | None:
    """Return the last parameter whose gradient is not finite: the first that the backward pass came by."""
    return next((name for name in reversed(values) if _bad(values[name])), None)


def _suspects(notes: Notes) -> Iterator[tuple[str, str]]:
    """Yield what is not finite, in the order of events, and what to say of it."""
    for part, extremes in notes.data.items():
        bad = _bad(extremes)
        if bad:
            yield part, f"the {part} of the batch hold {bad}"
    times: Counter[str] = Counter()
    for call in notes.calls:
        times[call.who] += 1
        bad = _bad(call.outputs)
        if bad:
            which = "" if times[call.who] == 1 else f" at its call {times[call.who]}"
            kinds = {str(value.dtype).removeprefix("torch.") for value in call.outputs} - {"float32"}
            held = f"{bad} in {kinds.pop()}" if kinds else bad
            text = (
                f"the output of {call.who}{which} is the first that is not finite, it holds {held}; {_why(call, notes)}"
            )
            yield f"{call.who}{which}", text


def _why(call: Call, notes: Notes) -> str:
    if call.inputs is None:
        given = "the outputs of the modules in it are finite"
    else:
        bad = _bad(call.inputs)
        given = f"its input holds {bad} already, which forward makes before it" if bad else "its input is finite"
    weights = {name: _bad(notes.weights[name]) for name in call.parameters}
    held = [f"its {name!r} held {bad} before this batch" for name, bad in weights.items() if bad]
    return ", ".join([given, *(held or ["and so are its weights"] * bool(weights and given.endswith("finite")))])


def _behind_the_net(notes: Notes, spoiled: str | None, *, is_last: bool) -> str:
    if not notes.calls:
        return _UNKNOWN
    gradient = "" if spoiled is None else f"the gradient of {spoiled!r} is not ({_bad(notes.gradients[spoiled])})"
    if notes.ended_well:
        return f"all outputs and the loss are finite, but {gradient}"
    if is_last:
        return "all outputs of the net are finite, so it begins in the loss"
    return f"all outputs are finite, but the loss is not, or else {gradient}"


def _place(notes: Notes, epoch: int, batch: int | None) -> str:
    if notes.epoch == epoch:
        return "" if notes.batch == batch else f"in batch {notes.batch + 1}, "
    return f"in batch {notes.batch + 1} of epoch {notes.epoch + 1}, "
