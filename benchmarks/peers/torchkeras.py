"""torchkeras 4: `KerasModel(net, loss_fn, metrics_dict, optimizer).fit(...)`, which saves the best weights as well."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchkeras import KerasModel

from benchmarks.workloads import LEARNING_RATE, Job, Ready, Work


def prepare(work: Work) -> Job:
    optimizer = torch.optim.Adam(work.net.parameters(), lr=LEARNING_RATE)
    accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)  # its own is for two classes
    shuffle = work.kind == "epoch"
    data = work.data and TensorDataset(*work.data)
    batches = DataLoader(data, work.batch_size, shuffle=shuffle) if data else Ready(work.batches)

    def model() -> KerasModel:
        return KerasModel(work.net, nn.CrossEntropyLoss(), {"accuracy": accuracy}, optimizer)

    def fit() -> object:  # a new model: a second fit of one begins with an epoch that does not train
        return model().fit(batches, epochs=1, monitor="train_loss", plot=False, cpu=True)

    def evaluate() -> dict[str, float]:
        found = model().evaluate(batches, quiet=not work.bar)
        return {"loss": found["val_loss"], "accuracy": found["val_accuracy"]}

    run = evaluate if work.kind == "evaluate" else fit
    return Job(run if work.bar else silenced(run), work.net)


def silenced(run: Callable[[], Any]) -> Callable[[], Any]:
    """Return what draws its bar where nobody sees it; there is no option against it."""

    def quiet() -> Any:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            return run()

    return quiet
