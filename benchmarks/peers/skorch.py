"""skorch: `NeuralNetClassifier`, without the split for validation that it makes by default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
from torch import nn

from benchmarks.workloads import LEARNING_RATE, Job, Work


def ready(dataset: object, batches: Iterable[Any], **options: object) -> Iterable[Any]:
    """Return the batches in place of a DataLoader; skorch calls it with the dataset."""
    return batches


def prepare(work: Work) -> Job:
    ready_batches = {"iterator_train": ready, "iterator_train__batches": work.batches} if work.batches else {}
    model = NeuralNetClassifier(
        work.net,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=LEARNING_RATE,
        batch_size=work.batch_size,
        max_epochs=1,
        train_split=None,
        iterator_train__shuffle=True,
        callbacks=[EpochScoring("accuracy", name="accuracy", lower_is_better=False, on_train=True)],
        classes=list(range(10)),
        verbose=int(work.bar),
        **ready_batches,
    )
    model.initialize()  # keeps the module that it was given
    x, y = work.data or (torch.cat(parts) for parts in zip(*work.batches, strict=True))
    runs = {
        "steps": lambda: model.partial_fit(x, y),
        "epoch": lambda: model.partial_fit(x, y),
        "evaluate": lambda: {"accuracy": model.score(x, y)},
        "predict": lambda: model.predict_proba(x),
    }
    return Job(runs[work.kind], model.module_)
