"""The random numbers of Python, NumPy and torch, and the generators that objects hold: read, put back, seeded.

States are plain: numbers, strings, tuples and tensors. So a checkpoint can hold them, and loading it runs no code.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

if TYPE_CHECKING:  # NumPy imports its random numbers when they are first asked for
    Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

_TWISTER = 625  # words of a Mersenne twister: 624, and the place in them
_PARTS = ("sampler", "batch_sampler", "dataset", "datasets", "transform", "transforms", "target_transform")


def capture() -> dict[str, Any]:
    """Return where the generators of Python, NumPy and torch are, on the CPU and on every CUDA device in use.

    About 0.1 ms on the CPU, most of it NumPy's.
    """
    return {
        "python": _packed(random.getstate()),
        "numpy": _plain(np.random.get_state(legacy=False)),
        "torch": torch.default_generator.get_state(),
        "cuda": dict(enumerate(torch.cuda.get_rng_state_all())) if _has_cuda() else {},
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put back what `capture` returned; of devices, those that are there."""
    random.setstate(_unpacked(state["python"]))
    np.random.set_state(_arrays(state["numpy"]))
    torch.default_generator.set_state(state["torch"])
    for device, numbers in state["cuda"].items():
        if device < torch.cuda.device_count():
            torch.cuda.set_rng_state(numbers, device)


def _has_cuda() -> bool:
    return torch.cuda.is_initialized()  # type: ignore[no-untyped-call, no-any-return]


@contextmanager
def kept() -> Iterator[None]:
    """Whatever is drawn inside, the generators of Python, NumPy and torch come back as they were."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


def reseed(*numbers: int) -> None:
    """Begin anew, in Python, NumPy and torch on the CPU, from a few whole numbers.

    Any two lists of numbers have nothing in common. `torch.manual_seed` would take 75 times as long, since it goes
    through all devices.
    """
    text = repr([int(number) for number in numbers])
    digest = hashlib.sha256(text.encode(), usedforsecurity=False).digest()  # in a tenth of a SeedSequence's time
    words = np.frombuffer(digest, np.dtype("<u4"), 4, 8)
    random.seed(int.from_bytes(digest[:8], "little"))
    np.random.seed(words.astype(np.int64))  # it would make these itself, and look at them for longer
    torch.default_generator.manual_seed(int.from_bytes(digest[24:], "little"))


@contextmanager
def derived(*numbers: int) -> Iterator[None]:
    """Inside, the random numbers of the CPU are those of `reseed(*numbers)`; afterwards all is as it was."""
    python, torchs, put_numpy_back = random.getstate(), torch.default_generator.get_state(), _lift_numpy()
    try:
        reseed(*numbers)
        yield
    finally:
        random.setstate(python)
        put_numpy_back()
        torch.default_generator.set_state(torchs)


def _lift_numpy() -> Callable[[], None]:
    """Return what puts NumPy's generator back where it is now. Until then it is anywhere: seed it first.

    `get_state` and `set_state` go through 624 words one by one, 0.1 ms together; here their memory is copied. What it
    does not hold, since normal numbers are drawn in pairs, is a second one that waits to be handed out: with one, a
    normal number is had without a draw.
    """
    words = _words_of_numpy()
    if words is None:
        state = np.random.get_state(legacy=False)
        return lambda: np.random.set_state(state)
    before = words.copy()
    normal = np.random.standard_normal()
    is_waiting = words.tobytes() == before.tobytes()

    def put_back() -> None:
        if is_waiting:
            np.random.set_state(("MT19937", before[:-1], int(before[-1]), 1, normal))
        else:
            np.random.seed(0)  # so none waits
            words[:] = before

    return put_back


def _words_of_numpy() -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    """Return the memory of NumPy's generator; None where that is not the one that is known."""
    bits = getattr(np.random, "get_bit_generator", object)()  # from NumPy 1.24 on
    if _memory["of"] is not bits:
        _memory.update(of=bits, words=_words_of(bits) if isinstance(bits, np.random.MT19937) else None)
    words: np.ndarray[Any, np.dtype[np.uint32]] | None = _memory["words"]
    return words


def _words_of(bits: np.random.MT19937) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
    words = np.ctypeslib.as_array((ctypes.c_uint32 * _TWISTER).from_address(bits.ctypes.state_address))
    state: Any = bits.state["state"]
    is_as_known = words.tolist() == [*state["key"].tolist(), state["pos"]]
    return words if is_as_known else None


_memory: dict[str, Any] = {"of": None, "words": None}  # `of` is held, so the memory stays there


def same(one: Any, other: Any) -> bool:
    """Whether two states are the same: nothing was drawn between two calls of `capture`."""
    if isinstance(one, Mapping):
        return all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, Tensor):
        return bool(np.array_equal(one.numpy(), other.numpy()))  # torch does little with uint32
    return bool(one == other)


def generators(root: Any) -> dict[str, Generator]:
    """Return the generators of a loader, a Dataset or anything else, and of what they read and change, by path.

    Generators of torch, NumPy and Python are found where they are attributes or in lists: in the object itself, in its
    samplers, in Datasets and in those that they wrap, in transforms. Each is named once: `"dataset.transform.rng"`.
    """
    found: dict[str, Generator] = {}
    parts, seen = [("", root)], {id(root)}
    for path, part in parts:  # which grows meanwhile
        for name, value in _attributes(part):
            is_part = name.partition(".")[0] in _PARTS or isinstance(value, (Dataset, Sampler))
            is_generator = _is_generator(value)
            if id(value) in seen or not (is_part or is_generator):
                continue
            seen.add(id(value))
            if is_generator:
                found[f"{path}{name}"] = value
            else:
                parts.append((f"{path}{name}.", value))
    return found


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    for name, value in list(getattr(part, "__dict__", {}).items()):
        if isinstance(value, (list, tuple)):
            yield from ((f"{name}.{place}", each) for place, each in enumerate(value))
        else:
            yield name, value


def _is_generator(value: Any) -> bool:
    return isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random))


def is_global(generator: Generator) -> bool:
    """Whether it is one of those that `capture` reads."""
    known = (torch.default_generator, random._inst, np.random.mtrand._rand)
    return any(generator is one for one in known)


def state_of(generator: Generator) -> Any:
    """Return where a generator is."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _packed(generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def set_state(generator: Generator, state: Any) -> None:
    """Put a generator where `state_of` found it, or one of the same kind."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_unpacked(state))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_arrays(state))
    else:
        generator.bit_generator.state = _arrays(state)


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return torch.from_numpy(state.copy()) if isinstance(state, np.ndarray) else state


def _arrays(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _arrays(value) for name, value in state.items()}
    return state.numpy() if isinstance(state, Tensor) else state


def _packed(state: Any) -> dict[str, Any]:
    """Hold the 625 words of Python's generator in one tensor, which is written much sooner."""
    version, words, gauss = state
    return {"version": version, "words": torch.tensor(words, device="cpu"), "gauss": gauss}


def _unpacked(state: Mapping[str, Any]) -> Any:
    return state["version"], tuple(state["words"].tolist()), state["gauss"]
