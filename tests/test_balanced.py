"""Weights of classes on real, imbalanced data."""

import pytest
import torch
import torchvision
from torch import nn

import kerastorch as kt

RARE, KEPT = 8, 30  # the digit that is made rare, and how many of it are left to train on


def digits(folder, *, train):
    data = torchvision.datasets.MNIST(folder, train=train, download=False)
    x, y = data.data.float().div(255).flatten(1), data.targets
    if not train:
        return x, y
    x, y = x[:10_000], y[:10_000]
    rare = (y == RARE).nonzero()[:, 0]
    kept = torch.ones(len(y), dtype=torch.bool)
    kept[rare[KEPT:]] = False
    return x[kept], y[kept]


def recall(folder, seed, **options):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    model = kt.Model(net)
    recalls = kt.metrics.Recall(average=None, on="val")
    model.compile(
        "cross_entropy", torch.optim.Adam(net.parameters(), 1e-3), {"accuracy": "accuracy", "recall": recalls}
    )
    model.fit(3, digits(folder, train=True), batch_size=64, verbose=0, **options)
    values = model.evaluate(digits(folder, train=False), batch_size=1000)
    return values["recall"][RARE].item(), values["accuracy"]


@pytest.mark.parametrize("seed", [0, 1])
def test_balanced_weights_raise_the_recall_of_a_rare_class(real_data, seed):
    plain, _ = recall(real_data, seed)
    balanced, accuracy = recall(real_data, seed, class_weight="balanced")
    assert balanced > plain + 0.2
    assert accuracy > 0.85
