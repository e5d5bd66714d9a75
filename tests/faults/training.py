"""A training on real MNIST that is run in a process of its own, to be killed there.

    python training.py DIRECTORY RESULT '{"workers": 2, "seed": 0}'

It writes its result when it is complete: everything that must be as if nothing had happened.
"""

import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kerastorch as kt
from kerastorch.callbacks import BackupAndRestore, EarlyStopping, ExponentialMovingAverage, OneCycle

DEFAULTS = {
    "workers": 0,
    "persistent": False,
    "heal_workers": 2,
    "seed": None,
    "save_freq": 1,
    "background": False,
    "epochs": 3,
    "pause": 0.0,
    "verbose": 0,
}


class Digits(Dataset):
    """Real digits, moved and made noisy with numbers of torch, NumPy and random."""

    def __init__(self, path):
        content = torch.load(path, weights_only=True)
        self.images, self.labels = content["images"], content["labels"]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index].roll(random.randint(-2, 2), -1)
        return image + 0.1 * torch.rand(()) + 0.1 * float(np.random.rand()), self.labels[index]


class Average(kt.Callback):
    """Notes the average while it is not in the net."""

    stage = "display"

    def __init__(self, average):
        self.average = average
        self.noted = None

    def on_train_batch_end(self, batch, logs):
        self.noted = self.average.state_dict()["averages"]["averages"]


def network():
    convolution = [nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 16, 3, 2)]
    return nn.Sequential(*convolution, nn.Flatten(), nn.ReLU(), nn.Linear(16 * 36, 500), nn.ReLU(), nn.Linear(500, 10))


def train(directory, result, options):
    """Train; write parameters, optimizer, average, history and random numbers."""
    options = {**DEFAULTS, **options}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    digits = Digits(options["data"])
    loader = DataLoader(
        digits,
        32,
        shuffle=True,
        num_workers=options["workers"],
        persistent_workers=options["persistent"],
        multiprocessing_context="fork" if options["workers"] else None,  # whatever this process was started by
    )
    model = kt.Model(network())
    model.compile("cross_entropy", torch.optim.AdamW(model.parameters(), lr=1e-3), ["accuracy"])
    average = ExponentialMovingAverage(0.9)
    noted = Average(average)
    backup = BackupAndRestore(directory, options["save_freq"], background=options["background"])
    callbacks = [average, OneCycle(0.01), EarlyStopping("val_loss", patience=5), noted, backup]
    callbacks += [kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: pause(options["pause"]))]
    validation = (digits.images[:200], digits.labels[:200])
    history = model.fit(
        options["epochs"],
        loader,
        validation,
        seed=options["seed"],
        heal_workers=options["heal_workers"],
        callbacks=callbacks,
        verbose=options["verbose"],
    )
    content = {
        "model": model.state_dict(),
        "optimizer": model.optimizer.state_dict(),
        "average": noted.noted,
        "history": [
            {name: row[name] for name in row if name not in ("seconds", "samples_per_second")} for row in history.rows
        ],
        "random": [torch.rand(()).item(), float(np.random.rand()), random.random()],
    }
    temporary = Path(result).with_suffix(".part")
    torch.save(content, temporary)
    temporary.replace(result)


def pause(seconds):
    """Wait as a longer step would."""
    if seconds:
        time.sleep(seconds)


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
