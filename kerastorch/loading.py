"""A model from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from kerastorch.errors import ExportError
from kerastorch.export.programs import SUFFIXES, program_in
from kerastorch.model import Model


def load_model(path: str | Path, net: nn.Module | Callable[[], nn.Module] | None = None) -> Model:
    """Return a model with the weights, classes and form of inputs that are in a file.

    Files of weights hold no code, so the net comes from you, and no code in them is run. An exported file (`.onnx`,
    `.pt2`) is a net of its own, which predicts and evaluates, but is not trained; a `.pt2` file is read by
    `torch.export.load`, which may run code: load only what you trust.

    Example:
        >>> model = kt.load_model("cifar10.pt", Cnn())
        >>> model.classes[int(model.predict_on_batch(image[None]).argmax())]

    Args:
        path: A file of `model.save`, `save_weights`, `ModelCheckpoint`, `BackupAndRestore` (also the directory that
            they write under FSDP), or `model.export`.
        net: The net of weights, or a class or function that makes it. Not for an exported file.

    Raises:
        FileNotFoundError: There is no file.
        CheckpointError: It is damaged or belongs to another net.
        ExportError: The exported file cannot be read here.
        TypeError: `net` is missing, is none, or was given for an exported file.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() in SUFFIXES:
        return _program(path, net)
    made: Any = net if isinstance(net, nn.Module) or not callable(net) else net()
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"{path.name} holds weights and not the net; got net={net!r}. Type kt.load_model({str(path)!r}, Net()). "
            "model.export writes files that hold the net as well."
        )
    model = made if isinstance(made, Model) else Model(made)
    model.load_weights(path)
    return model


def _program(path: Path, net: Any) -> Model:
    if net is not None:
        raise TypeError(f"{path.name} holds its net. Type kt.load_model({str(path)!r}).")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        program = program_in(path.suffix, path.read_bytes())
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error.__cause__
    model = Model(program)
    model._facts.learn(program.told)
    model.eval()
    return model
