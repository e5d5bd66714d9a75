import pytest
import torch
from torch import nn

from kerastorch import checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_a_net_on_the_gpu_may_change_while_it_is_written(tmp_path):
    net = nn.Linear(2000, 2000, device="cuda")
    writer = checkpoint.Writer()
    for number in range(3):
        before = net.weight.detach().clone()
        writer.submit({"model": net.state_dict()}, tmp_path / f"{number}.pt")
        with torch.no_grad():
            net.weight.add_(1)
        writer.wait()
        assert torch.equal(checkpoint.load(tmp_path / f"{number}.pt")["model"]["weight"], before.cpu())
        assert not torch.equal(net.weight, before)
