import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kerastorch as kt
from kerastorch.callbacks import DeviceTransfer
from kerastorch.data import adapt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SAMPLES, SIZE = 4096, 64
X = torch.randn(SAMPLES, 256, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


class Samples(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return X[index], Y[index]


def fit(data, *callbacks, resident="auto", non_blocking=True, **options):
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 3)))
    model.compile("cross_entropy", torch.optim.SGD(model.parameters(), lr=0.1), ["accuracy"])
    transfer = DeviceTransfer("cuda", resident=resident, non_blocking=non_blocking)
    model.fit(2, data, callbacks=[transfer, *callbacks], verbose=0, **options)
    return model


class Strict(kt.Callback):
    """Makes it an error to wait for the device."""

    def on_train_batch_begin(self, batch, logs):
        torch.cuda.set_sync_debug_mode("error" if batch else "default")

    def on_train_batch_end(self, batch, logs):
        if batch == 20:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def waiting_is_allowed_again():
    yield
    torch.cuda.set_sync_debug_mode("default")


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"seed": 4}, {"validation_split": 0.25}, {"steps_per_epoch": 40}])
def test_resident_data_train_the_same_net(options):
    ways = [fit((X, Y), resident=resident, batch_size=SIZE, **options) for resident in (False, True, "auto")]
    assert same(ways[0], ways[1])
    assert same(ways[0], ways[2])


def test_the_order_is_that_of_the_cpu():
    data = adapt((X, Y), name="dl_train", training=True, batch_size=SIZE)
    torch.manual_seed(0)
    expected = [batch.x for batch in data.batches(0)]
    data.reside(torch.device("cuda"))
    torch.manual_seed(0)
    for batch, x in zip(data.batches(0), expected, strict=True):
        assert batch.x.is_cuda
        assert torch.equal(batch.x.cpu(), x)


def test_memory_is_given_back_at_the_end():
    model = fit((X, Y), resident=False, batch_size=SIZE)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    model.fit(1, (X, Y), callbacks=[DeviceTransfer("cuda", resident=True)], batch_size=SIZE, verbose=0)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < X.nbytes // 2


def test_data_that_take_more_than_a_quarter_of_what_is_free_stay(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (X.nbytes, X.nbytes))
    seen = []
    watch = kt.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(watch.run.train_data))
    fit((X, Y), watch, batch_size=SIZE)
    assert next(seen[0].batches(0)).x.device.type == "cpu"


@pytest.mark.parametrize("resident", [True, False])
def test_no_step_waits_on_data_in_memory(resident):
    data = (X, Y) if resident else (X.pin_memory(), Y.pin_memory())
    fit(data, Strict(), resident=resident, batch_size=SIZE, shuffle=resident)


def test_no_step_waits_on_a_loader():
    fit(DataLoader(Samples(), SIZE, num_workers=1, pin_memory=True), Strict())
    fit(DataLoader(TensorDataset(X, Y), SIZE, pin_memory=True), Strict())


@pytest.mark.parametrize("pin_memory", [True, False])
def test_copies_aside_train_the_same_net(pin_memory):
    def loader():
        return DataLoader(TensorDataset(X, Y), SIZE, shuffle=True, pin_memory=pin_memory)

    assert same(fit(loader()), fit(loader(), non_blocking=False))


def test_what_a_copy_aside_brings_is_read_whole():
    large = torch.arange(2.0**22).view(64, -1)
    seen = []

    class Sums(nn.Module):
        def forward(self, x):
            torch.cuda._sleep(1_000_000)  # the next batch is copied meanwhile
            return x.double().sum(1)

    model = kt.Model(Sums().cuda())
    loader = DataLoader(TensorDataset(large), 4, pin_memory=True)
    for _ in range(3):
        seen.append(model.predict(loader, callbacks=[DeviceTransfer("cuda")]))
    assert all(torch.equal(found, large.double().sum(1)) for found in seen)
