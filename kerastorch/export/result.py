"""What an export tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tensors:
    """One input or output of a program.

    Attributes:
        name: What it is called in the file.
        dtype: Its dtype, such as `"float32"`.
        shape: Its sizes; a name, such as `"batch"`, where any size will do.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))}{',' if len(self.shape) == 1 else ''})"


@dataclass(frozen=True)
class Exported:
    """A file that `model.export` wrote, and how far it was found to be from the net; printed, it is a line of text.

    Attributes:
        path: The file.
        inputs: What the program takes.
        outputs: What it gives.
        samples: How many of the given samples the program and the net were compared on.
        largest_difference: The largest absolute difference between an output of the program and one of the net.
        on_given: The largest on the given samples; None where there were none.
        on_random: The largest on inputs that were made up, with batches of 1, 2 and 7.
        notes: What to know besides.
    """

    path: Path
    inputs: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]
    samples: int
    largest_difference: float
    on_given: float | None
    on_random: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        given = "" if self.on_given is None else f"{_number(self.on_given)} on {self.samples} given samples, "
        form = f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"
        end = "ones" if given else "inputs"
        differs = f"largest difference to the net: {given}{_number(self.on_random)} on random {end}"
        return " ".join([f"{self.path.name}: {form}; {differs}.", *self.notes])


def _number(value: float) -> str:
    return f"{value:.1e}" if value else "0"
