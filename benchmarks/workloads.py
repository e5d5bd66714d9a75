"""What is measured: nets, data, and what must have come out of the work.

Nets begin with the same weights and data are the same everywhere. The targets follow from the inputs, so that a loss
that falls tells that a framework has trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
LEARNING_RATE = 1e-3
CHECKED = 2048  # samples that the loss after training is computed on


@dataclass(frozen=True)
class Size:
    """How much is measured at a time."""

    steps: int  # of the small net, W1
    images: int  # steps of the CNN, W2
    rows: int  # in an epoch, W3
    held_out: int  # rows to evaluate and predict, W4


SIZES = {
    "full": Size(steps=2000, images=25, rows=60_000, held_out=10_000),
    "quick": Size(steps=300, images=3, rows=6_000, held_out=2_000),
    "tiny": Size(steps=100, images=1, rows=1_000, held_out=1_000),  # for tests
}


class Ready:
    """Batches that are ready, for frameworks that take a list for several loaders."""

    def __init__(self, batches: list[Pair]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@dataclass
class Work:
    """One workload, as a framework gets it.

    Attributes:
        kind: `"steps"`: one epoch over `batches`, which are ready; `"epoch"`: one over `data`, shuffled; `"evaluate"`
            and `"predict"`: `data` once, in order.
        net: What to train; to be trained in place, or its weights to be copied.
        bar: Whether to show what the framework shows by default.
    """

    kind: Literal["steps", "epoch", "evaluate", "predict"]
    net: nn.Module
    batch_size: int
    batches: list[Pair] = field(default_factory=list)
    data: Pair | None = None
    bar: bool = False

    def sample(self) -> Pair:
        """Return what the loss after training is computed on."""
        if self.data is not None:
            return self.data[0][:CHECKED], self.data[1][:CHECKED]
        few = self.batches[: max(1, CHECKED // self.batch_size)]
        return torch.cat([x for x, _ in few]), torch.cat([y for _, y in few])


@dataclass
class Job:
    """A framework ready to do a `Work`.

    Attributes:
        run: Does it once: trains on where the last run ended, or returns `{"loss": ...}`, `{"accuracy": ...}` or the
            outputs.
        forward: Gives the outputs of the net that was trained.
    """

    run: Callable[[], Any]
    forward: Callable[[Tensor], Any]


def mlp(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def cnn() -> nn.Module:
    """Return the net of the MNIST tutorials."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.1),
        nn.AdaptiveMaxPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def labelled(generator: torch.Generator, count: int, *shape: int) -> Pair:
    """Return random inputs, and targets that a linear net would give them."""
    x = torch.randn(count, *shape, generator=generator)
    teacher = torch.randn(math.prod(shape), 10, generator=generator)
    return x, (x.flatten(1) @ teacher).argmax(1)


def steps_of_mlp(size: Size) -> Work:
    x, y = labelled(torch.Generator().manual_seed(1), size.steps * 32, 32)
    return Work("steps", mlp(32, 32), 32, list(zip(x.split(32), y.split(32), strict=True)))


def steps_with_bar(size: Size) -> Work:
    work = steps_of_mlp(size)
    work.bar = True
    return work


def steps_of_cnn(size: Size) -> Work:
    x, y = labelled(torch.Generator().manual_seed(1), size.images * 128, 1, 28, 28)
    return Work("steps", cnn(), 128, list(zip(x.split(128), y.split(128), strict=True)))


def epoch(size: Size) -> Work:
    return Work("epoch", mlp(784, 128), 128, data=labelled(torch.Generator().manual_seed(1), size.rows, 784))


def evaluation(size: Size) -> Work:
    return Work("evaluate", mlp(784, 128), 128, data=labelled(torch.Generator().manual_seed(1), size.held_out, 784))


def prediction(size: Size) -> Work:
    work = evaluation(size)
    work.kind = "predict"
    return work


MAKERS = {
    "step": steps_of_mlp,
    "bar": steps_with_bar,
    "cnn": steps_of_cnn,
    "epoch": epoch,
    "evaluate": evaluation,
    "predict": prediction,
}


def make(name: str, size: Size) -> Work:
    """Return the workload of that name, its net with the weights it always begins with."""
    torch.manual_seed(0)
    return MAKERS[name](size)


def units(name: str, size: Size) -> float:
    """Return how many of what is reported a run does: steps, or whole runs."""
    return {"step": size.steps, "bar": size.steps, "cnn": size.images}.get(name, 1)


@torch.no_grad()
def outcome(work: Work, forward: Callable[[Tensor], Any], result: Any) -> dict[str, float]:
    """Return what tells whether the work was done: the loss after training, or what evaluation and prediction found."""
    if work.kind == "evaluate":
        return {name: float(value) for name, value in result.items()}
    if work.kind == "predict":
        return {"accuracy": (torch.as_tensor(result).argmax(1) == work.data[1]).float().mean().item()}
    modes = [(module, module.training) for module in work.net.modules()]
    work.net.eval()
    x, y = work.sample()
    loss = functional.cross_entropy(forward(x).float(), y).item()
    for module, mode in modes:
        module.training = mode
    return {"loss": loss}


def fault(before: Mapping[str, float], reference: Mapping[str, float], found: Mapping[str, float]) -> str:
    """Return what is wrong with an outcome, next to that of the reference; nothing if it is right.

    Frameworks draw other orders and other dropout masks. So the loss after training may differ from the reference's by
    three tenths of what that has fallen; what is evaluated and predicted, by a hundredth: some average
    over batches, whatever their size.
    """
    for name, value in found.items():
        wanted = reference[name]
        fallen = before.get(name, wanted) - wanted
        tolerance = 0.3 * abs(fallen) if fallen else 0.01 * max(wanted, 1)
        if not math.isfinite(value) or abs(value - wanted) > tolerance:
            return f"{name} is {value:.4f}, where the reference has {wanted:.4f}"
    return "" if found else "no result"
