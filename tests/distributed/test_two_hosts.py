"""Two hosts, which are network namespaces of this machine, train together by the commands of docs/distributed.md."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import kerastorch as kt

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"]
SETUP = "mount -t tmpfs tmpfs /run"  # `ip netns` keeps names there; in a mount namespace it is nobody else's
SECONDS = 120

SCRIPT = """
import json
import os
import socket
from pathlib import Path

from tests.distributed.test_two_hosts import data, fresh

model = fresh()
history = model.fit(2, data(), batch_size=16, shuffle=False, verbose=2)
rank = os.environ["RANK"]
found = {
    "devices": [name for _, name in socket.if_nameindex()],
    "history": history.history,
    "weights": [parameter.tolist() for parameter in model.parameters()],
}
Path(f"found-{rank}.json").write_text(json.dumps(found))
"""


def fresh():
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)))
    model.compile("cross_entropy", "adam", ["accuracy"], device="cpu")
    return model


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(100, 8, generator=generator)  # the last step has 4 samples for the main process, none for the other
    return x, x[:, :3].argmax(1)


def commands():
    """Return the block of the page that makes two hosts."""
    return next(block for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL) if "ip netns" in block)


@pytest.fixture(scope="module")
def sandbox():
    """Return a command that runs a script where namespaces may be made; all of them end with it, however it ends."""
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        pytest.skip("needs Linux, ip and unshare")
    script = f"{SETUP} && ip netns add probe && ip -n probe link add one type veth peer name two"
    tried = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode:
        pytest.skip(f"network namespaces are not allowed here: {tried.stderr.strip()}")
    return [*UNSHARE, "bash", "-e", "-o", "pipefail", "-c"]


def trained(sandbox, folder, script):
    (folder / "train.py").write_text(script)
    launcher = folder / "bin" / "torchrun"  # that of this Python
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    launcher.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(launcher.parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(PAGE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*sandbox, f"{SETUP}\n{commands()}\necho what is left:\nip netns list"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("what is left:\n")
    return done, [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_two_hosts_train_what_one_process_does(sandbox, tmp_path):
    done, (one, other) = trained(sandbox, tmp_path, SCRIPT)
    assert sorted([set(one["devices"]) - {"lo"}, set(other["devices"]) - {"lo"}], key=min) == [{"veth1"}, {"veth2"}]
    assert one["weights"] == other["weights"]
    for name in ("loss", "accuracy"):
        assert one["history"][name] == other["history"][name]
    assert done.stdout.count("Epoch 1/2") == 1  # only the main process prints

    alone = fresh()
    history = alone.fit(2, data(), batch_size=32, shuffle=False, verbose=0)
    for parameter, weights in zip(alone.parameters(), one["weights"], strict=True):
        torch.testing.assert_close(torch.tensor(weights), parameter.detach(), rtol=0, atol=1e-6)
    for name in ("loss", "accuracy"):
        assert one["history"][name] == pytest.approx(history.history[name], abs=1e-6)


def test_nothing_is_left_of_the_hosts_when_the_test_is_killed(sandbox):
    sleep = ["sleep", "98765"]
    script = f"{SETUP}; ip netns add host1; ip netns exec host1 {' '.join(sleep)}"
    with subprocess.Popen([*sandbox, script]) as process:
        until(lambda: sleep in running())
        process.kill()
    until(lambda: sleep not in running())


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def running():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            yield path.read_text().split("\0")[:-1]
