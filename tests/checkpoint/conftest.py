import shutil
import subprocess

import pytest
import torch


@pytest.fixture
def content():
    return {"model": {"weight": torch.arange(1000.0)}, "progress": {"epoch": 3}, "note": "text"}


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a small file system, and takes new options for it."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(options):
        if shutil.which("mount") is None:
            pytest.skip("there is no command 'mount' here")
        command = ["mount", "-t", "tmpfs", "-o", options, "kerastorch", str(place)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"a file system cannot be mounted here (it takes root): {result.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)
