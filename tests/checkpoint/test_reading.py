import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from kerastorch import checkpoint
from kerastorch.checkpoint import seal
from kerastorch.checkpoint.writing import FORMAT
from kerastorch.errors import CheckpointError


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The bytes of a checkpoint of some 200 kB, of a net that has been trained for a step."""
    net = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.Linear(100, 40))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(8, 100)).sum().backward()
    optimizer.step()
    path = tmp_path_factory.mktemp("real") / "a.pt"
    history = {"epoch": [0], "rows": [{"loss": 0.5, "val_loss": 0.25}]}
    content = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "progress": {"epoch": 1},
    }
    checkpoint.save(content, path)
    return path.read_bytes()


def test_what_is_saved_comes_back(content, tmp_path):
    checkpoint.save(content, tmp_path / "new" / "a.pt")
    loaded = checkpoint.load(tmp_path / "new" / "a.pt")
    assert torch.equal(loaded["model"]["weight"], torch.arange(1000.0))
    assert loaded["progress"] == {"epoch": 3}
    assert loaded["format"] == FORMAT == 2
    assert loaded["torch"] == str(torch.__version__)
    assert loaded["kerastorch"] == __import__("kerastorch").__version__
    assert sys.version.startswith(loaded["python"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.pt"]


@pytest.mark.parametrize("options", [{}, {"mmap": True}, {"weights_only": False}])
def test_torch_and_other_programs_open_the_file(content, tmp_path, options):
    path = tmp_path / "a.pt"
    checkpoint.save(content, path)
    assert torch.equal(torch.load(path, **{"weights_only": True} | options)["model"]["weight"], torch.arange(1000.0))
    with path.open("rb") as file:
        assert torch.load(file, weights_only=True)["note"] == "text"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"kerastorch seal ")
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-qt", str(path)], check=True, stdout=subprocess.DEVNULL)


def rejected(path, data):
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=rf"a\.pt is damaged or no checkpoint \({len(data):,} bytes\): .*\S\.$"
    ) as caught:
        checkpoint.load(path)
    assert checkpoint.inspect(path).damage in str(caught.value)
    return str(caught.value)


def test_any_bit_that_flips_is_found(real, tmp_path):
    assert 150_000 < len(real) < 250_000
    generator = random.Random(0)
    places = [generator.randrange(8 * len(real)) for _ in range(200)]
    outside = set(range(8 * len(real) - 8 * 1000, 8 * len(real))) | set(
        range(8 * 64)
    )  # the last table and the first header
    for place in [*places, *generator.sample(sorted(outside), 200)]:
        data = bytearray(real)
        data[place // 8] ^= 1 << place % 8
        assert "has changed" in rejected(tmp_path / "a.pt", data)


def test_any_bit_of_headers_and_padding_that_flips_is_found(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save({"model": {"weight": torch.zeros(1)}}, path)
    whole = path.read_bytes()
    assert seal.trouble(path) is None
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"a\.pt is damaged"):
            checkpoint.load(path)


def test_any_part_that_is_missing_or_too_much_is_found(real, tmp_path):
    generator = random.Random(0)
    sizes = [generator.randrange(1, len(real)) for _ in range(50)]
    for size in [*sizes, 1, 3, 4, *range(len(real) - 75, len(real))]:
        rejected(tmp_path / "a.pt", real[:size])
    assert "its end is missing" in rejected(tmp_path / "a.pt", real[:-1])
    for more in (b"\0", b"more", real):
        rejected(tmp_path / "a.pt", real + more)
    rejected(tmp_path / "a.pt", real[:5000] + bytes(4096) + real[9096:])  # a block of the disk that was never written
    rejected(tmp_path / "a.pt", real[:5000] + real[9096:])


@pytest.mark.parametrize("text", [b"", b"hello", b"\x80\x04.", b"PK\x03\x04", b"epoch,loss\n0,0.5\n" * 100, bytes(300)])
def test_what_is_no_checkpoint_is_named(tmp_path, text):
    told = rejected(tmp_path / "a.pt", text)
    assert ("it is empty" in told) is (not text)


def test_an_archive_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w"):
        pass
    rejected(tmp_path / "a.pt", (tmp_path / "a.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("letter.txt", "Dear")
    rejected(tmp_path / "a.pt", (tmp_path / "a.pt").read_bytes())


def test_the_data_of_a_file_of_torch_are_checked(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.full((1000,), 3.0)}, path)
    assert torch.equal(checkpoint.load(path)["weight"], torch.full((1000,), 3.0))
    data = path.read_bytes()
    middle = data.index(torch.full((10,), 3.0).numpy().tobytes())
    told = rejected(path, data[:middle] + b"\x01" + data[middle + 1 :])
    assert "data/0 has changed since it was written" in told
    rejected(path, data[:-100])


def test_sums_that_torch_was_told_to_leave_out(content, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "torch.pt")
        checkpoint.save(content, tmp_path / "ours.pt")
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert checkpoint.load(tmp_path / "torch.pt")["note"] == "text"
    with zipfile.ZipFile(tmp_path / "ours.pt") as archive:
        assert archive.testzip() is None


def test_the_legacy_format_of_torch_is_read(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(checkpoint.load(tmp_path / "a.pt")["weight"], torch.ones(3))
    assert checkpoint.inspect(tmp_path / "a.pt").parameters == 3


def test_a_file_of_format_1_is_read(tmp_path):
    """As kerastorch 0.1.0 wrote it."""
    content = {
        "format": 1,
        "torch": "2.6.0",
        "model": {"weight": torch.ones(2)},
        "progress": {"epoch": 1, "batch": 0, "step": 9},
    }
    with (tmp_path / "a.pt").open("wb") as file:
        torch.save(content, file)
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded["model"]["weight"], torch.ones(2))
    assert loaded["format"] == 1
    assert checkpoint.inspect(tmp_path / "a.pt").step == 9


def test_a_file_of_a_newer_format_is_refused(tmp_path):
    torch.save({"format": 3, "kerastorch": "9.1", "torch": "3.0", "model": {}}, tmp_path / "a.pt")
    expected = (
        r"a\.pt was written by kerastorch 9\.1, in format 3; this is kerastorch \S+, which reads formats up to 2\. "
        r"Type: pip install -U kerastorch"
    )
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load(tmp_path / "a.pt")
    torch.save({"format": 3, "weights": {}}, tmp_path / "b.pt")  # somebody else's
    assert checkpoint.load(tmp_path / "b.pt")["format"] == 3


def test_a_file_that_is_whole_but_cannot_be_loaded_is_not_called_damaged(content, tmp_path, monkeypatch):
    checkpoint.save(content, tmp_path / "a.pt")

    def too_large(*arguments, **options):
        raise RuntimeError("can't allocate memory: you tried to allocate 12 bytes")

    monkeypatch.setattr(torch, "load", too_large)
    with pytest.raises(CheckpointError, match=r"a\.pt could not be loaded \([\d,]+ bytes\): can't allocate memory"):
        checkpoint.load(tmp_path / "a.pt")

    def out_of_memory(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "load", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        checkpoint.load(tmp_path / "a.pt")


def test_a_device_that_is_not_there_is_no_fault_of_the_file(content, tmp_path):
    checkpoint.save(content, tmp_path / "a.pt")
    with pytest.raises(RuntimeError, match="no_such_device"):
        checkpoint.load(tmp_path / "a.pt", map_location="no_such_device")
    assert checkpoint.load(tmp_path / "a.pt", map_location="meta")["model"]["weight"].is_meta


def test_any_directory_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a directory without state\.pt, so no checkpoint"):
        checkpoint.load(tmp_path)


def test_a_file_that_is_not_there_gets_a_suggestion(content, tmp_path):
    checkpoint.save(content, tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*wieghts\.pt\. Did you mean 'weights\.pt'\?"):
        checkpoint.load(tmp_path / "wieghts.pt")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        checkpoint.load(tmp_path / "nowhere" / "weights.pt")


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run_even_where_the_environment_allows_it(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"model": Payload()}, "evil.pt", _use_new_zipfile_serialization=zipped)
    refusal = "holds more than tensors and would run code when loaded"
    assert refusal in str(checkpoint.inspect("evil.pt"))
    with pytest.raises(CheckpointError, match=refusal):
        checkpoint.load("evil.pt")
    assert not Path("executed").exists()
    with pytest.warns(UserWarning, match="FORCE_NO_WEIGHTS_ONLY_LOAD"):
        torch.load("evil.pt")  # where nobody insists, it is run
    assert Path("executed").exists()


def test_a_whole_net_saved_by_torch_is_refused_with_a_way_out(tmp_path):
    torch.save(nn.Linear(2, 1), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"save net\.state_dict\(\) instead"):
        checkpoint.load(tmp_path / "net.pth")


def test_a_file_without_a_dict_is_refused(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds a Tensor; a checkpoint holds a dict"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_damaged_safetensors_file_is_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
        checkpoint.load(tmp_path / "a.safetensors")
