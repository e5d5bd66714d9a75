"""Python in README.md and docs/ runs; pages name what there is, and links lead somewhere."""

import importlib.metadata
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import kerastorch as kt
from kerastorch import export
from tests.programs import reason_to_skip, run_program

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r'^(?P<indent> *)```python(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^(?P=indent)```$', re.DOTALL | re.MULTILINE
)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """Yield title and text of each block of Python, which may stand in a list; an error names the line of the page."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield match["title"], "\n" * text[: match.start("text")].count("\n") + textwrap.dedent(match["text"])


def programs():
    """Yield the blocks with a title, each a program of its own; tests/test_chinese.py runs those of docs/zh."""
    for page in PAGES:
        if page.parent.name != "zh":
            for title, text in blocks(page):
                if title:
                    line = len(text) - len(text.lstrip("\n"))
                    yield pytest.param(title, text, id=f"{name_of(page)}:{line}: {title}")


def needs_another_version(title):
    """Return why a program cannot be run here: `torchkeras 1.5` needs a version of this package that begins so."""
    match = re.fullmatch(r"(\S+) (\d+(?:\.\d+)*)", title)
    if match is None:
        return None
    try:
        version = importlib.metadata.version(match[1])
    except importlib.metadata.PackageNotFoundError:
        return f"not installed: {title}"
    return None if f"{version}.".startswith(f"{match[2]}.") else f"not installed: {title}, but {version}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.zh-CN.md"], ids=name_of)
def test_the_code_runs(page, tmp_path, monkeypatch):  # the Chinese README has the code of the other
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for title, block in blocks(page):
        if not title:
            exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("title, text", list(programs()))
def test_a_program_runs(title, text, tmp_path):
    if reason := needs_another_version(title) or reason_to_skip(text):
        pytest.skip(reason)
    done = run_program(text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_block_of_python_is_left_out():
    for page in PAGES:
        begun = re.findall(r"^ *```+ *python.*", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(begun) == len(list(blocks(page))), name_of(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lists_and_tables_have_a_blank_line_before_them(page):
    """GitHub shows them without one, the site does not."""
    text = re.sub(r"^( *)```.*?^\1```$", "x", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    item = r"(?:[-*+] |\d+\. |\|)"
    assert re.findall(rf"^(?!{item}|[ #<])\S.*\n{item}.*", text, re.MULTILINE) == []


INSIDE = {
    "kerastorch.checkpoint.load_described": "what `load_model` reads with; users have `load_model`",
    "kerastorch.checkpoint.save_described": "what `model.save` writes with",
    "kerastorch.errors.add_note": "what errors are raised with",
    "kerastorch.errors.did_you_mean": "what errors are raised with",
    "kerastorch.errors.needs": "what errors are raised with",
}


def public():
    """Yield the names that the reference must have; modules are reached through what is in them."""
    modules = kt, kt.callbacks, kt.checkpoint, kt.metrics, kt.optimizers, kt.plot, kt.sklearn, export, kt.errors
    for module in modules:
        names = getattr(module, "__all__", None) or defined_in(module)
        yield from (f"{module.__name__}.{name}" for name in names if not inspect.ismodule(getattr(module, name)))


def defined_in(module):
    return [
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
    ]


def test_the_reference_names_what_is_public():
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(set(named)), "each once"
    objects = {id(found(name)) for name in named}  # kt.Callback is kt.callbacks.Callback
    assert {name for name in public() if id(found(name)) not in objects} == set(INSIDE)


def found(name):
    """Return what a dotted name means."""
    module, _, rest = name.partition(".")
    assert module == "kerastorch"
    value = kt
    for part in rest.split("."):
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(f"{value.__name__}.{part}")
    return value


def test_the_page_on_callbacks_names_them_all():
    text = (DOCS / "callbacks.md").read_text(encoding="utf-8")
    names = set(kt.callbacks.__all__) - {"Callback", "Logger"}
    assert [name for name in names if f"`{name}`" not in text] == []
    assert "kt.callbacks.Logger" in text


def test_every_promise_has_its_test():
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?`", text)
    assert len(named) >= 15
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_the_page_on_the_loop_includes_it():
    text = (DOCS / "loop.md").read_text(encoding="utf-8")
    assert '\n--8<-- "loop.py"\n' in text, "a formatter that takes it for Python spoils it"
    assert text.count("\n**") == 5, "the page says so"
