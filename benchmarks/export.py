"""How far exported programs are from their nets, on real images.

    KERASTORCH_DATA=... python -m benchmarks.export [PATH]

The nets of examples/mnist.py, examples/cifar10.py and torchvision's resnet34, each trained for 20 steps, exported to
ONNX and to `.pt2`, read again by `kt.load_model`, and compared with `predict` on 256 images of the test set. Give a
path to write the figures as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST, ImageFolder
from torchvision.models import resnet34
from torchvision.transforms import ToTensor

import kerastorch as kt

ROOT = Path(__file__).parent.parent
SAMPLES = 256
STEPS = 20


def mnist(data, train):
    return MNIST(data, train=train, transform=ToTensor())


def cifar10(data, train):
    return ImageFolder(data / "cifar10" / ("train" if train else "test"), transform=ToTensor())


def nets():
    """Return by name a net, and where its images are from."""
    sys.path.insert(0, str(ROOT / "examples"))
    from cifar10 import Cnn
    from mnist import CnnModel

    return {
        "MNIST CNN": (CnnModel, mnist),
        "CIFAR-10 CNN": (Cnn, cifar10),
        "resnet34": (lambda: resnet34(num_classes=10), cifar10),
    }


def images_of(dataset):
    """Return images from all over a dataset, since a folder is sorted by class."""
    rows = range(0, len(dataset), len(dataset) // SAMPLES)[:SAMPLES]
    return torch.stack([dataset[row][0] for row in rows])


def measure(name, make, dataset_of, data, folder):
    """Return the figures of one net."""
    torch.manual_seed(0)
    model = kt.Model(make())
    model.compile("cross_entropy", "adam", ["accuracy"])
    model.fit(1, DataLoader(dataset_of(data, True), 64, shuffle=True), steps_per_epoch=STEPS, verbose=0)
    images = images_of(dataset_of(data, False))
    wanted = model.predict(images)
    rows = []
    for suffix in (".onnx", ".pt2"):
        began = time.perf_counter()
        told = model.export(folder / f"net{suffix}", images)
        seconds = time.perf_counter() - began
        got = kt.load_model(told.path).predict(images)
        largest, scale = (got - wanted).abs().max().item(), wanted.abs().max().item()
        agree = int((got.argmax(1) == wanted.argmax(1)).sum())
        size = told.path.stat().st_size
        rows.append({"net": name, "file": suffix, "difference": largest, "scale": scale, "agree": agree, "bytes": size})
        print(f"{name:<14}{suffix:<7}{largest:>11.1e}{scale:>11.2f}{agree:>8}/{SAMPLES}{size:>13,}{seconds:>8.1f} s")
    return rows


def main():
    data = Path(os.environ["KERASTORCH_DATA"])
    print(f"{'net':<14}{'file':<7}{'difference':>11}{'outputs to':>11}{'same class':>12}{'bytes':>13}{'export':>10}")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name, parts in nets().items() for row in measure(name, *parts, data, Path(folder))]
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
