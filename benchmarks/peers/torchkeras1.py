"""torchkeras 1.5 of 2020: `compile(loss_func, optimizer, metrics_dict)` and `fit(epochs, dl_train)`.

It goes by the same name as torchkeras 4; `--torchkeras1` says in which folder it lies.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchkeras import Model

from benchmarks.workloads import LEARNING_RATE, Job, Work


def accuracy(y_pred: Tensor, y_true: Tensor) -> Tensor:
    return (y_pred.argmax(1) == y_true).float().mean()


def prepare(work: Work) -> Job:
    model = Model(work.net)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model.compile(nn.CrossEntropyLoss(), optimizer, {"accuracy": accuracy})
    shuffle = work.kind == "epoch"
    batches = work.batches or DataLoader(TensorDataset(*work.data), work.batch_size, shuffle=shuffle)

    def fit() -> None:
        if work.bar:
            model.fit(1, batches)
            return
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            model.fit(1, batches, log_step_freq=10**9)

    def evaluate() -> dict[str, float]:
        found = model.evaluate(batches)
        return {"loss": found["val_loss"], "accuracy": found["val_accuracy"]}

    runs = {"evaluate": evaluate, "predict": lambda: model.predict(batches)}
    return Job(runs.get(work.kind, fit), work.net)
