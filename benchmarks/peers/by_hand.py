"""Loops without a framework: one that is written for speed, the reference, and the one that tutorials teach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workloads import LEARNING_RATE, Job, Pair, Work


def prepare(work: Work, *, tuned: bool) -> Job:
    makers = {"evaluate": evaluates, "predict": predicts} if tuned else {"evaluate": tests, "predict": infers}
    make = makers.get(work.kind, trains if tuned else teaches)
    return Job(make(work), work.net)


def shuffled(data: Pair, batch_size: int) -> Iterable[Pair]:
    """Yield the rows in a new order; index_select is the fastest way to gather them on a CPU."""
    x, y = data
    for rows in torch.randperm(len(x)).split(batch_size):
        yield x.index_select(0, rows), y.index_select(0, rows)


def in_order(work: Work) -> Iterable[Pair]:
    x, y = work.data
    return zip(x.split(work.batch_size), y.split(work.batch_size), strict=True)


def trains(work: Work) -> Callable[[], object]:
    """Return an epoch that is written for speed: fused Adam, sums that stay tensors, gradients dropped."""
    net, parameters = work.net, list(work.net.parameters())
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    step, cross_entropy = optimizer.step, functional.cross_entropy

    def epoch() -> tuple[float, float]:
        net.train()
        loss_sum, right, count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for x, y in work.batches or shuffled(work.data, work.batch_size):
            output = net(x)
            loss = cross_entropy(output, y)
            loss.backward()
            step()
            for parameter in parameters:
                parameter.grad = None
            loss_sum.add_(loss.detach(), alpha=len(x))
            right.add_((output.detach().argmax(1) == y).sum())
            count += len(x)
        return loss_sum.item() / count, right.item() / count

    return epoch


def evaluates(work: Work) -> Callable[[], dict[str, float]]:
    net = work.net

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        net.eval()
        loss_sum, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for x, y in in_order(work):
            output = net(x)
            loss_sum.add_(functional.cross_entropy(output, y, reduction="sum"))
            right.add_((output.argmax(1) == y).sum())
        rows = len(work.data[0])
        return {"loss": loss_sum.item() / rows, "accuracy": right.item() / rows}

    return evaluate


def predicts(work: Work) -> Callable[[], Tensor]:
    net = work.net

    @torch.inference_mode()
    def predict() -> Tensor:
        net.eval()
        x = work.data[0]
        outputs, start = torch.empty(len(x), 10), 0
        for rows in x.split(work.batch_size):
            outputs[start : start + len(rows)] = net(rows)
            start += len(rows)
        return outputs

    return predict


def loader(work: Work, *, shuffle: bool) -> Any:
    """Return the data as nearly every tutorial reads them; batches that are ready stay as they are."""
    return work.batches or DataLoader(TensorDataset(*work.data), work.batch_size, shuffle=shuffle)


def teaches(work: Work) -> Callable[[], object]:
    """Return an epoch as tutorials write it: plain Adam, a DataLoader, numbers read at each step."""
    net, loss_function = work.net, nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    batches = loader(work, shuffle=True)

    def epoch() -> tuple[float, float]:
        net.train()
        loss_sum, accuracy_sum = 0.0, 0.0
        for x, y in batches:
            optimizer.zero_grad()
            output = net(x)
            loss = loss_function(output, y)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            accuracy_sum += (output.argmax(1) == y).float().mean().item()
        return loss_sum / len(batches), accuracy_sum / len(batches)

    return epoch


def tests(work: Work) -> Callable[[], dict[str, float]]:
    net, loss_function, batches = work.net, nn.CrossEntropyLoss(), loader(work, shuffle=False)

    def evaluate() -> dict[str, float]:
        net.eval()
        loss_sum, right = 0.0, 0
        with torch.no_grad():
            for x, y in batches:
                output = net(x)
                loss_sum += loss_function(output, y).item() * len(x)
                right += (output.argmax(1) == y).sum().item()
        return {"loss": loss_sum / len(batches.dataset), "accuracy": right / len(batches.dataset)}

    return evaluate


def infers(work: Work) -> Callable[[], Tensor]:
    net, batches = work.net, loader(work, shuffle=False)

    def predict() -> Tensor:
        net.eval()
        with torch.no_grad():
            return torch.cat([net(x) for x, _ in batches])

    return predict
