"""What a metric costs per step, beside the same one of torchmetrics: CPU time of taking in one batch.

    python -m benchmarks.metrics

Batches of 32 samples, by default of 10 classes, on one thread of the CPU; `--classes 1000` for many. torchmetrics runs
with validate_args=False. Both are taken in by a MetricSet, as in `fit`; the median over the rounds is shown. On a GPU
there is more to it: the counts of torchmetrics wait for the device at each step, those here do not.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch
import torchmetrics
from torchmetrics import classification

import kerastorch.metrics as km
from kerastorch.data import Batch

SAMPLES = 32


def by_class(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SAMPLES, classes), torch.randint(classes, (SAMPLES,))


def by_element(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SAMPLES, *shape), torch.randint(2, (SAMPLES, *shape))


def rows(classes: int):
    """Yield the name of each metric, ours, that of torchmetrics, output and target."""
    plain = {"validate_args": False}
    labels, several = {"num_classes": classes, **plain}, {"num_labels": classes, **plain}
    micro = classification.MulticlassAccuracy(average="micro", **labels)
    yield "accuracy", km.Accuracy(classes=True), micro, *by_class(classes)
    yield "precision", km.Precision(), classification.MulticlassPrecision(**labels), *by_class(classes)
    yield "F1", km.F1(), classification.MulticlassF1Score(**labels), *by_class(classes)
    yield "F1, ignoring", km.F1(ignore_index=-100), classification.MulticlassF1Score(**labels), *by_class(classes)
    yield "IoU", km.IoU(), classification.MulticlassJaccardIndex(**labels), *by_class(classes)
    matrix = classification.MulticlassConfusionMatrix(**labels)
    yield "confusion matrix", km.ConfusionMatrix(), matrix, *by_class(classes)
    yield "F1, one label", km.F1(threshold=0.0), classification.BinaryF1Score(**plain), *by_element()
    yield "F1, labels", km.F1(threshold=0.0), classification.MultilabelF1Score(**several), *by_element(classes)
    output, target = torch.randn(2, SAMPLES)
    yield "MAE", km.MeanAbsoluteError(), torchmetrics.MeanAbsoluteError(), output, target
    yield "MSE", km.MeanSquaredError(), torchmetrics.MeanSquaredError(), output, target
    yield "R2", km.R2(), torchmetrics.R2Score(), output, target
    yield "AUROC", km.AUROC(), classification.MulticlassAUROC(**labels), *by_class(classes)
    yield "perplexity", km.Perplexity(), torchmetrics.text.Perplexity(), *by_token(classes)


def by_token(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SAMPLES, 1, classes), torch.randint(classes, (SAMPLES, 1))


def microseconds(metric: km.Metric, output: torch.Tensor, target: torch.Tensor, steps: int) -> float:
    metrics, batch = km.MetricSet({"metric": metric}), Batch(0, None, target, size=SAMPLES)
    started = time.process_time()
    for _ in range(steps):
        metrics.update((), output, batch)
    return (time.process_time() - started) / steps * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}, Python {platform.python_version()}"
    print(f"{versions}; {SAMPLES} samples, {arguments.classes} classes; us per step, median of {arguments.rounds}")
    print(f"{'':20} {'kerastorch':>10} {'torchmetrics':>12} {'ratio':>6}")
    for name, ours, theirs, output, target in rows(arguments.classes):
        both = ours, km.TorchMetric(theirs, name)
        rounds = [
            [microseconds(each, output, target, arguments.steps) for each in both] for _ in range(arguments.rounds)
        ]
        mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:20} {mine:10.1f} {other:12.1f} {mine / other:6.2f}")


if __name__ == "__main__":
    main()
