"""What fit, evaluate and predict read: the user's data for this net, and what is known of it beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from kerastorch import checks
from kerastorch.data import DataSource, NoData, adapt, class_weights, makes_own_batches, named_sets, split


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


def for_training(net: nn.Module, dl_train: Any, dl_val: Any, options: Options, *, epochs: int) -> Feed:
    """Return what `fit` reads in so many epochs.

    Raises:
        DataError: The data are empty, of an unknown form, or cannot be split.
        ValueError: Arguments do not fit together.
    """
    notes: list[str] = []
    train_rows = val_rows = None
    checks.one_validation(dl_val, options.validation_split, options.stratify)
    if options.validation_split is not None:
        arguments = {"stratify": options.stratify, "seed": options.seed, "name": "dl_train"}
        train_rows, val_rows = split(dl_train, options.validation_split, **arguments)
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
    )
    val_sets = _val_sets(net, dl_val, options, val_rows)
    checks.threads_fit()
    for source in (train, *val_sets.values()):
        checks.enough_data(source, epochs)
    by_class = None
    if options.class_weight is not None:
        by_class = class_weights(options.class_weight, dl_train, name="dl_train", rows=train_rows)
        shown = ", ".join(f"{label}: {weight:.4g}" for label, weight in enumerate(by_class[:20].tolist()))
        notes.append(f"Weights of the classes: {shown}{', ...' if len(by_class) > 20 else ''}.")
    return Feed(train, val_sets, by_class, notes)


def for_evaluation(net: nn.Module, data: Any, *, batch_size: int | None, steps: int | None) -> Feed:
    """Return what `evaluate` reads: one set, or several by name."""
    return Feed(val_sets=_sets(net, data, batch_size, steps=steps))


def for_prediction(net: nn.Module, data: Any, *, batch_size: int | None, steps: int | None) -> Feed:
    """Return what `predict` reads."""
    return Feed(val_sets={"": _in_order(net, data, name="dl", batch_size=batch_size, steps=steps)})


def _val_sets(net: nn.Module, dl_val: Any, options: Options, rows: Tensor | None) -> dict[str, DataSource]:
    if dl_val is None:
        return {}
    size = None if makes_own_batches(dl_val) else options.batch_size
    arguments: dict[str, Any] = {
        "steps": options.validation_steps,
        "heal_workers": options.heal_workers,
        "num_workers": options.num_workers,
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
) -> dict[str, DataSource]:
    sets = named_sets(data)
    arguments: dict[str, Any] = {"steps": steps, "heal_workers": heal_workers}
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
    return makes_own_batches(data) or isinstance(data, IterableDataset)


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
    )


def float_dtype(net: nn.Module) -> torch.dtype:
    """Return the one floating dtype of a net's parameters, else torch's default."""
    dtypes = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.get_default_dtype()


def to_numpy(leaf: Any) -> Any:
    """Turn a tensor on the CPU into an array; NumPy has no bfloat16, that becomes float32."""
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
