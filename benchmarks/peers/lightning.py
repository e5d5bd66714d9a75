"""Lightning: loss and accuracy by `self.log`, averaged over the epoch; otherwise its defaults."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workloads import LEARNING_RATE, Job, Pair, Ready, Work

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Module(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def shared_step(self, batch: Pair) -> tuple[Tensor, Tensor]:
        x, y = batch
        output = self(x)
        return functional.cross_entropy(output, y), (output.argmax(1) == y).float().mean()

    def training_step(self, batch: Pair, index: int) -> Tensor:
        loss, accuracy = self.shared_step(batch)
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[0]))
        self.log("accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Pair, index: int) -> None:
        loss, accuracy = self.shared_step(batch)
        self.log("loss", loss, batch_size=len(batch[0]))
        self.log("accuracy", accuracy, batch_size=len(batch[0]))

    def predict_step(self, batch: Pair, index: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


def prepare(work: Work) -> Job:
    warnings.filterwarnings("ignore")  # on workers of the DataLoader; with data in memory they would only cost
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Module(work.net)
    options: dict[str, Any] = {} if work.bar else QUIET

    def trainer() -> Trainer:
        return Trainer(max_epochs=1, accelerator="cpu", devices=1, **options)

    shuffle = work.kind == "epoch"
    data = work.data and TensorDataset(*work.data)
    batches = DataLoader(data, work.batch_size, shuffle=shuffle) if data else Ready(work.batches)
    runs = {
        "steps": lambda: trainer().fit(module, batches),
        "epoch": lambda: trainer().fit(module, batches),
        "evaluate": lambda: trainer().validate(module, batches, verbose=False)[0],
        "predict": lambda: torch.cat(trainer().predict(module, batches)),
    }
    return Job(runs[work.kind], work.net)
