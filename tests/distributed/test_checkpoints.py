"""Checkpoints of several processes: one file for all of them, or a directory for a net that is spread over them."""

import os
import pickle
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import kerastorch as kt
from kerastorch import checkpoint, elastic, inspect, randomness
from kerastorch.checkpoint import sharded
from kerastorch.checkpoint import together as agreed
from kerastorch.errors import CheckpointError
from kerastorch.strategy.group import Group
from kerastorch.strategy.processes import join
from tests.distributed.together import needs_fsdp, together

pytestmark = needs_fsdp
SHARED = {"note": "of all", "numbers": [1, 2.5, None], "path": Path("runs")}


def group():
    return join(torch.device("cpu"))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def trained(module, steps=2):
    """Train a little with Adam, on the same data whatever the number of processes."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    return optimizer


def spread(module):
    """Spread a net over the processes, block by block."""
    mesh = init_device_mesh("cpu", (group().size,))
    fully_shard(module[0], mesh=mesh)
    fully_shard(module, mesh=mesh)
    return mesh


def content_of(module, optimizer):
    return {"model": module.state_dict(), "optimizer": optimizer.state_dict(), **SHARED}


def whole(tree):
    """Return a tree with whole tensors, for a look at them outside."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, check_stride=False)


def save(path, background=False):
    processes, module = group(), net()
    spread(module)
    optimizer = trained(module)
    content = content_of(module, optimizer)
    expected = whole({"model": content["model"], "optimizer": content["optimizer"]})
    if background:
        writer = checkpoint.Writer()
        writer.submit(content, path, then=lambda: Path(f"{path}.done").touch(), group=processes)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(7.0)  # training goes on
        writer.wait()
        processes.everyone(None)  # the main process has put all together
    else:
        checkpoint.save_together(content, path, processes)
    return expected if processes.is_main else None


def load_spread(path):
    module = net()
    mesh = spread(module)
    content = checkpoint.load(path, mesh=mesh)
    kinds = {type(value) for value in content["model"].values()}
    optimizer = trained(module, steps=1)
    checkpoint.load_into(module, content["model"], path)
    optimizer.load_state_dict(content["optimizer"])
    return whole({"model": module.state_dict(), "optimizer": optimizer.state_dict()}), kinds == {DTensor}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("spread") / "state.pt"
    return path, together(4, save, path)[0]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_directory_of_four_processes_loads_in_others(written, size):
    path, expected = written
    for found, is_spread in together(size, load_spread, path):
        assert is_spread
        assert_equal(found, expected)


def test_a_directory_loads_in_a_plain_process(written):
    path, expected = written
    content = checkpoint.load(path)
    assert_equal(content["model"], expected["model"])
    assert_equal(content["optimizer"], expected["optimizer"])
    assert [content[name] for name in SHARED] == ["of all", [1, 2.5, None], "runs"]
    assert content["model"]._metadata  # of the modules
    module = net()
    optimizer = trained(module)  # the same training in one process
    torch.testing.assert_close(dict(module.state_dict()), dict(content["model"]))
    optimizer.load_state_dict(content["optimizer"])


def test_weights_come_from_a_directory_without_the_rest(written, monkeypatch):
    path, expected = written
    read = []
    real = sharded.parts.read
    monkeypatch.setattr(sharded.parts, "read", lambda p, index, mesh: read.append(set(index)) or real(p, index, mesh))
    model = kt.Model(net())
    model.load_weights(path)
    assert_equal(dict(model.state_dict()), dict(expected["model"]))
    assert read == [{f"model/{name}" for name in expected["model"]}]


def test_what_a_directory_holds_is_told(written):
    path, _ = written
    found = checkpoint.inspect(path)
    assert found.is_whole
    assert (found.tensors, found.parameters) == (4, 32)
    assert found.size == sum(file.stat().st_size for file in path.iterdir())


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_directory_becomes_a_plain_file(written, tmp_path, capsys, name):
    path, expected = written
    assert inspect.main(["--consolidate", str(path), str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == f"4 tensors written to {tmp_path / name}.\n"
    assert_equal(dict(checkpoint.load(tmp_path / name)), dict(expected["model"]))


def test_the_tools_of_torch_read_it(written, tmp_path):
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    path, expected = written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(path, tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert_equal(found["model"], dict(expected["model"]))


def test_nothing_of_the_pickle_is_read(written, tmp_path):
    path = shutil.copytree(written[0], tmp_path / "copy.pt")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    sums = checkpoint.load(path / "state.pt")["files"][".metadata"]
    (path / ".metadata").write_bytes(pickle.dumps(Evil()).ljust(sums[0], b"\0"))
    with pytest.raises(CheckpointError, match=r"is damaged: \.metadata has changed"):
        checkpoint.load(path)
    sharded.load(path, is_checked=True)
    assert not (tmp_path / "ran").exists()


def broken(path, how):
    shard = path / "__1_0.distcp"
    if how == "marker":
        (path / "state.pt").unlink()
    elif how == "missing":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif how == "flipped":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif how == "seal":
        (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:-3])


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("marker", r"is a directory without state\.pt, so no checkpoint"),
        ("missing", r"is damaged: __1_0\.distcp is missing"),
        ("cut", r"is damaged: __1_0\.distcp has [\d,]+ bytes of"),
        ("flipped", r"is damaged: __1_0\.distcp has changed since it was written"),
        ("seal", r"is damaged or no checkpoint"),
    ],
)
def test_what_is_not_whole_is_no_checkpoint(written, tmp_path, capsys, how, text):
    path = shutil.copytree(written[0], tmp_path / "copy.pt")
    broken(path, how)
    with pytest.raises(CheckpointError, match=text):
        checkpoint.load(path)
    assert not checkpoint.inspect(path).is_whole
    assert inspect.main([str(tmp_path)]) == 1
    assert "DAMAGED" in capsys.readouterr().out


