"""Keras 3 on its torch backend: layers of its own, which begin with the weights of the net of torch."""

from __future__ import annotations

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.workloads import LEARNING_RATE, Job, Pair, Work


def prepare(work: Work) -> Job:
    images = isinstance(work.net[0], nn.Conv2d)
    model = cnn() if images else mlp(work.net[0].in_features, work.net[0].out_features)
    copy_weights(work.net, model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss, metrics=metrics)
    size, verbose = work.batch_size, "auto" if work.bar else 0
    # batch_size=None: hand on the batches, which are ready
    ready = DataLoader([channels_last(pair) for pair in work.batches], batch_size=None) if work.batches else None
    x, y = (part.numpy() for part in work.data) if work.data else (None, None)
    runs: dict[str, Any] = {
        "steps": lambda: model.fit(ready, verbose=verbose),
        "epoch": lambda: model.fit(x, y, batch_size=size, verbose=verbose),
        "evaluate": lambda: model.evaluate(x, y, batch_size=size, verbose=verbose, return_dict=True),
        "predict": lambda: model.predict(x, batch_size=size, verbose=verbose),
    }
    return Job(runs[work.kind], lambda x: forward(model, x))


def forward(model: keras.Model, x: Tensor) -> Tensor:
    return model(channels_last((x, x))[0], training=False)


def channels_last(pair: Pair) -> Pair:
    x, y = pair
    return (x.permute(0, 2, 3, 1).contiguous() if x.dim() == 4 else x), y


def mlp(inputs: int, hidden: int) -> keras.Model:
    layers = keras.layers
    return keras.Sequential([layers.Input((inputs,)), layers.Dense(hidden, "relu"), layers.Dense(10)])


def cnn() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, 3),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5),
            layers.MaxPooling2D(2),
            layers.SpatialDropout2D(0.1),
            layers.GlobalMaxPooling2D(),
            layers.Dense(32, "relu"),
            layers.Dense(10),
        ]
    )


def copy_weights(net: nn.Module, model: keras.Model) -> None:
    model.set_weights([turned(tensor.detach()) for tensor in net.state_dict().values()])


def turned(tensor: Tensor) -> np.ndarray:
    """Return a weight of torch in the layout of Keras: outputs last."""
    orders = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    return torch.permute(tensor, orders[tensor.dim()]).numpy()
