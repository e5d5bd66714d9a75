"""What fit, evaluate and predict read: the user's data for this net, and what is known of it beforehand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from kerastorch import checks
from kerastorch.data import (
    DataSource,
    NoData,
    Sharded,
    Share,
    adapt,
    class_weights,
    makes_own_batches,
    named_sets,
    split,
)
from kerastorch.data.sharded import bare

_ALONE = Share()


@dataclass(frozen=True)
class Feed:
    """Data of one call.

    Attributes:
        train: What is trained on.
        val_sets: What is evaluated or predicted, each with what its values are named after.
        by_class: Weight of each class `(C,)` in the training loss, or None.
        notes: What to tell the user about it.
    """

    train: DataSource = field(default_factory=NoData)
    val_sets: dict[str, DataSource] = field(default_factory=dict)
    by_class: Tensor | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """The arguments of `fit` that say how data are read; they are described there."""

    batch_size: Any  # int | None, or "auto" as long as none was found
    shuffle: bool | None
    drop_last: bool
    seed: int | None
    steps_per_epoch: int | None
    validation_steps: int | None
    validation_split: float | None
    stratify: Any
    class_weight: Any
    heal_workers: int = 0
    num_workers: Any = None  # int | "auto" | None
    global_batch_size: int | None = None


def for_training(
    net: nn.Module, dl_train: Any, dl_val: Any, options: Options, *, epochs: int, share: Share = _ALONE
) -> Feed:
    """Return what `fit` reads in so many epochs.

    Args:
        net: What is trained.
        dl_train: The user's data to train on.
        dl_val: The user's data to validate on.
        options: How they are read.
        epochs: How many.
        share: The part that this process has; where there are several, all of them call this at once.

    Raises:
        DataError: The data are empty, of an unknown form, or cannot be split.
        ValueError: Arguments do not fit together.
    """
    options = _per_process(options, dl_train, share)
    notes: list[str] = []
    train_rows = val_rows = None
    checks.one_validation(dl_val, options.validation_split, options.stratify)
    if options.validation_split is not None:
        arguments = {"stratify": options.stratify, "seed": options.seed, "name": "dl_train"}
        train_rows, val_rows = split(bare(dl_train), options.validation_split, **arguments)
        notes.append(f"{len(train_rows)} samples of dl_train to train on, {len(val_rows)} to validate on.")
        dl_val = dl_train
    train = adapt(
        dl_train,
        name="dl_train",
        float_dtype=float_dtype(net),
        batch_size=options.batch_size,
        shuffle=options.shuffle,
        drop_last=options.drop_last,
        seed=options.seed,
        steps=options.steps_per_epoch,
        rows=train_rows,
        training=True,
        heal_workers=options.heal_workers,
        num_workers=options.num_workers,
        share=share,
    )
    val_sets = _val_sets(net, dl_val, options, val_rows, share)
    checks.threads_fit()
    for source in (train, *val_sets.values()):
        checks.enough_data(source, epochs)
    by_class = None
    if options.class_weight is not None:
        _refuse_own(dl_train, share)
        by_class = class_weights(options.class_weight, bare(dl_train), name="dl_train", rows=train_rows)
        shown = ", ".join(f"{label}: {weight:.4g}" for label, weight in enumerate(by_class[:20].tolist()))
        notes.append(f"Weights of the classes: {shown}{', ...' if len(by_class) > 20 else ''}.")
    return Feed(train, val_sets, by_class, notes + _notes([train, *val_sets.values()]))


def for_evaluation(
    net: nn.Module, data: Any, *, batch_size: int | None, steps: int | None, share: Share = _ALONE
) -> Feed:
    """Return what `evaluate` reads: one set, or several by name."""
    sets = _sets(net, data, batch_size, steps=steps, share=share)
    return Feed(val_sets=sets, notes=_notes([*sets.values()]))


def for_prediction(
    net: nn.Module, data: Any, *, batch_size: int | None, steps: int | None, share: Share = _ALONE
) -> Feed:
    """Return what `predict` reads."""
    source = _in_order(net, data, name="dl", batch_size=batch_size, steps=steps, share=share)
    return Feed(val_sets={"": source}, notes=_notes([source]))


def _per_process(options: Options, dl_train: Any, share: Share) -> Options:
    """Let each process have its part of `global_batch_size`."""
    size = options.global_batch_size
    if size is None:
        return options
    if options.batch_size is not None:
        raise ValueError(
            f"batch_size={options.batch_size!r} is per process, and global_batch_size={size!r} is over all of them. "
            "Give one of them."
        )
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"global_batch_size is a number, at least 1; got {size!r}.")
    if makes_own_batches(dl_train):
        raise ValueError(
            f"global_batch_size was given, but dl_train is a {type(bare(dl_train)).__name__}, which makes its own "
            "batches. Leave global_batch_size out, or pass a Dataset or tensors."
        )
    if size % share.size:
        below = size - size % share.size
        fitting = f"{below} or {below + share.size}" if below else f"{share.size}"
        raise ValueError(
            f"global_batch_size={size} cannot be shared out evenly among {share.size} processes. Type {fitting}."
        )
    return dataclasses.replace(options, batch_size=int(size) // share.size, global_batch_size=None)


def _refuse_own(dl_train: Any, share: Share) -> None:
    if share.size > 1 and isinstance(dl_train, Sharded):
        raise ValueError(
            "class_weight cannot be counted where each process has its own share of dl_train, kt.Sharded. Count the "
            "labels of all, and pass the weights to the loss: nn.CrossEntropyLoss(weight=...)."
        )


def _notes(sources: list[DataSource]) -> list[str]:
    replaced = [source for source in sources if source.replaces is not None]
    if not replaced:
        return []
    names = " and ".join(source.name for source in replaced)
    return [
        f"The {replaced[0].replaces} of {names} would give some samples twice; in its place all samples, in its order, "
        "are shared out among the processes."
    ]


def _val_sets(
    net: nn.Module, dl_val: Any, options: Options, rows: Tensor | None, share: Share
) -> dict[str, DataSource]:
    if dl_val is None:
        return {}
    size = None if makes_own_batches(dl_val) else options.batch_size
    arguments: dict[str, Any] = {
        "steps": options.validation_steps,
        "heal_workers": options.heal_workers,
        "num_workers": options.num_workers,
        "share": share,
    }
    if rows is not None:
        return {"": _in_order(net, dl_val, name="dl_val", batch_size=size, rows=rows, **arguments)}
    return _sets(net, dl_val, size, **arguments)


def _sets(
    net: nn.Module,
    data: Any,
    batch_size: int | None,
    *,
    steps: int | None,
    heal_workers: int | None = None,
    num_workers: Any = None,
    share: Share = _ALONE,
) -> dict[str, DataSource]:
    sets = named_sets(data)
    arguments: dict[str, Any] = {"steps": steps, "heal_workers": heal_workers, "share": share}
    if sets is None:
        workers = None if _reads_itself(data) else num_workers
        return {"": _in_order(net, data, name="dl_val", batch_size=batch_size, num_workers=workers, **arguments)}
    found = {}
    for key, part in sets.items():
        size = None if makes_own_batches(part) else batch_size
        workers = None if _reads_itself(part) else num_workers
        name = f"dl_val[{key!r}]"
        found[f"{key}_"] = _in_order(net, part, name=name, batch_size=size, num_workers=workers, **arguments)
    return found


def _reads_itself(data: Any) -> bool:
    return makes_own_batches(data) or isinstance(bare(data), IterableDataset)


def _in_order(
    net: nn.Module,
    data: Any,
    *,
    name: str,
    batch_size: int | None,
    steps: int | None,
    rows: Tensor | None = None,
    heal_workers: int | None = None,
    num_workers: Any = None,
    share: Share = _ALONE,
) -> DataSource:
    return adapt(
        data,
        name=name,
        float_dtype=float_dtype(net),
        batch_size=batch_size,
        steps=steps,
        rows=rows,
        in_fit=heal_workers is not None,  # evaluate and predict by themselves know of none
        heal_workers=heal_workers or 0,
        num_workers=num_workers,
        share=share,
    )


def float_dtype(net: nn.Module) -> torch.dtype:
    """Return the one floating dtype of a net's parameters, else torch's default; a program says what it takes."""
    if getattr(net, "is_program", False):
        return net.float_dtype  # type: ignore[return-value]
    dtypes = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype()


def to_numpy(leaf: Any) -> Any:
    """Turn a tensor on the CPU into an array; NumPy has no bfloat16, that becomes float32."""
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
