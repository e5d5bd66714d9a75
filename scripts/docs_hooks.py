"""What mkdocs does beside: the figures of the benchmarks, and the files of the repository that pages link to."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results.json"
sys.path.insert(0, str(ROOT))  # for the tables of the benchmarks

BETWEEN_CHARACTERS = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")
LINK = re.compile(r"(?<=\]\()(?P<target>(?:\.\./)+[^)#\s]+)")
FIGURES = re.compile(r"<!-- figures -->.*<!-- end of figures -->", re.DOTALL)
CELLS = re.compile(r"<t[dh][^>]*>.*?</t[dh]>", re.DOTALL)
CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
BREAKS = re.compile(r"(?<=\w[(,.=_/:])(?=[^\s,.]{4})")  # not in `(N, C)`, nor before `.pt`
PAGES = {
    "benchmarks/RESULTS.md": "benchmarks.md",
    "kerastorch/loop.py": "loop.md",
}  # what the site has in a form of its own
LANGUAGES = {".py": "python", ".json": "json", ".md": "markdown", ".sh": "bash", "": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, and draw the chart anew."""
    for path in sorted({path for page in DOCS.rglob("*.md") for _, path in outside(page, page.read_text("utf-8"))}):
        if path.relative_to(ROOT).as_posix() in PAGES:
            continue
        if path.suffix == ".ipynb":  # to be downloaded
            added = File.generated(config, place(path), abs_src_path=str(path))
        else:
            text = f"# {path.name}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text('utf-8')}````\n"
            added = File.generated(config, place(path), content=text)
        files.append(added)
    chart = files.get_file_from_path("images/benchmarks.svg")
    if chart is not None:
        files.remove(chart)
    files.append(File.generated(config, "images/benchmarks.svg", content=drawn()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of `docs/` to the copies, and fill in the figures."""
    source = DOCS / page.file.src_uri
    if not source.exists():  # one of the copies
        return markdown
    folder = Path(page.file.src_uri).parent
    markdown = BETWEEN_CHARACTERS.sub("", markdown)  # a browser would show a space
    markdown = FIGURES.sub(lambda _: figures(), markdown)
    for target, path in outside(source, markdown):
        known = PAGES.get(path.relative_to(ROOT).as_posix(), place(path))
        markdown = re.sub(
            rf"(?<=\]\(){re.escape(target)}(?=[)#])", Path(os.path.relpath(known, folder)).as_posix(), markdown
        )
    return markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let code in tables break where a reader would break it; the stylesheet forbids it elsewhere."""
    return CELLS.sub(lambda cell: CODE.sub(lambda code: BREAKS.sub("<wbr>", code[0]), cell[0]), output)


def outside(page: Path, text: str) -> Iterator[tuple[str, Path]]:
    """Yield what a page links to outside of `docs/`: as it is written there, and the file."""
    for match in LINK.finditer(FIGURES.sub("", text)):
        path = Path(os.path.normpath(page.parent / match["target"]))
        if path.is_file() and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS):
            yield match["target"], path


def place(path: Path) -> str:
    """Return where the site has a file of the repository."""
    name = f"files/{path.relative_to(ROOT).as_posix()}"
    return name if path.suffix == ".ipynb" else f"{name}.md"


def figures() -> str:
    """Return a table for each workload, the fastest first; every number is from the JSON."""
    from benchmarks import report

    results = json.loads(RESULTS.read_text("utf-8"))
    parts = [report.headline(results)]
    for name in report.present(results, list(report.COLUMNS)):
        title, unit, factor, digits = report.COLUMNS[name]
        measured = [row for row in report.measured(results) if name in row["figures"]]
        measured.sort(key=lambda row: row["figures"][name]["cpu"])
        rows = []
        for row in measured:
            seconds, ratio = report.seconds(row, name, "cpu", results["size"]), report.ratio(results, row, name)
            rows.append([report.bold(row), f"{seconds * factor:.{digits}f}", f"{ratio:.2f}"])
        parts += [f"### {title[0].upper()}{title[1:]}\n", report.lines(["", f"CPU time, {unit}", "ratio"], rows)]
    parts += ["### A process with one step, memory, compilation\n", report.others(results), report.notes(results)]
    return "\n".join(parts)


def drawn() -> str:
    """Return the chart as SVG, one part below the other."""
    import tempfile

    from benchmarks import chart

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "benchmarks.svg")
        chart.save(json.loads(RESULTS.read_text("utf-8")), path, stacked=True)  # it has to be read on a phone too
        return path.read_text("utf-8")
