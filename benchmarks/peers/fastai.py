"""fastai: a `Learner` with its own Adam; training loss and accuracy come with its Recorder."""

from __future__ import annotations

import contextlib
from typing import Any

import fastai.callback.progress  # noqa: F401  what gives a Learner its bar, and no_bar
from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.workloads import LEARNING_RATE, Job, Work


class Ready(DataLoader):
    """Batches that are ready: nothing is fetched, collated or moved."""

    def __init__(self, batches: list[Any]) -> None:
        super().__init__(batches, bs=None, num_workers=0, device="cpu")
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class NoValidation(Callback):
    """Leaves out the validation after each epoch, as the others do."""

    def before_validate(self) -> None:
        raise CancelValidException


def prepare(work: Work) -> Job:
    if work.batches:
        train = Ready(work.batches)
        ordered = train
    else:
        dataset = TensorDataset(*work.data)
        train = DataLoader(dataset, bs=work.batch_size, shuffle=True, num_workers=0, device="cpu")
        ordered = DataLoader(dataset, bs=work.batch_size, num_workers=0, device="cpu")
    learner = Learner(
        DataLoaders(train, ordered, device="cpu"), work.net, loss_func=nn.CrossEntropyLoss(), metrics=accuracy
    )
    learner.recorder.train_metrics, learner.recorder.valid_metrics = True, False

    def quiet() -> Any:
        silence = contextlib.ExitStack()
        if not work.bar:
            silence.enter_context(learner.no_bar())
            silence.enter_context(learner.no_logging())
        return silence

    def fit() -> None:
        with quiet():
            learner.fit(1, lr=LEARNING_RATE, cbs=[NoValidation()])

    def evaluate() -> dict[str, float]:
        learner.recorder.valid_metrics = True
        with quiet():
            loss, right = learner.validate(dl=ordered)
        return {"loss": loss, "accuracy": right}

    def predict() -> Tensor:
        with quiet():
            return learner.get_preds(dl=ordered)[0]

    return Job({"evaluate": evaluate, "predict": predict}.get(work.kind, fit), work.net)
