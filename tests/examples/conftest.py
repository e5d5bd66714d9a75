import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import WARNINGS_ARE_ERRORS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


@pytest.fixture(scope="session")
def run_example() -> Callable[..., str]:
    """Run an example as a user does, with warnings as errors, and return what it prints."""

    def run(name: str, *arguments: object, cwd: Path) -> str:
        command = [sys.executable, *WARNINGS_ARE_ERRORS, str(EXAMPLES / name), *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(
            command, check=False, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert "\x1b" not in done.stdout, "control codes where there is no terminal"
        return done.stdout

    return run
