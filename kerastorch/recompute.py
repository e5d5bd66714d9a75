"""Parts of a net that are computed again in backward, so that their activations need not be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kerastorch import randomness
from kerastorch.errors import did_you_mean

Context = Callable[[], AbstractContextManager[None]]
Buffers = list[tuple[nn.Module, dict[str, Tensor]]]


@contextmanager
def recomputed(module: nn.Module, patterns: str | Iterable[str]) -> Iterator[None]:
    """In training, keep of some parts only what goes in, and compute the rest again in backward.

    Each part takes the time of one more forward pass, and the memory of one part at a time. Loss, gradients, buffers
    and random numbers are those of the plain net, bit for bit: BatchNorm counts each batch once, Dropout drops the same
    twice. Forward hooks inside a part are called twice. A part must not change its inputs in place, nor anything else
    but its buffers.

    Example:
        >>> with recomputed(net, "blocks.*"):  # each block by itself
        ...     net(x).sum().backward()

    Args:
        module: The net.
        patterns: Names of parts, in which `*` stands for any text, `?` for a character, `[34]` for one of several.
            What one matches is one part, with all that is in it: `"blocks.*"` is each block, not its layers again.

    Raises:
        ValueError: A pattern matches nothing.
        TypeError: A pattern is no text.
    """
    parts = units(module, patterns)
    before = [(part, vars(part).get("forward")) for part in parts]
    try:
        for part, own in before:
            if not isinstance(own, Recomputed):  # it is one of a call around this one
                vars(part)["forward"] = Recomputed(part, part.forward)
        yield
    finally:
        for part, own in before:
            if own is not None:
                vars(part)["forward"] = own
            elif isinstance(vars(part).get("forward"), Recomputed):
                del vars(part)["forward"]


def units(
    module: nn.Module, patterns: str | Iterable[str], argument: str = "gradient_checkpointing"
) -> list[nn.Module]:
    """Return the outermost modules that a pattern matches, each once; the argument is named in errors.

    Raises:
        ValueError: A pattern matches nothing.
        TypeError: A pattern is no text.
    """
    named = [(name, part) for name, part in module.named_modules(remove_duplicate=False) if name]
    callables = {name: part for name, part in named if type(part).forward is not nn.Module.forward}
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else list(patterns):
        if not isinstance(pattern, str):
            raise TypeError(f"{argument} is a name or a list of names: 'blocks.*'; got {pattern!r}.")
        found = [name for name in callables if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(_nothing(pattern, dict(named), callables, argument))
        chosen.update(found)
    outermost = [name for name in callables if name in chosen and chosen.isdisjoint(_above(name))]
    return list({id(callables[name]): callables[name] for name in outermost}.values())


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _nothing(pattern: str, named: dict[str, nn.Module], callables: Iterable[str], argument: str) -> str:
    holders = [name for name in named if fnmatchcase(name, pattern)]
    if holders:
        kind = type(named[holders[0]]).__name__
        return f"{pattern!r} is a {kind}, which holds layers but is not called itself. Type {holders[0] + '.*'!r}."
    top = list(dict.fromkeys(name.partition(".")[0] for name in named))
    there = f"The net has {', '.join(map(repr, top[:8]))}{f' and {len(top) - 8} more' if len(top) > 8 else ''}."
    if not top:
        there = "The net has no parts."
    below = {f"{above}.*" for name in callables for above in _above(name)}
    return f"{argument}={pattern!r} matches no layer.{did_you_mean(pattern, below | set(callables))} {there}"


class Recomputed:
    """The `forward` of one part, which is computed again in backward.

    It takes the place of the method, in the module itself: hooks cannot call a `forward` twice, and a module around it
    would change the names in the state_dict. So the part keeps its class, its names and its hooks. A copy or a pickle
    of the part has its plain `forward`.

    Args:
        module: The part.
        forward: What it does.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module = module
        self.__wrapped__ = forward  # `inspect.signature` looks here
        self._modes: list[tuple[nn.Module, bool]] | None = None
        self._changing: list[nn.Module] = []
        self._draws = False

    def __reduce__(self) -> Any:
        return _itself, (self.__wrapped__,)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Compute the outputs."""
        if not (self.module.training and torch.is_grad_enabled()):
            return self.__wrapped__(*inputs, **named)
        from torch.utils.checkpoint import checkpoint  # half a second in torch 2.6

        # `named` as an argument: of those by name torch does not see on which device they draw random numbers
        return checkpoint(self._run, named, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _run(self, named: dict[str, Any], *inputs: Any) -> Any:
        return self.__wrapped__(*inputs, **named)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        kept: list[Context] = []
        return self._first(kept), _Again(kept)

    @contextmanager
    def _first(self, kept: list[Context]) -> Iterator[None]:
        """Keep what the second time must find as the first did: buffers that change, and numbers outside of torch."""
        modes = [(part, part.training) for part in self.module.modules() if part._buffers]
        is_known = modes == self._modes
        buffers = _copies(self._changing if is_known else [part for part, _ in modes])
        before = [] if is_known else [_versions(part) for part, _ in modes]
        numbers = randomness.capture() if self._draws or not is_known else None
        yield
        if not is_known:  # the first time, or after a BatchNorm was frozen: find out, so that later steps keep no more
            changed = [_has_changed(*each) for each in zip(buffers, before, strict=True)]
            buffers = [each for each, has_changed in zip(buffers, changed, strict=True) if has_changed]
            self._modes, self._changing = modes, [part for part, _ in buffers]
            self._draws = numbers is not None and not _are_there_still(numbers)
        if buffers:
            kept.append(lambda: _with_buffers(buffers))
        if numbers is not None and self._draws:
            kept.append(lambda: _with_numbers(numbers))


class _Again(AbstractContextManager[None]):
    """The contexts of a part that is computed again; as often as backward is called."""

    def __init__(self, contexts: list[Context]) -> None:
        self._contexts = contexts
        self._stack = ExitStack()

    def __enter__(self) -> None:
        for context in self._contexts:
            self._stack.enter_context(context())

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()


def _itself(forward: Callable[..., Any]) -> Callable[..., Any]:
    return forward


def _copies(parts: Iterable[nn.Module]) -> Buffers:
    with torch.no_grad():
        return [(part, {name: buffer.clone() for name, buffer in _own(part)}) for part in parts]


def _own(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in part.named_buffers(recurse=False) if not is_lazy(buffer))


def _versions(part: nn.Module) -> list[tuple[Tensor, int]]:
    return [(buffer, 0 if buffer.is_inference() else buffer._version) for _, buffer in _own(part)]


def _has_changed(kept: tuple[nn.Module, dict[str, Tensor]], before: list[tuple[Tensor, int]]) -> bool:
    """Compare versions, since a value may happen to stay once, and values, since some kernels leave versions alone."""
    part, copies = kept
    now = _versions(part)
    if [(id(buffer), version) for buffer, version in now] != [(id(buffer), version) for buffer, version in before]:
        return True
    return any(not torch.equal(buffer, copies[name]) for name, buffer in _own(part))


def _are_there_still(numbers: dict[str, Any]) -> bool:
    now = randomness.capture()
    return all(randomness.same(numbers[source], now[source]) for source in ("python", "numpy"))


@contextmanager
def _with_buffers(buffers: Buffers) -> Iterator[None]:
    """Copies take the place of buffers: what is written into them is forgotten."""
    present = [(part, dict(part._buffers)) for part, _ in buffers]
    try:
        for part, copies in buffers:
            part._buffers.update({name: copy.clone() for name, copy in copies.items()})  # backward may come twice
        yield
    finally:
        for part, own in present:
            part._buffers.update(own)


@contextmanager
def _with_numbers(numbers: dict[str, Any]) -> Iterator[None]:
    with randomness.kept():
        randomness.restore(numbers)
        yield
