"""What a release says of itself is in one place, or the same in all."""

import ast
import re
from pathlib import Path

import kerastorch

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")


def lowest(name: str) -> str:
    """Return the oldest version of Python or a package that pyproject.toml allows."""
    found = re.search(rf'{name}(?: = ")?>=([0-9.]+)"', PROJECT)
    assert found is not None, name
    return found.group(1)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    version = kerastorch.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", version)
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    if headings[0] == "[Unreleased]":  # what the next version will have
        headings = headings[1:]
    versions = [re.fullmatch(r"\[([^\]]+)\] - (?:\d{4}-\d\d-\d\d|unreleased)", heading) for heading in headings]
    assert None not in versions, headings
    assert versions[0] is not None
    assert versions[0].group(1) == version
    assert not any(heading.endswith("unreleased") for heading in headings[1:]), headings


def test_the_version_is_written_in_one_place() -> None:
    assert '[tool.hatch.version]\npath = "kerastorch/__init__.py"' in PROJECT
    assert not re.search(r"^version", PROJECT, re.MULTILINE)
    assert not re.search(r"^version", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_python_that_is_named_is_tested() -> None:
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    matrix = re.search(r"python: (\[.*\])", WORKFLOW)
    assert matrix is not None
    assert ast.literal_eval(matrix.group(1)) == named
    assert named[0] == lowest("requires-python")
    assert f'python_version = "{named[0]}"' in PROJECT
    assert f'target-version = "py{named[0].replace(".", "")}"' in PROJECT


def test_the_oldest_torch_that_is_allowed_is_tested() -> None:
    assert set(re.findall(r"torch==([0-9.]+)\.\*", WORKFLOW)) == {lowest("torch")}


def test_the_workflow_does_what_continuous_integration_does() -> None:
    """Each line of .ci/run that runs something."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines if re.match(r"(\w+=\S+ )*(scripts|\.venv)/", line)]
    assert len(commands) >= 4
    places = [WORKFLOW.find(f"- run: {command}") for command in commands]
    missing = [command for command, place in zip(commands, places, strict=True) if place < 0]
    assert missing == [], "not in .github/workflows/test.yml"


def test_every_test_that_security_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`:]+)::(\w+)`", text)
    assert len(named) >= 6
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_the_scripts_can_be_called() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]  # .py: of mkdocs
    assert len(scripts) >= 8
    assert [path.name for path in scripts if not path.stat().st_mode & 0o111] == []
