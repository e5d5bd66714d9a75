"""Accelerate: the tutorials' loop, prepared by it."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workloads import LEARNING_RATE, Job, Work


def prepare(work: Work) -> Job:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.Adam(work.net.parameters(), lr=LEARNING_RATE)
    shuffle = work.kind == "epoch"
    batches = work.batches or DataLoader(TensorDataset(*work.data), work.batch_size, shuffle=shuffle)
    net, optimizer, batches = accelerator.prepare(work.net, optimizer, batches)
    loss_function = nn.CrossEntropyLoss()

    def epoch() -> None:
        net.train()
        loss_sum, accuracy_sum = 0.0, 0.0
        for x, y in batches:
            optimizer.zero_grad()
            output = net(x)
            loss = loss_function(output, y)
            accelerator.backward(loss)
            optimizer.step()
            loss_sum += loss.item()
            accuracy_sum += (output.argmax(1) == y).float().mean().item()

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        net.eval()
        loss_sum, right, count = 0.0, 0, 0
        for x, y in batches:
            output = net(x)
            loss_sum += loss_function(output, y).item() * len(x)
            right += (output.argmax(1) == y).sum().item()
            count += len(x)
        return {"loss": loss_sum / count, "accuracy": right / count}

    @torch.no_grad()
    def predict() -> Tensor:
        net.eval()
        return torch.cat([net(x) for x, _ in batches])

    return Job({"evaluate": evaluate, "predict": predict}.get(work.kind, epoch), work.net)
