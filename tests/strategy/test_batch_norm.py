"""BatchNorm over two processes: outputs, gradients and statistics of one process that has all samples."""

import copy
import io

import pytest
import torch
from torch import nn

from kerastorch.recompute import recomputed
from kerastorch.strategy.batch_norm import Synchronised, synchronised
from kerastorch.strategy.group import Group
from kerastorch.strategy.processes import join
from tests.distributed.together import together

SHAPES = {1: (9, 3, 5), 2: (9, 3, 4, 5), 3: (9, 3, 2, 4, 5), 0: (9, 3)}
KINDS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def new_net(dimensions=2, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = KINDS[dimensions](3, **options)
    if layer.affine:
        nn.init.uniform_(layer.weight)
        nn.init.uniform_(layer.bias)
    return nn.Sequential(layer).to(dtype)


def data(dimensions, step=0):
    torch.manual_seed(step + 1)
    x = torch.randn(SHAPES[dimensions], dtype=torch.float64) * 3 + 100  # far from 0, where digits would be lost
    return x, torch.randn_like(x)


def steps(net, cut, dimensions, count=3):
    """Outputs, gradients of inputs, and in the end gradients of parameters and statistics."""
    found, dtype = [], next(net.parameters(), torch.zeros(1, dtype=torch.float64)).dtype
    for step in range(count):
        x, factors = (part[cut].to(dtype) for part in data(dimensions, step))
        x.requires_grad = True
        output = net(x)
        (output * factors).square().sum().backward()
        found += [output.detach(), x.grad]
    gradients = [part.grad for part in net.parameters()]
    return found, gradients, [buffer.double() for buffer in net.buffers()]


def in_two(dimensions, options, cuts, dtype):
    group = join(torch.device("cpu"))
    net = new_net(dimensions, dtype, **options)
    with synchronised(net, group):
        found, gradients, buffers = steps(net, cuts[group.rank], dimensions)
    assert "forward" not in vars(net[0])
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)
    return packed((found, gradients, buffers))


def packed(tree):
    content = io.BytesIO()
    torch.save(tree, content)
    return content.getvalue()


def unpacked(contents):
    return [torch.load(io.BytesIO(content)) for content in contents]


UNEVEN = (slice(0, 7), slice(7, None))
CASES = {
    "images": (2, {}, UNEVEN),
    "rows": (0, {}, UNEVEN),
    "sequences": (1, {}, UNEVEN),
    "volumes": (3, {}, UNEVEN),
    "one sample": (0, {}, (slice(0, 8), slice(8, None))),
    "no sample": (2, {}, (slice(0, 9), slice(9, None))),
    "plain mean": (2, {"momentum": None}, UNEVEN),
    "no statistics": (2, {"track_running_stats": False}, UNEVEN),
    "no weights": (2, {"affine": False, "momentum": 0.3, "eps": 1e-2}, UNEVEN),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_to_one_process(name, dtype):
    dimensions, options, cuts = CASES[name]
    expected, of_parameters, statistics = steps(new_net(dimensions, **options), slice(None), dimensions)
    results = unpacked(together(2, in_two, dimensions, options, cuts, dtype))
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    largest = 0.0
    for cut, (found, gradients, buffers) in zip(cuts, results, strict=True):
        for got, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(got.double(), whole[cut], **tolerance)
            largest = max([largest, *(got.double() - whole[cut]).abs().flatten().tolist()])
        for got, whole in zip([*gradients, *buffers], [*of_parameters, *statistics], strict=True):
            torch.testing.assert_close(got.double(), whole, **tolerance)
    print(f"{name}, {dtype}: {largest:.1e}")


def with_filler():
    group = join(torch.device("cpu"))
    net = new_net()
    x, factors = data(2)
    x.requires_grad = True
    with synchronised(net, group, lambda: group.is_main):
        output = net(x * (group.rank + 1))
        (output * factors).sum().mul(float(group.is_main)).backward()
    return packed([output.detach(), x.grad, net[0].running_mean])


def test_samples_that_do_not_count_change_nothing():
    (output, gradient, mean), (_, of_filler, same) = unpacked(together(2, with_filler))
    net = new_net()
    x, factors = data(2)
    x.requires_grad = True
    expected = net(x)
    (expected * factors).sum().backward()
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(gradient, x.grad)
    torch.testing.assert_close(mean, net[0].running_mean)
    assert torch.equal(mean, same)
    assert not of_filler.any()


def modes():
    group = join(torch.device("cpu"))
    net = new_net()
    plain = copy.deepcopy(net).eval()
    x = data(2)[0][: 2 + group.rank]
    with synchronised(net, group):
        frozen = torch.equal(net.eval()(x), plain(x))
        copied = copy.deepcopy(net)
        names = list(net.state_dict())
        net.train()(x)
        with pytest.raises(ValueError, match="expected 4D input"):
            net(x[0])
        halves = net.to(torch.bfloat16)(x.bfloat16()).dtype
    return frozen, isinstance(vars(copied[0])["forward"], Synchronised), names == list(plain.state_dict()), halves


def test_evaluation_copies_and_names_are_those_of_the_layer():
    assert together(2, modes) == [(True, False, True, torch.bfloat16)] * 2


def computed_again():
    group = join(torch.device("cpu"))
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Tanh()).double()
    own = net[0][1].forward
    vars(net[0][1])["forward"] = own  # one that was there before comes back
    torch.manual_seed(0)
    x = data(0)[0][UNEVEN[group.rank]]
    results = []
    for patterns in (["0"], []):
        twin = copy.deepcopy(net)
        with synchronised(twin, group), recomputed(twin, patterns):
            twin(x).square().sum().backward()
        results.append([part.grad for part in twin.parameters()] + list(twin.buffers()))
    with synchronised(net, group):
        pass
    back = vars(net[0][1])["forward"] is own
    return back, all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_with_parts_that_are_computed_again():
    assert together(2, computed_again) == [(True, True)] * 2


def test_one_process_is_left_alone():
    net = new_net()
    with synchronised(net, Group()):
        assert "forward" not in vars(net[0])
