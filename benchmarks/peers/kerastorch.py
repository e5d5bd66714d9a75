"""kerastorch, from the working tree."""

from __future__ import annotations

import torch
from torch import nn

import kerastorch as kt
from benchmarks.workloads import LEARNING_RATE, Job, Work


def prepare(work: Work, *, by_name: bool = True, **options: object) -> Job:
    model = kt.Model(work.net)
    optimizer = "adam" if by_name else torch.optim.Adam(work.net.parameters(), lr=LEARNING_RATE)
    model.compile(nn.CrossEntropyLoss(), optimizer, ["accuracy"], "cpu", **options)
    size, verbose = work.batch_size, "auto" if work.bar else 0
    runs = {
        "steps": lambda: model.fit(1, work.batches, verbose=verbose),
        "epoch": lambda: model.fit(1, work.data, batch_size=size, verbose=verbose),
        "evaluate": lambda: model.evaluate(work.data, batch_size=size),
        "predict": lambda: model.predict(work.data, batch_size=size),
    }
    return Job(runs[work.kind], model.module)
