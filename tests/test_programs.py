import subprocess
import time

import pytest

from tests.programs import imported, reason_to_skip, run_program


def test_a_program_runs_in_a_folder_and_a_process_of_its_own(tmp_path):
    done = run_program("    import os\n    print(os.getcwd(), '中文', os.environ['KERAS_BACKEND'])\n", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path} 中文 torch\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_an_error_is_told(tmp_path):
    done = run_program("import sys\nprint(1, flush=True)\nsys.exit('no')", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "1\n", "no\n")


def test_it_finds_this_kerastorch_and_no_network(tmp_path):
    program = """
        import kerastorch, urllib.request
        print(kerastorch.__file__)
        urllib.request.urlopen("https://example.com")
    """
    done = run_program(program, tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith(str(__file__).partition("/tests/")[0])
    assert "Connection refused" in done.stderr


def test_all_its_processes_end_when_the_time_is_over(tmp_path):
    program = """
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(60)
    """
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run_program(program, tmp_path, timeout=2)
    assert time.monotonic() - began < 30


def test_what_is_missing_is_told(monkeypatch):
    monkeypatch.delenv("KERASTORCH_DATA", raising=False)
    assert reason_to_skip("import torch\nfrom torch import nn\n") is None
    assert reason_to_skip("  import os, no_such.thing\n  from nothing.here import x\n") == (
        "not installed: no_such, nothing"
    )
    program = "from torchvision.datasets import MNIST\nMNIST('data', download=True)"
    assert reason_to_skip(program) == "KERASTORCH_DATA is not set: no MNIST / CIFAR-10 here"
    monkeypatch.setenv("KERASTORCH_DATA", "somewhere")
    assert reason_to_skip(program) is None


def test_only_imports_at_the_top_count():
    assert imported("import a.b as c, d\nfrom e.f import g\nfrom . import h\ndef i():\n    import j\n") == {
        "a",
        "d",
        "e",
    }


def test_programs_read_the_real_mnist(real_data, tmp_path):
    program = f"""
        import torch, torchvision
        from torchvision.datasets.mnist import read_image_file, read_label_file

        for train, part, count in ((True, "train", 320), (False, "t10k", 160)):
            data = torchvision.datasets.MNIST("./data", train=train, download=True)
            raw = "{real_data}/MNIST/raw/" + part
            assert len(data) == count
            assert torch.equal(data.data, read_image_file(raw + "-images-idx3-ubyte")[:count])
            assert torch.equal(data.targets, read_label_file(raw + "-labels-idx1-ubyte")[:count])
            assert data.classes[3] == "3 - three" and data.root == "./data" and data[0][0].size == (28, 28)
        print(data)
        torchvision.datasets.FashionMNIST("data")  # which stays torchvision's
    """
    done = run_program(program, tmp_path)
    assert "Dataset not found. You can use download=True to download it" in done.stderr
    assert "Number of datapoints: 160\n    Root location: ./data\n    Split: Test" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_programs_read_the_real_cifar10(real_data, tmp_path):
    program = f"""
        import numpy as np
        from PIL import Image
        from torch.utils.data import DataLoader
        from torchvision import datasets, transforms

        test = datasets.CIFAR10(root="./data", train=False, download=True)
        assert len(test) == len(test.targets) == 160 and test.data.shape == (160, 32, 32, 3)
        assert test.classes[5] == "dog" and test.class_to_idx["truck"] == 9
        image, label = test[15]  # the second dog
        assert label == 5
        assert np.array_equal(image, Image.open("{real_data}/cifar10/test/dog/0001.jpg"))

        train = datasets.CIFAR10("./data", True, transforms.ToTensor(), download=True)
        loader = DataLoader(train, 64)
        images, labels = next(iter(loader))
        assert images.shape == (64, 3, 32, 32) and labels.bincount().min() == 6
        assert len(loader) == 5
    """
    done = run_program(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
