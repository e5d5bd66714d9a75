"""Train a CNN on CIFAR-10, with curves for TensorBoard and a checkpoint after each epoch.

python examples/cifar10.py
tensorboard --logdir logs
"""

import torch
from cifar10_data import load_data, parse_arguments
from torch import nn

import kerastorch as kt


class Cnn(nn.Module):
    """Three convolutions and two linear layers."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.Linear(64, 10),
        )

    def forward(self, x):
        """Return one score per class."""
        return self.model(x)


def main():
    args = parse_arguments(__doc__, epochs=10)
    torch.manual_seed(0)
    dl_train, dl_test = load_data(args.data, args.quick)

    model = kt.Model(Cnn())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.compile(loss="cross_entropy", optimizer=optimizer, metrics=["accuracy"], device=args.device)
    callbacks = [
        kt.callbacks.TensorBoard("logs"),
        kt.callbacks.ModelCheckpoint("runs/cifar10/epoch_{epoch:02d}.pt"),
    ]
    history = model.fit(args.epochs, dl_train, dl_test, log_step_freq=5 if args.quick else 100, callbacks=callbacks)
    best = history.best("val_accuracy").epoch + 1  # the history counts from 0, the files from 1
    print(f"python examples/predict_image.py IMAGE runs/cifar10/epoch_{best:02d}.pt")


if __name__ == "__main__":
    main()
