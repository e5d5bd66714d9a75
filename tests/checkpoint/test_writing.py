from collections import OrderedDict

import pytest
import torch
from torch import nn

from kerastorch import checkpoint
from kerastorch.checkpoint.writing import size_of


def nets():
    net = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    net[1].weight = net[0].weight
    many = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))
    big = torch.zeros(100_000)
    optimizer = torch.optim.Adam(many.parameters())
    sum(part(torch.ones(1, 2)).sum() for part in many).backward()
    optimizer.step()
    rows = [{f"metric_{name}": epoch / 7 for name in range(20)} for epoch in range(300)]
    return {
        "tied": net.state_dict(),
        "many": {"model": many.state_dict(), "optimizer": optimizer.state_dict()},
        "views": {"a": big[:10], "b": big[10:20].view(2, 5), "c": big},
        "history": {"rows": rows, "text": "x" * 10_000, "bytes": b"x" * 10_000},
        "sparse": {"a": torch.eye(2000).to_sparse(), "b": torch.zeros(0), "c": {1, 2}, "d": (None, torch.float16)},
        "empty": OrderedDict(),
    }


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("name", list(nets()))
def test_the_size_is_known_before(tmp_path, name):
    content = nets()[name]
    checkpoint.save(content, tmp_path / "a.pt")
    size = (tmp_path / "a.pt").stat().st_size
    tensors = sum(1 for _ in torch.load(tmp_path / "a.pt")) if name != "many" else 2400
    assert size <= size_of(content) <= 1.02 * size + 400 * tensors + 600_000 * (name == "history") + 20_000
