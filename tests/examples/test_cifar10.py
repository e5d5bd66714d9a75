import re
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet34

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def trained(real_data, run_example, tmp_path_factory) -> tuple[Path, str]:
    """The folder after two quick epochs of cifar10.py, and what it printed."""
    folder = tmp_path_factory.mktemp("cifar10")
    text = run_example("cifar10.py", "--data", real_data, "--quick", "--epochs", 2, cwd=folder)
    return folder, text


@pytest.fixture(scope="module")
def trained_resnet(real_data, run_example, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("resnet34_cifar10")
    text = run_example("resnet34_cifar10.py", "--data", real_data, "--quick", cwd=folder)
    return folder, text


def curves(folder):
    """Return `{name: [(step, value), ...]}` of the one file in a folder, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def steps(curve):
    return [step for step, _ in curve]


def test_cifar10_prints_steps_and_epochs(trained):
    _, text = trained
    assert text.count("{'step': 5, 'loss': ") == text.count("{'step': 10, 'loss': ") == 2
    assert text.count("| epoch |  loss | accuracy | val_loss | val_accuracy |") == 2
    last_line = text.splitlines()[-1]
    assert re.fullmatch(r"python examples/predict_image\.py IMAGE runs/cifar10/epoch_0[12]\.pt", last_line)


def test_cifar10_draws_curves_for_tensorboard(trained):
    folder, text = trained
    train, validation = curves(folder / "logs/train"), curves(folder / "logs/validation")
    assert steps(train["batch_loss"]) == steps(train["batch_accuracy"]) == [5, 10, 15, 20]
    for name in ("epoch_loss", "epoch_accuracy"):
        assert steps(train[name]) == steps(validation[name]) == [0, 1]
        assert f"{train[name][1][1]:.3f}" in text
        assert f"{validation[name][1][1]:.3f}" in text
    assert set(validation) == {"epoch_loss", "epoch_accuracy"}


def test_cifar10_leaves_a_checkpoint_per_epoch(trained):
    folder, _ = trained
    files = sorted((folder / "runs/cifar10").iterdir())
    assert [file.name for file in files] == ["epoch_01.pt", "epoch_02.pt"]
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert [first["progress"]["epoch"], second["progress"]["epoch"]] == [1, 2]
    assert list(second["model"])[:2] == ["model.0.weight", "model.0.bias"]
    assert not torch.equal(first["model"]["model.0.weight"], second["model"]["model.0.weight"])


def test_an_image_is_classified(trained, real_data, run_example, tmp_path):
    image = real_data / "cifar10/test/dog/0001.jpg"
    checkpoint = trained[0] / "runs/cifar10/epoch_02.pt"
    word, percent = run_example("predict_image.py", image, checkpoint, cwd=tmp_path).strip().split(": ")
    assert word in CLASSES
    assert 10 <= float(percent.removesuffix("%")) <= 100


def test_the_classes_are_those_of_the_folders(real_data):
    assert sorted(folder.name for folder in (real_data / "cifar10/train").iterdir()) == CLASSES


def test_resnet34_leaves_curves_and_a_checkpoint(trained_resnet):
    folder, text = trained_resnet
    assert "|   1   |" in text
    assert text.endswith("IMAGE runs/resnet34_cifar10/epoch_01.pt --arch resnet34\n")
    assert steps(curves(folder / "logs/resnet34/train")["batch_loss"]) == [5, 10]
    assert set(curves(folder / "logs/resnet34/validation")) == {"epoch_loss", "epoch_accuracy"}
    content = torch.load(folder / "runs/resnet34_cifar10/epoch_01.pt", weights_only=True)
    resnet34(num_classes=10).load_state_dict(content["model"])  # plain torch reads it, too


def test_resnet34_classifies_an_image(trained_resnet, real_data, run_example, tmp_path):
    image = real_data / "cifar10/test/ship/0003.jpg"
    checkpoint = trained_resnet[0] / "runs/resnet34_cifar10/epoch_01.pt"
    text = run_example("predict_image.py", image, checkpoint, "--arch", "resnet34", cwd=tmp_path)
    assert text.split(":")[0] in CLASSES
