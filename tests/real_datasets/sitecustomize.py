"""Lets torchvision's MNIST and CIFAR10 read a small part of the data in KERASTORCH_DATA, from whatever folder.

Python imports this when it starts, also in workers, if its folder is on PYTHONPATH; see tests/programs.py. So programs
that say `MNIST("data", download=True)` run as they stand, without a network, and in seconds.
"""

import functools
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

DATA = os.environ.get("KERASTORCH_DATA")
TRAIN, TEST = 320, 160


def replace(datasets):
    """Make the two classes read other files; what else they do stays torchvision's, as do classes derived from them."""
    datasets.MNIST.__init__ = instead(datasets.MNIST, read_mnist)
    datasets.CIFAR10.__init__ = instead(datasets.CIFAR10, read_cifar10)


def instead(dataset_class, read):
    original = dataset_class.__init__

    @functools.wraps(original)
    def init(self, root, train=True, transform=None, target_transform=None, download=False):
        if type(self) is not dataset_class:  # FashionMNIST, CIFAR100
            original(self, root, train, transform, target_transform, download)
            return
        super(dataset_class, self).__init__(root, transform=transform, target_transform=target_transform)
        self.train = train
        read(self, TRAIN if train else TEST)

    return init


def read_mnist(dataset, count):
    given, dataset.root = dataset.root, DATA
    images, labels = dataset._load_data()
    dataset.root = given
    dataset.data, dataset.targets = images[:count].clone(), labels[:count].clone()


def read_cifar10(dataset, count):
    """Take the classes in turn, so that no batch lacks one: the original is shuffled, and programs rely on it."""
    import numpy as np
    from PIL import Image

    folders = sorted(Path(DATA, "cifar10", "train" if dataset.train else "test").iterdir())
    files = [sorted(folder.glob("*.jpg"))[: -(-count // len(folders))] for folder in folders]
    in_turn = [(file, label) for row in zip(*files, strict=True) for label, file in enumerate(row)][:count]
    dataset.data = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in in_turn])
    dataset.targets = [label for _, label in in_turn]
    dataset.classes = [folder.name for folder in folders]
    dataset.class_to_idx = {name: label for label, name in enumerate(dataset.classes)}


class Watch:
    """Waits for the import of torchvision.datasets: most processes do without, and it takes seconds."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision.datasets":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_replace(module):
            execute(module)
            replace(module)

        spec.loader.exec_module = execute_and_replace
        return spec


if DATA:
    sys.meta_path.insert(0, Watch())
