"""Real digits in a file, few enough to train on in a second or two."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The first 1,280 images of MNIST; where it is not there, those of scikit-learn in the size of MNIST."""
    path = tmp_path_factory.mktemp("digits") / "digits.pt"
    folder = os.environ.get("KERASTORCH_DATA")
    images, labels = mnist(folder) if folder else small()
    torch.save({"images": images[:1280].clone(), "labels": labels[:1280].clone()}, path)
    return path


def mnist(folder):
    from torchvision.datasets import MNIST

    data = MNIST(folder, download=False)
    return data.data[:, None].float() / 255, data.targets


def small():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return torch.nn.functional.interpolate(images, 28), torch.tensor(data.target)
