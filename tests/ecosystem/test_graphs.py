"""Graphs of torch_geometric, by its own loader."""

import warnings

import pytest
import torch
from torch import nn

import kerastorch as kt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses what torch calls deprecated
    pytest.importorskip("torch_geometric")
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import GCNConv, global_mean_pool


class GCN(nn.Module):
    """Tells the class of a graph, or of each node."""

    def __init__(self, *, by_node=False):
        super().__init__()
        self.first, self.second, self.head = GCNConv(3, 16), GCNConv(16, 16), nn.Linear(16, 2)
        self.by_node = by_node

    def forward(self, graphs):
        hidden = self.first(graphs.x, graphs.edge_index).relu()
        hidden = self.second(hidden, graphs.edge_index).relu()
        return self.head(hidden if self.by_node else global_mean_pool(hidden, graphs.batch))


def graphs(count=61, *, by_node=False):
    """Rings of nodes; the first feature is large in graphs, or nodes, of class 1."""
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        nodes = int(torch.randint(4, 9, (), generator=random))
        label = torch.randint(2, (nodes if by_node else 1,), generator=random)
        x = torch.randn(nodes, 3, generator=random)
        x[:, 0] += 4 * label
        ring = torch.arange(nodes)
        edges = torch.stack([torch.cat([ring, ring.roll(1)]), torch.cat([ring.roll(1), ring])])
        found.append(Data(x=x, edge_index=edges, y=label))
    return found


def compiled(*, by_node=False):
    torch.manual_seed(0)
    model = kt.Model(GCN(by_node=by_node))
    model.compile("cross_entropy", lambda parameters: torch.optim.Adam(parameters, 0.02), ["accuracy"])
    return model


def test_graphs_are_learned_as_in_a_loop_by_hand():
    model, data = compiled(), graphs()
    torch.manual_seed(1)
    history = model.fit(8, DataLoader(data, 16, shuffle=True), DataLoader(data, 32), verbose=0)
    assert history["val_accuracy"][-1] > 0.9

    by_hand = compiled().net
    optimizer = torch.optim.Adam(by_hand.parameters(), 0.02)
    torch.manual_seed(1)
    for _ in range(8):
        for batch in DataLoader(data, 16, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(by_hand(batch), batch.y).backward()
            optimizer.step()
    for one, other in zip(model.net.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("by_node", [False, True])
def test_means_do_not_depend_on_the_batch_size(by_node):
    model, data = compiled(by_node=by_node), graphs(by_node=by_node)
    model.fit(1, DataLoader(data, 16), verbose=0)
    whole = next(iter(DataLoader(data, len(data))))
    with torch.no_grad():
        output = model.net.eval()(whole)
    for size in (7, 61):
        values = model.evaluate(DataLoader(data, size))
        assert values["loss"] == pytest.approx(nn.functional.cross_entropy(output, whole.y).item(), rel=1e-5)
        assert values["accuracy"] == pytest.approx((output.argmax(1) == whole.y).float().mean().item())
    torch.testing.assert_close(model.predict(DataLoader(data, 7)), output)


def test_one_large_graph_trains_by_its_mask():
    data = graphs(1, by_node=True)[0]
    model = compiled(by_node=True)
    labels = data.y.clone()
    labels[::2] = -100  # not counted
    data.y = labels
    history = model.fit(30, [data], verbose=0)
    assert history["accuracy"][-1] == 1
