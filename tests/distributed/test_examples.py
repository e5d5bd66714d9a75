"""examples/mnist.py needs no change to train in several processes: a launcher in front of it is enough."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def said(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=EXAMPLES,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(text):
    return re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)


def test_mnist_trains_under_torchrun_and_from_distributed_py_alike(real_data):
    arguments = ["--quick", "--data", str(real_data)]
    launched = said("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "mnist.py", *arguments)
    started = said("distributed.py", "--processes", "2", *arguments)
    for text in (launched, started):
        assert text.count("Start Training ...") == 1  # the main process alone
        assert text.count("Total params: 53,994") == 1
        assert "{'step': 10, " in text
        assert "{'step': 15, " not in text  # 2560 images, 128 for each of two processes
    assert len(table(launched)) == 2
    assert table(launched) == table(started)
