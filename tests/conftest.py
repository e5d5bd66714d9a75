import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("kerastorch", deadline=None)  # machines are shared and noisy
settings.load_profile("kerastorch")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with MNIST and CIFAR-10."""
    folder = os.environ.get("KERASTORCH_DATA")
    if not folder:
        pytest.skip("KERASTORCH_DATA is not set: no MNIST / CIFAR-10 here")
    return Path(folder)
