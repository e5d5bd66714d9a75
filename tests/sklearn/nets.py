"""Nets in a module of their own, so that other processes find them."""

import torch
from torch import nn


class Net(nn.Sequential):
    """One hidden layer."""

    def __init__(self, n_features, n_outputs, width=32, dropout=0.0):
        super().__init__(nn.Linear(n_features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_outputs))
        self.width = width


class Images(nn.Sequential):
    """Convolutions; `n_features` are the channels."""

    def __init__(self, n_features, n_outputs):
        super().__init__(
            nn.Conv2d(n_features, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, n_outputs)
        )


class Flat(Net):
    """Gives one number per sample without a dimension for it."""

    def forward(self, x):
        return super().forward(x).squeeze(-1)


class Probability(Net):
    """Gives probabilities."""

    def forward(self, x):
        return super().forward(x).sigmoid()


class LogProbabilities(Net):
    """Gives logarithms of probabilities."""

    def forward(self, x):
        return super().forward(x).log_softmax(1)


class Words(nn.Module):
    """Takes whole numbers."""

    def __init__(self, n_outputs, words=10):
        super().__init__()
        self.table = nn.EmbeddingBag(words, n_outputs)

    def forward(self, x):
        return self.table(x)


def double(n_features, n_outputs):
    """Return a net in float64."""
    return Net(n_features, n_outputs).double()


def twice(n_features, n_outputs):
    """Return a net that gives two tensors."""

    class Twice(Net):
        def forward(self, x):
            return super().forward(x), torch.zeros(len(x))

    return Twice(n_features, n_outputs)
