"""The rows of the comparison; a module each, whose `prepare(work)` returns a `Job` as a framework's users write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALL = ("step", "bar", "cnn", "epoch", "evaluate", "predict", "process")
BY_HAND = ("step", "cnn", "epoch", "evaluate", "predict", "process")  # a loop has no bar


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        key: What the command line and the JSON call it.
        title: What the table calls it.
        module: The module in `benchmarks.peers`.
        distribution: The package whose version is reported.
        workloads: What it can do; the rest stays empty.
        options: More arguments for `prepare`.
        note: What to know when reading its figures.
    """

    key: str
    title: str
    module: str
    distribution: str = "torch"
    workloads: Sequence[str] = ALL
    options: Mapping[str, object] = field(default_factory=dict)
    note: str = ""


OURS = (
    Row(
        "optimised",
        "optimised eager loop",
        "by_hand",
        options={"tuned": True},
        note="It has no bar; the column is there to compare with.",
    ),
    Row("tutorials", "the tutorials' loop", "by_hand", workloads=BY_HAND, options={"tuned": False}),
    Row("kerastorch", "kerastorch", "kerastorch", "kerastorch"),
    Row(
        "kerastorch-object",
        "kerastorch, torch.optim.Adam(...)",
        "kerastorch",
        "kerastorch",
        ("step", "bar", "cnn", "epoch"),
        {"by_name": False},
        "An optimizer as the user made it: not fused.",
    ),
    Row(
        "kerastorch-jit",
        "kerastorch, jit_compile=True",
        "kerastorch",
        "kerastorch",
        ("step", "bar", "epoch"),
        {"jit_compile": True},
    ),
    Row(
        "kerastorch-channels-last",
        "kerastorch, channels_last=True",
        "kerastorch",
        "kerastorch",
        ("cnn",),
        {"channels_last": True},
    ),
    Row(
        "kerastorch-bf16",
        'kerastorch, channels_last=True, precision="bf16-mixed"',
        "kerastorch",
        "kerastorch",
        ("cnn",),
        {"channels_last": True, "precision": "bf16-mixed"},
    ),
)
REFERENCE = OURS[0]

PEERS = (
    Row("keras", "Keras 3 (torch)", "keras", "keras", note="Images as NHWC, its default."),
    Row("lightning", "Lightning", "lightning", "lightning"),
    Row("poutyne", "Poutyne", "poutyne", "Poutyne"),
    Row("skorch", "skorch", "skorch", "skorch", note="It evaluates accuracy alone; its bar is a line per epoch."),
    Row(
        "torchkeras",
        "torchkeras 4",
        "torchkeras",
        "torchkeras",
        ("step", "bar", "cnn", "epoch", "evaluate", "process"),
        note="No predict. Its bar cannot be switched off: in W1 to W3 it is drawn to a null file.",
    ),
    Row(
        "torchkeras1",
        "torchkeras 1.5",
        "torchkeras1",
        "torchkeras",
        note="Its bar is a line per step, the default log_step_freq=1.",
    ),
    Row("ignite", "Ignite", "ignite", "pytorch-ignite", note="Its bar is the ProgressBar handler."),
    Row("accelerate", "Accelerate, a loop by hand", "accelerate", "accelerate", BY_HAND),
    Row("fastai", "fastai", "fastai", "fastai"),
)
ROWS = {row.key: row for row in (*OURS, *PEERS)}


def chosen(names: str) -> list[Row]:
    """Return the rows for `--peers`: ours, and those named with commas between; none for "none", all for "all".

    Raises:
        ValueError: A name is unknown.
    """
    known = {row.key: row for row in PEERS}
    wanted = list(known) if names == "all" else [name for name in names.split(",") if name and name != "none"]
    for name in wanted:
        if name not in known:
            raise ValueError(f"Unknown peer {name!r}. There are {', '.join(known)}; all; and none.")
    return [*OURS, *(known[name] for name in wanted)]
