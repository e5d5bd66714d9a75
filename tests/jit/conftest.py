import logging

import pytest
import torch._inductor

from kerastorch.jit.contest import Contest


@pytest.fixture(autouse=True)
def untraced(monkeypatch):
    """Torch hands thousands of records of each compilation to pytest, which keeps them all."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


@pytest.fixture
def uncompiled(monkeypatch):
    """The graph is made as ever, but runs as it is: that takes no seconds to compile."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, examples: graph)
    return graphs_win(monkeypatch)


@pytest.fixture
def graphs(monkeypatch):
    """The graph is used from the second batch on, whatever is faster."""
    return graphs_win(monkeypatch)


def graphs_win(monkeypatch):
    monkeypatch.setattr(Contest, "winner", property(lambda contest: 1))
