import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import resolve
from kerastorch.callbacks import DeviceTransfer
from kerastorch.callbacks.device_transfer import _move_optimizer
from kerastorch.data import Batch
from kerastorch.tree import move


class Graph:
    """Like a batch of a graph library: no tensor, but with `.to()`."""

    def __init__(self):
        self.moves = []

    def to(self, device):
        self.moves.append(device)
        return self


class Place:
    """Stands for a run on another device."""

    device = torch.device("meta")


def test_every_part_of_a_batch_is_moved_nested_or_not():
    transfer = DeviceTransfer("meta")
    transfer.run = Place
    graph = Graph()
    batch = transfer.prepare_batch(
        Batch(0, {"a": torch.zeros(2), "b": (torch.zeros(1), graph, "text")}, torch.zeros(3))
    )
    assert batch.x["a"].device.type == batch.x["b"][0].device.type == batch.y.device.type == "meta"
    assert graph.moves == [torch.device("meta")]
    assert batch.x["b"][2] == "text"
    assert batch.weight is None
    weighted = transfer.prepare_batch(Batch(0, torch.zeros(1), torch.zeros(1), torch.ones(1)))
    assert weighted.weight.device.type == "meta"


def test_a_packed_sequence_stays_one():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 2), torch.zeros(1, 2)])
    moved = move((packed, torch.zeros(1)), torch.device("meta"), False)
    assert isinstance(moved[0], nn.utils.rnn.PackedSequence)
    assert moved[0].data.device.type == "meta"


def test_a_tensor_that_is_there_is_not_copied():
    tensor = torch.zeros(2)
    assert move(tensor, torch.device("cpu"), True) is tensor


def test_net_loss_and_sums_are_moved_at_the_start():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, output, target):
            return (output - target).pow(2).mean() * self.scale.squeeze()

    model = kt.Model(nn.Linear(2, 1))
    loss = Loss()
    model.compile(loss, "sgd")
    with pytest.raises(RuntimeError):  # a meta tensor holds no numbers, so the end of the epoch cannot be read
        model.fit(1, (torch.zeros(4, 2), torch.zeros(4, 1)), callbacks=[DeviceTransfer("meta")], verbose=0)
    assert model.module.weight.device.type == "meta"
    assert loss.scale.device.type == "meta"


def test_compile_and_callback_both_choose_the_device():
    def device_of(model, **options):
        seen = []
        watch = kt.callbacks.LambdaCallback(on_predict_begin=lambda logs: seen.append(watch.run.device))
        model.predict(torch.zeros(1, 2), callbacks=[*options.get("callbacks", ()), watch])
        return str(seen[0])

    model = kt.Model(nn.Linear(2, 1))
    expected = str(resolve.device("auto"))
    assert device_of(model) == expected
    model.compile("mse", device="cpu")
    assert device_of(model) == "cpu"
    assert device_of(model, callbacks=[DeviceTransfer(torch.device("cpu"))]) == "cpu"


def test_a_net_that_the_user_has_moved_stays_where_it_is():
    transfer = DeviceTransfer()
    model = kt.Model(nn.Linear(2, 1, device="meta"))
    with pytest.raises(NotImplementedError):  # the output cannot come to the CPU
        model.predict(torch.zeros(1, 2), callbacks=[transfer])
    assert transfer.run.device.type == "meta"
    assert transfer.run.lookahead


@pytest.mark.parametrize("name", ["cuda", "cuda:99", "mps", "xpu"])
def test_a_device_that_is_not_there_is_named(name):
    kind = name.partition(":")[0]
    if name != "cuda:99" and torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == kind:
        pytest.skip("it is there")
    with pytest.raises(ValueError, match=f"The device '{name}' is not there"):
        resolve.device(name)


def test_a_device_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"Unknown device 'gpu'\. Devices are 'auto', 'cpu', 'cuda'"):
        resolve.device("gpu")


def test_the_state_of_an_optimizer_follows_its_parameters():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = optimizer.state[layer.weight]["exp_avg"]
    _move_optimizer(optimizer)
    assert optimizer.state[layer.weight]["exp_avg"] is before
    optimizer.state[layer.weight]["exp_avg"] = torch.zeros(1, 2, device="meta")
    with pytest.raises(NotImplementedError):  # it tries to bring it to the CPU, where the parameter is
        _move_optimizer(optimizer)


def test_repr_is_the_call():
    assert repr(DeviceTransfer("cuda:1")) == "DeviceTransfer('cuda:1', non_blocking=True)"
