"""The CIFAR-10 images and the command line flags that cifar10.py and resnet34_cifar10.py share."""

import argparse
from pathlib import Path

from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import ToTensor

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def parse_arguments(description, epochs):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with cifar10/train and cifar10/test, one folder of images per class in each; "
        "without it CIFAR-10 is downloaded to data/",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help=f"rounds through the data ({epochs}; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="only try it out, on a few hundred images")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...")
    args = parser.parse_args()
    args.epochs = args.epochs or (1 if args.quick else epochs)
    return args


def load_data(folder=None, quick=False, batch_size=64):
    """Return batches of (images, labels) for training and for testing."""
    if folder is None:
        train_data = CIFAR10("data", train=True, transform=ToTensor(), download=True)
        test_data = CIFAR10("data", train=False, transform=ToTensor(), download=True)
    else:
        train_data = ImageFolder(Path(folder, "cifar10/train"), transform=ToTensor())
        test_data = ImageFolder(Path(folder, "cifar10/test"), transform=ToTensor())
    if quick:
        train_data, test_data = every_nth(train_data, 640), every_nth(test_data, 320)
    return DataLoader(train_data, batch_size, shuffle=True), DataLoader(test_data, batch_size)


def every_nth(dataset, count):
    """Return `count` samples from all over the dataset, since a folder of images is sorted by class."""
    return Subset(dataset, range(0, len(dataset), len(dataset) // count)[:count])
