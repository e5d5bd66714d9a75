from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kerastorch as kt
from kerastorch import resolve
from kerastorch.callbacks import DeviceTransfer
from kerastorch.callbacks.device_transfer import _move_optimizer
from kerastorch.data import Batch, adapt
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.state import TrainState
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
    assert repr(DeviceTransfer("cuda:1")) == "DeviceTransfer('cuda:1', non_blocking=True, resident='auto')"
    assert repr(DeviceTransfer(resident=False)) == "DeviceTransfer('auto', non_blocking=True, resident=False)"
    assert eval(repr(DeviceTransfer("cpu", resident=True))).resident is True


@pytest.mark.parametrize("resident", ["yes", None, 0.5])
def test_resident_is_one_of_three(resident):
    with pytest.raises(ValueError, match=f"resident is 'auto', True or False; got {resident!r}"):
        DeviceTransfer(resident=resident)


def source(samples, **options):
    return adapt((torch.zeros(samples, 2), torch.zeros(samples)), name="dl_train", **options)  # 12 bytes a sample


def begun(transfer, *sources):
    """Let a transfer begin a run on these data, and return the devices of their batches."""
    run = Run(TrainState(nn.Linear(2, 1), None, MetricSet({})))
    run.train_data, *others = sources
    run.val_sets = {str(place): other for place, other in enumerate(others)}
    transfer.run = run
    transfer.on_train_begin({})
    return [next(iter(data.batches(0))).x.device.type for data in sources]


@pytest.mark.parametrize(
    ("free", "resident", "expected"),
    [
        (4 * 12 * 60, "auto", ["meta", "meta", "meta"]),
        (4 * 12 * 59, "auto", ["meta", "meta", "cpu"]),
        (4 * 12 * 29, "auto", ["cpu", "meta", "cpu"]),  # what fits
        (0, "auto", ["cpu", "cpu", "cpu"]),
        (0, True, ["meta", "meta", "meta"]),
        (10**9, False, ["cpu", "cpu", "cpu"]),
    ],
)
def test_data_in_memory_are_moved_whole_where_they_take_a_quarter_of_what_is_free(
    monkeypatch, free, resident, expected
):
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (free, 10**10), raising=False)
    sources = [source(30), source(10, steps=1), source(20)]
    assert begun(DeviceTransfer("meta", resident=resident), *sources) == expected
    for data in sources:
        data.close()
        assert next(iter(data.batches(0))).x.device.type == "cpu"


def test_an_accelerator_that_does_not_say_what_is_free_gets_batch_by_batch(monkeypatch):
    def refuse(device):
        raise RuntimeError("not known")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse, raising=False)
    assert begun(DeviceTransfer("meta"), source(4)) == ["cpu"]


def test_on_the_cpu_nothing_is_moved():
    assert begun(DeviceTransfer("cpu", resident=True), source(4)) == ["cpu"]
    data = source(4)
    assert data._data is data._held


def test_data_that_are_read_by_a_loader_are_not_moved():
    loader = DataLoader(TensorDataset(torch.zeros(4, 2)), 2)
    assert begun(DeviceTransfer("meta", resident=True), adapt(loader, name="dl_train")) == ["cpu"]


@pytest.mark.parametrize("options", [{}, {"seed": 3}, {"rows": torch.tensor([5, 1, 2, 3])}, {"shuffle": False}])
def test_the_order_is_drawn_as_on_the_cpu(options):
    x = torch.arange(20.0)
    data = adapt(x, name="x", **{"training": True, "batch_size": 3, **options})
    torch.manual_seed(0)
    expected, after = [batch.x for batch in data.batches(0)], torch.rand(1)
    data.reside(torch.device("meta"))
    torch.manual_seed(0)
    shapes = [tuple(batch.x.shape) for batch in data.batches(0)]
    assert torch.equal(after, torch.rand(1))
    assert shapes == [tuple(batch.shape) for batch in expected]


class Stream:
    """Stands for a stream of a GPU; its copies go to the device `meta`."""

    def __init__(self, calls):
        self.device, self.calls = torch.device("meta"), calls

    def wait_stream(self, other):
        self.calls.append(("waits for", other))


@pytest.fixture
def streams(monkeypatch):
    calls = []
    aside, working = Stream(calls), Stream(calls)

    @contextmanager
    def inside(stream):
        calls.append(("begins", stream))
        yield
        calls.append(("ends", stream))

    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: working)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: calls.append((tensor.device, stream)))
    transfer = DeviceTransfer("meta")
    transfer.run, transfer._stream = Place, aside
    return transfer, calls, aside, working


def test_batches_are_copied_in_a_stream_of_their_own(streams):
    transfer, calls, aside, working = streams
    batch = transfer.prepare_batch(Batch(0, {"a": torch.zeros(2), "b": "text"}, torch.zeros(2), None))
    assert batch.x["a"].device.type == batch.y.device.type == "meta"
    there = torch.device("meta")
    assert calls == [
        ("begins", aside),
        ("ends", aside),
        ("waits for", aside),
        (there, working),
        (there, working),
    ]


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, device="meta"),
        Graph(),
        nn.Parameter(torch.zeros(2)),
        nn.utils.rnn.pack_sequence([torch.zeros(3, 2), torch.zeros(1, 2)]),
    ],
)
def test_what_is_no_plain_tensor_on_the_cpu_is_copied_in_the_ordinary_way(streams, x):
    transfer, calls, _, _ = streams
    batch = transfer.prepare_batch(Batch(0, x, torch.zeros(2)))
    assert batch.y.device.type == "meta"
    assert not calls
