"""Tables of Markdown out of the figures of `python -m benchmarks`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import REFERENCE
from benchmarks.workloads import SIZES, units

MARK = "<!-- python -m benchmarks writes below this line -->"
Results = dict[str, Any]
RowFigures = dict[str, Any]
COLUMNS = {  # workload: title, unit, factor, digits
    "step": ("tiny MLP", "µs/step", 1e6, 0),
    "bar": ("with its bar", "µs/step", 1e6, 0),
    "cnn": ("MNIST CNN", "ms/step", 1e3, 1),
    "epoch": ("epoch in memory", "s", 1, 3),
    "evaluate": ("evaluate", "ms", 1e3, 1),
    "predict": ("predict", "ms", 1e3, 1),
}
NONE = "-"


def markdown(results: Results) -> str:
    """Return the tables, with what they were measured on and what is missing."""
    parts = [
        headline(results),
        "### CPU time\n\nThe ratio is to the optimised eager loop.\n",
        table(results, "cpu"),
        "### Wall time\n",
        table(results, "wall"),
        "### A process with one step, memory, compilation\n",
        others(results),
        notes(results),
    ]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def headline(results: Results) -> str:
    facts, size = results["machine"], SIZES[results["size"]]
    versions = sorted({(row["title"].split(",")[0], row["version"]) for row in measured(results) if row["version"]})
    named = ", ".join(f"{title} {version}" for title, version in versions if version != facts["torch"])
    load = f"; load at the end {facts['load']}" if facts["load"] is not None else ""
    return (
        f"{facts['cpu']}, one of {facts['cores']} cores, one thread; {facts['system']}, Python {facts['python']}, "
        f"torch {facts['torch']}; {named}.\n"
        f"Medians of {results['rounds']} rounds: {size.steps} steps of the MLP, {size.images} of the CNN, "
        f"{size.rows:,} rows an epoch, {size.held_out:,} to evaluate and predict{load}.\n"
    )


def measured(results: Results) -> list[RowFigures]:
    return [row for row in results["rows"] if row["figures"]]


def seconds(row: RowFigures, workload: str, kind: str, size: str) -> float | None:
    """Return seconds per step, or per run."""
    found = row["figures"].get(workload)
    return found[kind] / units(workload, SIZES[size]) if found else None


def ratio(results: Results, row: RowFigures, workload: str, kind: str = "cpu") -> float | None:
    """Return how many times as long as the optimised loop it takes."""
    size = results["size"]
    base = next((other for other in results["rows"] if other["key"] == REFERENCE.key), None)
    ours = seconds(row, workload, kind, size)
    theirs = seconds(base, workload, kind, size) if base else None
    return ours / theirs if ours is not None and theirs else None


def present(results: Results, names: Sequence[str]) -> list[str]:
    return [name for name in names if any(name in row["figures"] for row in results["rows"])]


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return "\n".join(text + [f"| {' | '.join(cells)} |" for cells in rows]) + "\n"


def table(results: Results, kind: str) -> str:
    columns = present(results, list(COLUMNS))
    heads = [""]
    for name in columns:
        title, unit, _, _ = COLUMNS[name]
        heads += [f"{title}, {unit}", "ratio"]
    rows = []
    for row in measured(results):
        if not set(columns) & set(row["figures"]):
            continue
        cells = [bold(row)]
        for name in columns:
            value, times = seconds(row, name, kind, results["size"]), ratio(results, row, name, kind)
            _, _, factor, digits = COLUMNS[name]
            cells.append(NONE if value is None else f"{value * factor:.{digits}f}")
            cells.append(NONE if times is None else f"{times:.2f}")
        rows.append(cells)
    return lines(heads, rows)


def bold(row: RowFigures) -> str:
    return f"**{row['title']}**" if row["key"].startswith("kerastorch") else row["title"]


def others(results: Results) -> str:
    base = next((row["figures"].get("process") for row in results["rows"] if row["key"] == REFERENCE.key), None)
    rows = []
    for row in measured(results):
        process, epoch = row["figures"].get("process"), row["figures"].get("epoch")
        if not process and not epoch:
            continue
        whole = f"{process['cpu']:.2f}" if process else NONE
        more = f"{process['cpu'] - base['cpu']:+.2f}" if process and base else NONE
        growth = epoch["growth_mb"] if epoch else None
        compiled = {name: compile_seconds(row, name) for name in ("step", "epoch")} if "jit" in row["key"] else {}
        took = ", ".join(f"{value:.1f}" for value in compiled.values() if value is not None)
        cells = [bold(row), whole, more, NONE if growth is None else f"{growth:.1f}", took or NONE]
        rows.append(cells)
    heads = ["", "process, CPU s", "over the loop, s", "MB more in a second epoch", "compiling MLP, epoch; wall s"]
    return lines(heads, rows) if rows else ""


def compile_seconds(row: RowFigures, workload: str) -> float | None:
    """Return what the first run took longer than the others, in wall time: compilers are processes of their own."""
    found = row["figures"].get(workload)
    return max(0.0, found["first_wall"] - found["wall"]) if found else None


def notes(results: Results) -> str:
    """Return what to know, and why something is missing."""
    known = [f"- {row['title']}: {row['note']}" for row in measured(results) if row["note"]]
    missing = [f"- {row['title']}, {where}" for row in results["rows"] for where in gathered(row["reasons"])]
    parts = ["### Notes\n", *known] if known else []
    parts += ["\n### Left out\n", *missing] if missing else []
    return "\n".join(parts)


def gathered(reasons: dict[str, str]) -> list[str]:
    """Return each reason once, after the workloads that it holds for."""
    workloads: dict[str, list[str]] = {}
    for name, why in reasons.items():
        workloads.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: {why}" for why, names in workloads.items()]


def write(path: Path, text: str) -> None:
    """Write the tables to a file; what it says above the mark stays."""
    head = path.read_text(encoding="utf-8").partition(MARK) if path.exists() else ("", "", "")
    path.write_text(f"{head[0]}{MARK}\n\n{text}" if head[1] else text, encoding="utf-8")