def test_it_is_written_while_training_goes_on(tmp_path):
    path = tmp_path / "state.pt"
    expected = together(2, save, path, True)[0]
    content = checkpoint.load(path)
    assert_equal(content["model"], expected["model"])
    assert_equal(content["optimizer"], expected["optimizer"])
    assert {file.name for file in path.iterdir()} == {"state.pt", ".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.pt", "state.pt.done"]


def save_over(path):
    for _ in range(2):
        save(path)
    processes = group()
    checkpoint.save_together({"model": {"weight": torch.ones(2)}}, path, processes)
    assert checkpoint.load(path)["model"]["weight"].tolist() == [1, 1]
    processes.everyone(None)
    return save(path)


def test_it_takes_the_place_of_another_and_of_a_file(tmp_path):
    path = tmp_path / "best.pt"
    expected = together(2, save_over, path)[0]
    assert_equal(checkpoint.load(path)["model"], expected["model"])
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


def test_one_that_was_being_replaced_is_found_aside(written, tmp_path):
    shutil.copytree(written[0], tmp_path / ".best.pt.before")
    assert checkpoint.load(tmp_path / "best.pt")["note"] == "of all"
    assert checkpoint.inspect(tmp_path / "best.pt").is_whole


def fail_on_one(path, where):
    processes, module = group(), net()
    spread(module)
    content = content_of(module, trained(module))
    if where == processes.rank:
        sharded.parts.write = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.save_together(content, path, processes)
    writer = checkpoint.Writer()
    writer.submit(content, path, group=processes)
    if processes.is_main:
        with pytest.raises(CheckpointError, match="No space left on device"):
            writer.wait()
    else:
        writer.wait()


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_of_one_process_is_that_of_all(tmp_path, where):
    together(2, fail_on_one, tmp_path / "a.pt", where)
    assert list(tmp_path.iterdir()) == []


def refuse_place(path):
    path.mkdir(exist_ok=True)
    (path / "mine.txt").write_text("of the user")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(path)


def test_a_directory_of_the_user_is_left_alone(tmp_path):
    together(2, refuse_place, tmp_path / "runs")
    assert [file.name for file in tmp_path.rglob("*")] == ["runs", "mine.txt"]


def use_weights(path):
    """Write and read weights of a net that is spread, and of one that is not."""
    module = net()
    spread(module)
    model = kt.Model(module)
    model.save_weights(path)
    before = whole(dict(model.state_dict()))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    model.load_weights(path)
    assert_equal(whole(dict(model.state_dict())), before)
    plain = kt.Model(net())
    plain.load_weights(path)
    assert_equal(dict(plain.state_dict()), before)
    with pytest.raises(FileNotFoundError):
        plain.load_weights(f"{path}.not")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_weights_of_a_spread_net_are_one_file(tmp_path, name):
    together(2, use_weights, tmp_path / name)
    kt.Model(net()).load_weights(tmp_path / name)


def agree(where):
    processes = group()

    def work():
        if processes.rank == where:
            raise CheckpointError("here")
        return processes.rank

    with pytest.raises(CheckpointError, match="here"):
        agreed.by_all(processes, work)
    if where == 0:
        with pytest.raises(CheckpointError, match="here"):
            agreed.by_main(processes, work)
    else:
        assert agreed.by_main(processes, work) == 0

    def fail():
        raise ZeroDivisionError("own")

    with pytest.raises(ZeroDivisionError if processes.is_main else CheckpointError, match="own"):
        agreed.by_main(processes, fail)
    assert agreed.by_all(processes, lambda: processes.rank) == processes.rank


@pytest.mark.parametrize("where", [0, 1])
def test_processes_agree(where):
    together(2, agree, where)


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def keep_random():
    processes = group()
    randomness.reseed(processes.rank + 1)
    kept = elastic.of_all(processes, randomness.capture(), "random")
    return kept, draw()


def go_on_random(kept):
    elastic.restore_random(kept, group())
    return draw()


def test_random_numbers_are_those_of_each_process():
    (kept, _), *_ = found = together(2, keep_random)
    drawn = [each for _, each in found]
    assert together(2, go_on_random, kept) == drawn
    of_three = together(3, go_on_random, kept)
    assert of_three[0] == drawn[0]
    assert len(set(of_three)) == 3
    assert of_three == together(3, go_on_random, kept)
    elastic.restore_random(kept, Group())
    assert draw() == drawn[0]


def stubbed(directory, monitor):
    """Let callbacks decide in several processes, with values that differ between them."""
    from kerastorch.callbacks import EarlyStopping, ModelCheckpoint
    from kerastorch.metrics import MetricSet
    from kerastorch.run import Run
    from kerastorch.state import TrainState

    processes, module = group(), net()
    run = Run(TrainState(module, None, MetricSet({})))
    run.strategy.group = processes
    best = ModelCheckpoint(directory / "{epoch}.pt", monitor, mode="min", save_weights_only=True, keep_best=1)
    stop = EarlyStopping(monitor, mode="min", patience=1)
    for callback in (best, stop):
        callback.run = run
        callback.on_train_begin({})
    values = [3.0, 2.0, 2.5, 2.6]
    for epoch, value in enumerate(values):
        run.state.epoch = epoch + 1
        logs = {monitor: value if processes.is_main else -value}
        best.on_epoch_end(epoch, logs)
        stop.on_epoch_end(epoch, logs)
    return dict(best._retention.files), stop.best_epoch, stop.stopped_epoch, run.stop_reason


def test_callbacks_decide_alike(tmp_path):
    one, other = together(2, stubbed, tmp_path, "loss")
    assert one == other
    assert one[1] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["2.pt"]
