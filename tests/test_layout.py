import copy
import io
import re

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import layout


class Net(nn.Module):
    """Downsamples, normalizes, upsamples; a class for each image or for each pixel."""

    def __init__(self, *, pixels=False):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6 * 64, 4)
        self.pixels = pixels

    def forward(self, x):
        x = self.up(torch.relu(self.norm(self.down(x))))
        return x if self.pixels else self.head(x.flatten(1))


def data(size=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(4, (size,), generator=generator)


def trained(net, optimizer=torch.optim.Adam, steps=3, **options):
    optimizer = optimizer(net.parameters(), **options)
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return optimizer


def is_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_values_names_shapes_and_objects_stay():
    net, plain = Net(), Net()
    parameters = list(net.parameters())
    layout.channels_last(net)
    assert all(one is other for one, other in zip(parameters, net.parameters(), strict=True))
    assert list(net.state_dict()) == list(plain.state_dict())
    for one, other in zip(net.state_dict().values(), plain.state_dict().values(), strict=True):
        assert one.shape == other.shape
        assert torch.equal(one, other)
    assert is_last(net.down.weight)
    assert is_last(net.up.weight)
    assert not is_last(plain.down.weight)
    assert net.head.weight.is_contiguous()


def test_it_is_what_torch_does():
    net, other = Net(), Net().to(memory_format=torch.channels_last)
    layout.channels_last(net)
    layout.channels_last(net)  # twice is once
    assert [part.stride() for part in net.parameters()] == [part.stride() for part in other.parameters()]


def test_two_and_three_dimensions_in_one_net():
    net = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Flatten(1, 2), nn.Conv2d(6, 2, 3))
    x = torch.randn(1, 2, 4, 6, 6)
    before = net(x)
    layout.channels_last(net)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert is_last(net[2].weight)
    assert torch.allclose(net(x), before, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "has"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2), nn.Linear(2, 2)), "Linear, BatchNorm1d"),
        (nn.Conv1d(2, 2, 3), "Conv1d"),
        (nn.ReLU(), "no parameters"),
        (
            nn.Sequential(
                nn.Linear(1, 1), nn.Conv1d(1, 1, 1), nn.LayerNorm(1), nn.BatchNorm1d(1), nn.GRU(1, 1), nn.PReLU()
            ),
            "Linear, Conv1d, LayerNorm, BatchNorm1d, GRU, ...",
        ),
    ],
)
def test_a_net_without_convolutions_is_refused(net, has):
    said = (
        "channels_last=True is for nets with Conv2d or Conv3d, whose weights have 4 or 5 dimensions; "
        f"this one has {has}. Leave it out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        layout.channels_last(net)


def test_a_lazy_net_is_refused_until_its_shapes_are_known():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(2, 3))
    with pytest.raises(ValueError, match=r"some are lazy\. Call the net once, model\(x\), before training\.$"):
        layout.channels_last(net)
    assert not is_last(net[0].weight)
    net(data()[0])
    layout.channels_last(net)
    assert is_last(net[1].weight)


def test_training_is_close_to_that_of_the_plain_layout():
    net, plain = Net(), Net()
    layout.channels_last(net)
    for one in (net, plain):
        trained(one, torch.optim.SGD, steps=1, lr=0.1)
    for name, value in plain.state_dict().items():
        assert torch.allclose(net.state_dict()[name], value, atol=1e-5), name
    assert is_last(net.down.weight)
    assert is_last(net.down.weight.grad)


def test_gradients_that_are_there_are_laid_out_too():
    net = Net()
    nn.functional.cross_entropy(net(data()[0]), data()[1]).backward()
    before = net.down.weight.grad.clone()
    layout.channels_last(net)
    assert is_last(net.down.weight.grad)
    assert torch.equal(net.down.weight.grad, before)
    assert net.down.weight.grad.requires_grad is False


@pytest.mark.parametrize("fused", [True, False])
def test_the_state_of_an_optimizer_from_another_layout_is_aligned(fused):
    plain = Net()
    first = trained(plain, fused=fused)
    net = copy.deepcopy(plain)
    layout.channels_last(net)
    second = torch.optim.Adam(net.parameters(), fused=fused)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    layout.align(second)
    assert is_last(second.state[net.down.weight]["exp_avg"])
    for one, other in zip(plain.parameters(), net.parameters(), strict=True):
        other.grad = torch.empty_like(other).copy_(one.grad)
    first.step()
    second.step()
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), net.parameters(), strict=True))


def test_aligning_leaves_alone_what_is_aligned():
    net = Net()
    layout.channels_last(net)
    optimizer = trained(net)
    before = {id(value) for state in optimizer.state.values() for value in state.values()}
    layout.align(optimizer)
    assert {id(value) for state in optimizer.state.values() for value in state.values()} == before


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_go_to_a_file_and_back(tmp_path, suffix):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    model, other, plain = kt.Model(Net()), kt.Model(Net()), kt.Model(Net())
    layout.channels_last(model.net)
    trained(model.net)
    model.save_weights(tmp_path / f"net.{suffix}")
    layout.channels_last(other.net)
    for one in (other, plain):
        one.load_weights(tmp_path / f"net.{suffix}")
        assert all(torch.equal(value, one.state_dict()[name]) for name, value in model.state_dict().items())
    assert is_last(other.net.down.weight)
    assert plain.net.down.weight.is_contiguous()


def test_a_training_goes_through_a_file():
    net, file = Net(), io.BytesIO()
    layout.channels_last(net)
    optimizer = trained(net)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    twin = Net()
    layout.channels_last(twin)
    twin.load_state_dict(saved["net"])
    other = torch.optim.Adam(twin.parameters())
    other.load_state_dict(saved["optimizer"])
    layout.align(other)
    for one, its in ((net, optimizer), (twin, other)):
        its.zero_grad()
        nn.functional.cross_entropy(one(data()[0]), data()[1]).backward()
        its.step()
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())


def test_outputs_are_laid_out_as_their_shapes_say():
    net = Net(pixels=True).eval()
    layout.channels_last(net)
    output = net(data()[0])
    assert not output.is_contiguous()
    found = layout.contiguous({"map": output, "row": (output[:, 0, 0], 3)})
    assert found["map"].is_contiguous()
    assert torch.equal(found["map"], output)
    assert found["row"][0].is_contiguous()
    assert found["row"][1] == 3
    plain = torch.ones(2, 3)
    assert layout.contiguous(plain) is plain
    sparse = plain.to_sparse()
    assert layout.contiguous(sparse) is sparse
