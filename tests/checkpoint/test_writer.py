import threading

import pytest
import torch
from torch import nn

from kerastorch import checkpoint
from kerastorch.checkpoint import writer as module
from kerastorch.checkpoint.writer import Writer
from kerastorch.errors import CheckpointError


@pytest.fixture
def held(monkeypatch):
    """An event that lets the writing begin."""
    event, really = threading.Event(), module.save

    def save(content, path):
        assert event.wait(60)
        really(content, path)

    monkeypatch.setattr(module, "save", save)
    return event


def test_what_is_written_is_what_was_when_it_was_given(tmp_path, held):
    net = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(net.parameters())
    content = {"model": net.state_dict(), "rows": [{"loss": 1.0}], "raw": bytearray(b"a"), "count": torch.tensor(1)}
    before = net.weight.clone()
    writer = Writer()
    writer.submit(content, tmp_path / "a.pt")
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content["rows"][0]["loss"] = 2.0
    content["rows"].append(3)
    content["raw"][0] = 7
    content["count"] += 1
    held.set()
    writer.wait()
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(loaded["model"]["weight"], before)
    assert not torch.equal(net.weight, before)
    assert (loaded["rows"], loaded["raw"], loaded["count"]) == ([{"loss": 1.0}], bytearray(b"a"), torch.tensor(1))
    assert repr(writer) == "Writer()"


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_any_tensor_is_the_same_in_the_copy(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "view": base[1:, ::2],
        "transposed": base.t(),
        "expanded": torch.ones(1).expand(5),
        "half": base.half(),
        "bool": base > 3,
        "complex": torch.tensor([1 + 1j]).conj(),
        "negative": torch.tensor([1 + 1j]).conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2),
        "parameter": nn.Parameter(base.clone()),
        "eight": torch.ones(3).to(torch.float8_e5m2),
    }
    writer = Writer()
    for _ in range(2):
        writer.submit(tensors, tmp_path / "a.pt")
    writer.wait()
    loaded = checkpoint.load(tmp_path / "a.pt")
    checkpoint.save(tensors, tmp_path / "b.pt")
    direct = checkpoint.load(tmp_path / "b.pt")
    for name, tensor in tensors.items():
        dense, other = (value.to_dense() if name == "sparse" else value for value in (loaded[name], direct[name]))
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(dense.float() if name == "eight" else dense, other.float() if name == "eight" else other)


def test_memory_that_is_shared_is_copied_once_and_stays_shared(tmp_path):
    net = nn.Sequential(nn.Linear(200, 200, bias=False), nn.Linear(200, 200, bias=False))
    net[1].weight = net[0].weight
    content = {"model": net.state_dict(), "row": net[0].weight[3], "twin": net[0].weight.detach().view(-1)}
    writer = Writer()
    writer.submit(content, tmp_path / "a.pt")
    writer.wait()
    assert (tmp_path / "a.pt").stat().st_size < 1.1 * 200 * 200 * 4
    loaded = checkpoint.load(tmp_path / "a.pt")
    loaded["model"]["0.weight"].fill_(7)
    assert all((tensor == 7).all() for tensor in (loaded["model"]["1.weight"], loaded["row"], loaded["twin"]))


def test_the_second_copy_takes_no_new_memory(tmp_path, monkeypatch):
    made, really = [], module._buffer
    monkeypatch.setattr(module, "_buffer", lambda *kind: made.append(kind) or really(*kind))
    writer = Writer()
    content = {"model": nn.Linear(10, 10).state_dict(), "other": torch.zeros(5)}
    for count in (1.0, 2.0, 3.0):
        content["other"].fill_(count)
        writer.submit(content, tmp_path / "a.pt")
    writer.wait()
    assert sorted(made) == [(20, False), (40, False), (400, False)]
    assert torch.equal(checkpoint.load(tmp_path / "a.pt")["other"], torch.full((5,), 3.0))
    writer.submit({"other": torch.zeros(6)}, tmp_path / "a.pt")  # a net that has changed
    writer.submit(content, tmp_path / "a.pt")
    writer.wait()
    assert len(made) == 7


def test_one_file_at_a_time_and_what_comes_after_it(tmp_path):
    done = []
    writer = Writer()
    for number in range(5):
        path = tmp_path / f"{number}.pt"
        writer.submit(
            {"model": {"weight": torch.full((9,), float(number))}},
            path,
            then=lambda path=path: done.append(path.exists()),
        )
        assert len(done) in (number, number + 1)
    writer.wait()
    writer.wait()
    assert done == [True] * 5
    assert [checkpoint.load(tmp_path / f"{number}.pt")["model"]["weight"][0] for number in range(5)] == [0, 1, 2, 3, 4]


def test_training_goes_on_while_a_file_is_written(tmp_path, held):
    writer = Writer()
    writer.submit({"a": 1}, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    writer.raise_error()  # does not wait
    held.set()
    writer.wait()
    assert checkpoint.load(tmp_path / "a.pt")["a"] == 1


@pytest.mark.parametrize("ask", ["submit", "wait", "raise_error"])
def test_an_error_is_raised_at_the_next_call_and_once(tmp_path, ask):
    (tmp_path / "file").touch()
    done = []
    writer = Writer()
    writer.submit({"a": 1}, tmp_path / "file" / "a.pt", then=lambda: done.append(1))
    if ask == "raise_error":
        writer._thread.join()
    with pytest.raises(CheckpointError, match=r"a\.pt could not be written: (File exists|Not a directory)"):
        getattr(writer, ask)(*([{"a": 2}, tmp_path / "b.pt"] if ask == "submit" else []))
    writer.wait()
    assert done == []
    writer.submit({"a": 3}, tmp_path / "b.pt")
    writer.wait()
    assert checkpoint.load(tmp_path / "b.pt")["a"] == 3


def test_an_error_in_what_comes_after_is_raised(tmp_path):
    writer = Writer()
    writer.submit({"a": 1}, tmp_path / "a.pt", then=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.wait()
    assert checkpoint.load(tmp_path / "a.pt")["a"] == 1


def test_what_could_not_be_loaded_is_an_error_at_once(tmp_path):
    writer = Writer()
    with pytest.raises(CheckpointError, match=r"^callbacks/0 is a function"):
        writer.submit({"callbacks": [trial]}, tmp_path / "a.pt")
    writer.wait()
    assert list(tmp_path.iterdir()) == []


def trial():
    """Stand for what cannot be saved."""


def test_the_program_does_not_end_before_the_file_is_whole(tmp_path, run_program):
    program = """
        import torch
        from kerastorch import checkpoint
        checkpoint.Writer().submit({"weight": torch.ones(5_000_000)}, "a.pt")
        raise SystemExit(3)
    """
    assert run_program(program).ended()[0] == 3
    assert checkpoint.load(tmp_path / "a.pt")["weight"].sum() == 5_000_000
