"""A worker that is killed: torchrun starts all anew, and the training ends as if nothing had happened."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import json, os, signal, sys
    from pathlib import Path

    import torch
    from torch import nn
    import kerastorch as kt

    directory, kill = Path(sys.argv[1]), [int(part) for part in sys.argv[2].split(",") if part]
    rank = int(os.environ["RANK"])
    x = torch.randn(101, 4, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()

    class Watch(kt.Callback):
        def on_train_batch_begin(self, batch, logs):
            for step in kill:
                mark = directory / f"killed-{step}"
                if self.run.state.step == step and rank == step % 2 and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=0.01), ["accuracy"])
    backup = kt.callbacks.BackupAndRestore(directory / "backup", 2)
    history = model.fit(4, (x, y), batch_size=8, seed=0, verbose=0, callbacks=[backup, Watch()])
    if rank == 0:
        state = model.state_dict()
        (directory / "end.json").write_text(json.dumps({
            "epochs": history.epoch,
            "loss": history.history["loss"],
            "accuracy": history.history["accuracy"],
            "weights": {name: value.tolist() for name, value in state.items()},
        }))
"""


def run(directory, kill=()):
    directory.mkdir()
    script = directory / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    command += [str(script), str(directory), ",".join(map(str, kill))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "end.json").read_text())


def test_a_killed_worker_changes_nothing(tmp_path):
    expected, found = run(tmp_path / "whole"), run(tmp_path / "killed", kill=(3, 17))
    assert (tmp_path / "killed" / "killed-3").exists()
    assert (tmp_path / "killed" / "killed-17").exists()
    assert found["epochs"] == expected["epochs"] == [0, 1, 2, 3]
    for name in ("loss", "accuracy"):  # over 101 samples: one that was seen twice or never would show
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    for name, value in expected["weights"].items():
        assert sum(map(_flat, found["weights"][name])) == pytest.approx(sum(map(_flat, value)), abs=1e-5)


def _flat(value):
    return sum(map(_flat, value)) if isinstance(value, list) else value
