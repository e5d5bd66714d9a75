"""Ignite: a supervised trainer, with loss and accuracy of the epoch attached to it."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import ProgressBar
from ignite.metrics import Accuracy, Loss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workloads import LEARNING_RATE, Job, Work


def measured(engine: Engine, loss: nn.Module) -> Engine:
    Accuracy().attach(engine, "accuracy")
    Loss(loss).attach(engine, "loss")
    return engine


def prepare(work: Work) -> Job:
    loss = nn.CrossEntropyLoss()
    shuffle = work.kind == "epoch"
    batches = work.batches or DataLoader(TensorDataset(*work.data), work.batch_size, shuffle=shuffle)
    if work.kind == "evaluate":
        evaluator = measured(create_supervised_evaluator(work.net), loss)
        return Job(lambda: dict(evaluator.run(batches).metrics), work.net)
    if work.kind == "predict":
        return Job(lambda: predictions(work.net, batches), work.net)
    optimizer = torch.optim.Adam(work.net.parameters(), lr=LEARNING_RATE)
    # the metrics want the output beside the loss
    trainer = create_supervised_trainer(work.net, optimizer, loss, output_transform=lambda x, y, out, loss: (out, y))
    measured(trainer, loss)
    if work.bar:
        ProgressBar().attach(trainer)
    return Job(lambda: trainer.run(batches, max_epochs=1), work.net)


def predictions(net: nn.Module, batches: Any) -> Tensor:
    """Return the outputs as Ignite's users gather them: by an engine of their own."""
    outputs = []

    @torch.no_grad()
    def step(engine: Engine, batch: Any) -> None:
        outputs.append(net(batch[0]))

    net.eval()
    Engine(step).run(batches)
    return torch.cat(outputs)
