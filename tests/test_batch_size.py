import copy
import gc

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import kerastorch as kt
from kerastorch import batch_size as finder
from kerastorch.batch_size import largest
from kerastorch.errors import DataError


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)
    monkeypatch.setattr(finder, "_is_cpu", lambda device: False)
    monkeypatch.setattr(finder, "_share_that_is_free", lambda device: 0.5)


class Short(nn.Module):
    def __init__(self, limit):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.limit = limit
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return self.layers(x)


def make(limit):
    model = kt.Model(Short(limit))
    model.compile("cross_entropy", lambda parameters: torch.optim.Adam(parameters, lr=0.01), ["accuracy"])
    return model


def data(samples):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    return x, x[:, :3].argmax(1)


def test_it_is_32_on_the_cpu_and_said(capsys):
    model = make(1000)
    model.fit(1, data(100), batch_size="auto", verbose=2)
    assert max(model.net.sizes) == 32
    assert "batch_size='auto' is 32 on the CPU." in capsys.readouterr().out


@pytest.mark.parametrize("as_dataset", [False, True])
def test_the_largest_that_fits_is_used_and_said(accelerator, capsys, as_dataset):
    samples = data(9000)
    model = make(150)
    model.fit(1, TensorDataset(*samples) if as_dataset else samples, batch_size="auto", verbose=2)
    assert model.net.sizes[:8] == [32, 32, 64, 64, 128, 128, 256, 128]
    assert (
        "batch_size='auto': batches of 128 samples fit into memory, 256 do not. Another batch size may want another "
        "learning rate: see model.find_lr." in capsys.readouterr().out
    )


def test_an_epoch_keeps_32_steps(accelerator, capsys):
    model = make(10_000)
    model.fit(1, data(2100), batch_size="auto", verbose=2)
    assert max(model.net.sizes) == 64
    assert "larger ones would leave an epoch only a few steps" in capsys.readouterr().out


def test_less_than_32_may_be_what_fits(accelerator):
    model = make(5)
    model.fit(1, data(40), batch_size="auto", verbose=0)
    assert model.net.sizes[:5] == [32, 16, 8, 4, 4]
    assert model.net.sizes[5:] == [4] * 10


def test_the_trial_leaves_no_trace(accelerator):
    results = []
    for size in (64, "auto"):
        model = make(64)
        torch.manual_seed(3)
        history = model.fit(2, data(4000), batch_size=size, verbose=0)
        results.append((copy.deepcopy(model.state_dict()), history["loss"], torch.rand(1)))
    (weights, *others), (expected, *rest) = results
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert others == rest


def test_a_single_sample_that_does_not_fit(accelerator):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        make(0).fit(1, data(40), batch_size="auto", verbose=0)
    assert "kerastorch: not even a batch of one sample fits into memory." in caught.value.__notes__


def test_other_errors_pass(accelerator):
    with pytest.raises(RuntimeError, match="mat1"):
        make(99).fit(1, (torch.zeros(40, 5), torch.zeros(40).long()), batch_size="auto", verbose=0)


def test_a_margin_is_kept(accelerator, monkeypatch):
    model = make(10_000)
    monkeypatch.setattr(finder, "_share_that_is_free", lambda device: 0.5 if model.net.sizes[-1] < 128 else 0.05)
    model.fit(1, data(8000), batch_size="auto", verbose=0)
    assert max(model.net.sizes[8:]) == 64


def test_what_an_accelerator_tells_of_its_memory(monkeypatch):
    class Device:
        mem_get_info = staticmethod(lambda device: (20, 100))

    monkeypatch.setattr(torch, "get_device_module", lambda device: Device)
    assert finder._share_that_is_free(torch.device("cuda")) == 0.2
    monkeypatch.setattr(torch, "get_device_module", lambda device: object())
    assert finder._share_that_is_free(torch.device("mps")) == 1
    assert finder._share_that_is_free(None) == 1


@pytest.mark.parametrize(
    ("limit", "most", "size"), [(500, 400, 256), (500, 1000, 256), (512, 5000, 512), (1, 7, 1), (9, 3, 2)]
)
def test_the_search(limit, most, size):
    assert largest(lambda samples: samples <= limit, most).size == size


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            DataLoader(TensorDataset(*data(8))),
            "dl_train is a DataLoader, which makes its own batches. Pass its Dataset",
        ),
        ([data(8)], "dl_train is a list"),
        (Stream(), "IterableDataset Stream"),
    ],
)
def test_data_for_which_none_is_found(source, text):
    with pytest.raises(DataError, match=text):
        make(9).fit(1, source, batch_size="auto")


def test_another_word_is_no_size():
    with pytest.raises(ValueError, match=r"got 'Auto'\. Did you mean 'auto'\?"):
        make(9).fit(1, data(8), batch_size="Auto")
