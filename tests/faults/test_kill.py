"""`kill -9` at any moment: the same script again gives the result of a training that nobody killed."""

import os
from pathlib import Path

import harness
import pytest
import torch

KILLS = int(os.environ.get("KERASTORCH_KILLS", "12"))  # scripts/soak takes more
CONFIGURATIONS = {
    "every step": {"save_freq": 1},
    "every fifth step, in the background": {"save_freq": 5, "background": True},
    "two workers, seed": {"save_freq": 3, "workers": 2, "seed": 0},
}
SHARES = {"every step": 0.5, "every fifth step, in the background": 0.3, "two workers, seed": 0.2}


@pytest.fixture(scope="module")
def server():
    return harness.Server()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_training_survives_kills(name, server, digits, tmp_path, capsys):
    options = {**CONFIGURATIONS[name], "data": str(digits), "pause": 0.01}
    whole, result = tmp_path / "whole.pt", tmp_path / "result.pt"
    outcome = harness.killed_until_done(server, tmp_path / "never", whole, options, kills=0, seed=0)
    assert outcome.kills == 0
    kills = max(1, round(KILLS * SHARES[name]))
    outcome = harness.killed_until_done(server, tmp_path / "backup", result, options, kills=kills, seed=1)
    with capsys.disabled():
        print(f"\n{name}: {outcome.kills} kills, {outcome.restarts} restarts, {len(outcome.damaged)} damaged files")
    assert not outcome.damaged
    assert outcome.kills >= 0.8 * kills
    assert harness.same(whole, result) == []
    assert not list(Path(tmp_path).glob("**/.*.tmp")), "what dead processes left is swept"


def test_the_comparison_sees_a_difference(tmp_path):
    torch.save({"model": {"weight": torch.zeros(2)}, "random": [1.0]}, tmp_path / "one.pt")
    torch.save({"model": {"weight": torch.tensor([0.0, 1e-7])}, "random": [2.0]}, tmp_path / "other.pt")
    assert harness.same(tmp_path / "one.pt", tmp_path / "other.pt") == ["/model/weight", "/random/0"]
