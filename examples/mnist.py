"""Train a small CNN on MNIST: 0.97 of the test images right after three epochs, in a minute or two on a CPU.

python examples/mnist.py
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import kerastorch as kt


class CnnModel(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(in_channels=1, out_channels=32, kernel_size=3),
                nn.MaxPool2d(kernel_size=2, stride=2),
                nn.Conv2d(in_channels=32, out_channels=64, kernel_size=5),
                nn.MaxPool2d(kernel_size=2, stride=2),
                nn.Dropout2d(p=0.1),
                nn.AdaptiveMaxPool2d((1, 1)),
                nn.Flatten(),
                nn.Linear(64, 32),
                nn.ReLU(),
                nn.Linear(32, 10),
            ]
        )

    def forward(self, x):
        """Return one score per digit."""
        for layer in self.layers:
            x = layer(x)
        return x


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder with MNIST/raw; without it MNIST is downloaded to data/")
    parser.add_argument("--epochs", type=int, metavar="N", help="rounds through the data (3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="only try it out, on a part of the data")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(0)

    folder, download = args.data or "data", args.data is None
    train_data = MNIST(folder, train=True, transform=ToTensor(), download=download)
    test_data = MNIST(folder, train=False, transform=ToTensor(), download=download)
    if args.quick:
        train_data, test_data = Subset(train_data, range(2560)), Subset(test_data, range(1000))
    dl_train = DataLoader(train_data, batch_size=128, shuffle=True)
    dl_val = DataLoader(test_data, batch_size=128)

    model = kt.Model(CnnModel())
    print(model)
    model.summary(input_shape=(1, 32, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.compile(loss=nn.CrossEntropyLoss(), optimizer=optimizer, metrics=["accuracy"], device=args.device)
    epochs = args.epochs or (1 if args.quick else 3)
    history = model.fit(epochs, dl_train, dl_val, log_step_freq=5 if args.quick else 100)
    print(history)


if __name__ == "__main__":
    main()
