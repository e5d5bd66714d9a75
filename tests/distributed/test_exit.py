"""Real scripts under torchrun, and scripts that end with all of torch's objects alive."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

import kerastorch as kt
from tests.distributed.together import needs_fsdp

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(kt.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
FAILS = """
import sys, time
import torch
from kerastorch import signals
from kerastorch.strategy.processes import join

group = join(torch.device("cpu"), 60)
group.total([1.0])
with signals.preemptible(lambda number: None):
    if group.rank == 1:
        print("raised", time.time(), flush=True)
        raise ValueError("boom")
    if group.rank == 2:
        time.sleep(60)
    while True:
        group.total([1.0])
"""
RESTARTS = """
import os
import torch
from kerastorch.strategy.processes import join

group = join(torch.device("cpu"), 20)
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
assert group.everyone(attempt) == [attempt] * 2
if attempt < 3:
    if group.rank == attempt % 2:
        os.kill(os.getpid(), 9)
    while True:
        group.total([1.0])
if group.is_main:
    print("finished after", attempt, flush=True)
"""
SHARDED = """
import sys
import torch
import torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from kerastorch.strategy.processes import join

group = join(torch.device("cpu"), 60)
mesh = init_device_mesh("cpu", (group.size,))
net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
for layer in net:
    fully_shard(layer, mesh=mesh)
fully_shard(net, mesh=mesh)
optimizer = torch.optim.AdamW(net.parameters())
for _ in range(3):
    net(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
dcp.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=sys.argv[1])
group.total([1.0])
dist.broadcast(torch.ones(1), 0)
"""


def torchrun(folder, text, count, *options):
    (folder / "train.py").write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *options, "train.py"]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, timeout=120
    )


def test_one_that_fails_ends_the_job_with_one_message(tmp_path):
    done = torchrun(tmp_path, FAILS, 3)
    assert time.time() - float(done.stdout.split()[1]) < 10
    assert done.returncode == 1
    assert done.stderr.count('raise ValueError("boom")') == 1
    ours = done.stderr[: done.stderr.index("torch/distributed/elastic")]
    assert ours.count("Traceback") == 1
    assert "kerastorch: process 0 of 3 ends, as process 1 has failed: ValueError: boom\n" in done.stderr
    cause = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1" in cause
    assert "traceback : ValueError: boom" in cause


def test_restarts_under_torchrun_find_each_other(tmp_path):
    done = torchrun(tmp_path, RESTARTS, 2, "--max-restarts=3")
    assert (done.returncode, done.stdout) == (0, "finished after 3\n"), done.stderr


@needs_fsdp
@pytest.mark.parametrize("run", range(2))
def test_a_script_ends_cleanly_with_everything_alive(tmp_path, run):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    environment = ENVIRONMENT | place | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, tmp_path / "saved"],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0]
    assert not any("terminate called" in text for text, _ in ended)
