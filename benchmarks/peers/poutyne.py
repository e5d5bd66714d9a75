"""Poutyne: `Model(net, optimizer, loss, batch_metrics)`."""

from __future__ import annotations

import torch
from poutyne import Model
from torch import nn

from benchmarks.workloads import LEARNING_RATE, Job, Work


def prepare(work: Work) -> Job:
    optimizer = torch.optim.Adam(work.net.parameters(), lr=LEARNING_RATE)
    model = Model(work.net, optimizer, nn.CrossEntropyLoss(), batch_metrics=["accuracy"], device="cpu")
    size, verbose = work.batch_size, work.bar

    def evaluate() -> dict[str, float]:
        found = model.evaluate(*work.data, batch_size=size, verbose=verbose, return_dict_format=True)
        return {"loss": found["test_loss"], "accuracy": found["test_acc"] / 100}

    runs = {
        "steps": lambda: model.fit_generator(work.batches, epochs=1, verbose=verbose),
        "epoch": lambda: model.fit(*work.data, batch_size=size, epochs=1, verbose=verbose),
        "evaluate": evaluate,
        "predict": lambda: model.predict(work.data[0], batch_size=size, verbose=verbose),
    }
    return Job(runs[work.kind], work.net)
