import torch
from torch import nn

from kerastorch.strategy import Strategy


def test_one_process_does_what_a_loop_written_by_hand_does():
    net, strategy = nn.Linear(2, 1), Strategy()
    assert strategy.wrap(net) is net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    before, x = net.weight.detach().clone(), torch.tensor([[1.0, 2.0]])
    strategy.backward(net(x).sum())
    assert torch.equal(net.weight.grad, x)
    assert torch.equal(net.weight, before)
    strategy.step(optimizer)
    assert torch.equal(net.weight, before - 0.5 * x)


def test_one_process_has_the_whole_sum():
    sums = [1.0, 2.5]
    assert Strategy().group.total(sums) == [1.0, 2.5]
