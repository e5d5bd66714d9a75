import os
import stat
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kerastorch import checkpoint
from kerastorch.errors import CheckpointError


def content():
    return {"model": {"weight": torch.arange(1000.0)}, "progress": {"epoch": 3}, "note": "text"}


def test_what_is_saved_comes_back(tmp_path):
    checkpoint.save(content(), tmp_path / "new" / "a.pt")
    loaded = checkpoint.load(tmp_path / "new" / "a.pt")
    assert torch.equal(loaded["model"]["weight"], torch.arange(1000.0))
    assert loaded["progress"] == {"epoch": 3}
    assert loaded["format"] == checkpoint.FORMAT
    assert loaded["torch"] == str(torch.__version__)
    assert torch.load(tmp_path / "new" / "a.pt", weights_only=True)["note"] == "text"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.pt"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(content(), path)

    def full(source, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError, match=r"a\.pt could not be written: No space left on device\. What was there is"
    ):
        checkpoint.save({"model": {}}, path)
    monkeypatch.undo()
    assert checkpoint.load(path)["progress"] == {"epoch": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_the_reason_of_the_system_is_found_behind_torchs_own_error(tmp_path, monkeypatch):
    def obscure(source, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 8001344 vs 8001296") from error

    monkeypatch.setattr(torch, "save", obscure)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.save({}, tmp_path / "a.pt")

    def other(source, file):
        raise RuntimeError("some other reason")

    monkeypatch.setattr(torch, "save", other)
    with pytest.raises(CheckpointError, match="some other reason"):
        checkpoint.save({}, tmp_path / "a.pt")


def test_a_directory_in_the_way_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"could not be written: (File exists|Not a directory)"):
        checkpoint.save(content(), tmp_path / "file" / "a.pt")


def test_the_home_directory_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoint.save(content(), "~/a.pt")
    checkpoint.save_weights({"weight": torch.zeros(1)}, "~/b.pt")
    assert checkpoint.load("~/a.pt")["note"] == "text"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_the_file_has_the_permissions_of_any_other_file(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save(content(), tmp_path / "a.pt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o640


@settings(max_examples=60)
@given(place=st.floats(0, 1), damage=st.sampled_from(["cut", "flip"]), bit=st.integers(0, 7))
def test_a_damaged_file_is_named_and_never_loaded(tmp_path_factory, place, damage, bit):
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    checkpoint.save(content(), path)
    data = bytearray(path.read_bytes())
    position = int(place * (len(data) - 1))
    if damage == "cut":
        data = data[:position]
    else:
        data[position] ^= 1 << bit
    path.write_bytes(data)
    try:
        loaded = checkpoint.load(path)
    except CheckpointError as error:
        assert "a.pt" in str(error)
    else:  # a bit that means nothing, such as a time stamp of the archive
        assert torch.equal(loaded["model"]["weight"], torch.arange(1000.0))
        assert loaded["progress"] == {"epoch": 3}


@pytest.mark.parametrize("text", [b"", b"hello", b"\x80\x04."])
def test_what_is_no_checkpoint_is_named(tmp_path, text):
    path = tmp_path / "a.pt"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"a\.pt is damaged or no checkpoint \({len(text)} bytes\)"):
        checkpoint.load(path)


def test_a_file_that_is_not_there_gets_a_suggestion(tmp_path):
    checkpoint.save(content(), tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*wieghts\.pt\. Did you mean 'weights\.pt'\?"):
        checkpoint.load(tmp_path / "wieghts.pt")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        checkpoint.load(tmp_path / "nowhere" / "weights.pt")


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run_even_where_the_environment_allows_it(tmp_path, zipped):
    torch.save({"model": Payload()}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    program = (
        "from kerastorch import checkpoint\n"
        "try:\n    checkpoint.load('evil.pt')\n"
        "except checkpoint.CheckpointError as error:\n    print(error)"
    )
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "holds more than tensors and would run code when loaded" in result.stdout
    assert not (tmp_path / "executed").exists()


def test_a_whole_net_saved_by_torch_is_refused_with_a_way_out(tmp_path):
    torch.save(nn.Linear(2, 1), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"save net\.state_dict\(\) instead"):
        checkpoint.load(tmp_path / "net.pth")


def test_a_file_without_a_dict_is_refused(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds a Tensor; a checkpoint holds a dict"):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tied_weights_survive(tmp_path, suffix):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    path = tmp_path / f"a.{suffix}"
    checkpoint.save_weights(net.state_dict(), path)
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    checkpoint.load_into(other, checkpoint.load(path), path)
    assert torch.equal(other[1].weight, net[0].weight)


def test_a_damaged_safetensors_file_is_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net."])
def test_prefixes_of_wrappers_are_taken_off(prefix):
    net, source = nn.Linear(2, 2), nn.Linear(2, 2)
    checkpoint.load_into(net, {prefix + name: value for name, value in source.state_dict().items()}, "a.pt")
    assert torch.equal(net.weight, source.weight)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_plain_weights_load_into_a_compiled_or_parallel_net_and_back(wrap):
    other, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    wrapped = wrap(nn.Linear(2, 2))
    checkpoint.load_into(wrapped, plain.state_dict(), "a.pt")
    checkpoint.load_into(other, wrapped.state_dict(), "a.pt")
    assert torch.equal(other.weight, plain.weight)


def test_weights_load_into_a_lazy_net():
    lazy, plain = nn.LazyLinear(2), nn.Linear(3, 2)
    checkpoint.load_into(lazy, plain.state_dict(), "a.pt")
    assert torch.equal(lazy.weight, plain.weight)


def test_names_that_differ_are_listed_and_the_net_is_as_it_was():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    before = [parameter.clone() for parameter in net.parameters()]
    weights = {"0.weight": torch.zeros(2, 2), "extra": torch.zeros(1)}
    expected = (
        r"a\.pt does not fit Sequential\. 7 not in the file: 0\.bias, 1\.bias, 1\.weight, 2\.bias, 2\.weight and 2 "
        r"more\. 1 not in the net: extra\."
    )
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load_into(net, weights, "a.pt")
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), before, strict=True))
    checkpoint.load_into(net, weights, "a.pt", strict=False)
    assert torch.equal(net[0].weight, torch.zeros(2, 2))
    assert torch.equal(net[1].weight, before[2])


def test_weights_of_quite_another_net_are_told_from_a_few_that_differ():
    with pytest.raises(
        CheckpointError, match=r"a\.pt does not fit Linear: no name agrees\. It has a, the net has bias\."
    ):
        checkpoint.load_into(nn.Linear(1, 1), {"b": torch.zeros(1), "a": torch.zeros(1)}, "a.pt")


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_weights_are_found_in_a_training_state(key):
    weights = {"weight": torch.zeros(1)}
    assert checkpoint.weights_in({key: weights, "epoch": 3}) is weights
    assert checkpoint.weights_in(weights) is weights


KILLED = """
import os, signal, sys, threading, torch
from kerastorch import checkpoint
threading.Timer(float(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
number = 0
while True:
    number += 1
    checkpoint.save({"model": {"weight": torch.full((500_000,), float(number))}}, "a.pt")
"""


def test_kill_9_never_leaves_half_a_file(tmp_path):
    whole = 0
    for delay in (0.05, 0.11, 0.17, 0.23):
        subprocess.run([sys.executable, "-c", KILLED, str(delay)], cwd=tmp_path, check=False)
        if (tmp_path / "a.pt").exists():
            weight = checkpoint.load(tmp_path / "a.pt")["model"]["weight"]
            assert torch.equal(weight, weight[:1].expand_as(weight))
            whole += 1
    assert whole
