"""Programs of pages, run as users run them: each in a process of its own."""

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
READS_REAL_DATA = re.compile(r"\b(MNIST|CIFAR10)\(")
# But for one of torch 2.6 itself: it leaves a folder to the end of the interpreter
WARNINGS_ARE_ERRORS = ("-W", "error", "-W", "ignore:Implicitly cleaning up:ResourceWarning")
NO_NETWORK = "http://127.0.0.1:9"  # nobody listens there: a download fails at once, on every machine


def run_program(text, cwd, *, timeout=120):
    """Run a program in an empty folder, without a network, and return the process that has ended.

    It is written into the folder as `program.py`, where workers that are spawned find it. torchvision's MNIST and
    CIFAR10 read a small part of the data in KERASTORCH_DATA. After the time is over all its processes are killed.

    Args:
        text: The program; it may be indented, as in a list.
        cwd: The folder.
        timeout: Seconds.

    Returns:
        A `subprocess.CompletedProcess` with `returncode`, `stdout` and `stderr`.

    Raises:
        subprocess.TimeoutExpired: The time is over.
    """
    Path(cwd, "program.py").write_text(textwrap.dedent(text), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=cwd,
        env=os.environ | environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # workers too, which hold the pipes open
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def environment():
    """Return what a program's environment has beside that of the tests."""
    paths = [str(ROOT), str(ROOT / "tests" / "real_datasets"), os.environ.get("PYTHONPATH")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "KERAS_BACKEND": "torch",
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "http_proxy": NO_NETWORK,
        "https_proxy": NO_NETWORK,
        "no_proxy": "localhost,127.0.0.1",
    }


def reason_to_skip(text):
    """Return why a program cannot be run here: a package, or the data that it reads; None if it can."""
    missing = sorted(name for name in imported(textwrap.dedent(text)) if importlib.util.find_spec(name) is None)
    if missing:
        return f"not installed: {', '.join(missing)}"
    if READS_REAL_DATA.search(text) and not os.environ.get("KERASTORCH_DATA"):
        return "KERASTORCH_DATA is not set: no MNIST / CIFAR-10 here"
    return None


def imported(text):
    """Return the packages that a program imports outside its functions."""
    names = set()
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            names.add(statement.module)
    return {name.partition(".")[0] for name in names}
