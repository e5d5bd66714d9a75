"""Train a small CNN on MNIST in less time: the images in memory, pixels together, half precision. Each can be left out.

python examples/mnist_fast.py
python examples/mnist_fast.py --no-channels-last --precision 32-true
python examples/mnist_fast.py --jit-compile
python examples/mnist_fast.py --accumulate 4
"""

import argparse

import torch
from torch import nn
from torchvision.datasets import MNIST

import kerastorch as kt


def make_net():
    """Return two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def read(folder, *, train, count, download):
    """Return images and labels as tensors, which fit cuts into batches by whole slices."""
    dataset = MNIST(folder, train=train, download=download)
    return dataset.data[:count, None] / 255, dataset.targets[:count]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder with MNIST/raw; without it MNIST is downloaded to data/")
    parser.add_argument("--epochs", type=int, metavar="N", help="rounds through the data (3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="only try it out, on a part of the data")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--channels-last", action=switch, default=True, help="images pixel by pixel in memory")
    parser.add_argument("--precision", default="bf16-mixed", help="bf16-mixed, 16-mixed, bf16-true or 32-true")
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches for one step of the optimizer")
    parser.add_argument("--jit-compile", action=switch, default=False, help="the whole step as one graph, if faster")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(0)
    folder, download = args.data or "data", args.data is None
    train = read(folder, train=True, count=2560 if args.quick else None, download=download)
    test = read(folder, train=False, count=1000 if args.quick else None, download=download)

    model = kt.Model(make_net())
    model.compile(
        loss="cross_entropy",
        optimizer="adam",
        metrics=["accuracy"],
        device=args.device,
        channels_last=args.channels_last,
        precision=args.precision,
        accumulate=args.accumulate,
        jit_compile=args.jit_compile,
    )
    history = model.fit(args.epochs or (1 if args.quick else 3), train, test, batch_size=128, verbose=2)
    print(f"{max(history['samples_per_second']):,.0f} images per second, {history['val_accuracy'][-1]:.1%} right.")


if __name__ == "__main__":
    main()
