"""Every block of Python in README.md and docs/ runs, in its order."""

import re
from pathlib import Path

import pytest

import kerastorch as kt

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text[: match.start(1)].count("\n")
        yield "\n" * line + match.group(1)  # an error names the line of the page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_page_on_callbacks_names_them_all():
    text = (ROOT / "docs" / "callbacks.md").read_text(encoding="utf-8")
    names = set(kt.callbacks.__all__) - {"Callback", "Logger"}
    assert [name for name in names if f"`{name}`" not in text] == []
    assert "kt.callbacks.Logger" in text


def test_every_promise_has_its_test():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?`", text)
    assert len(named) >= 15
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name
