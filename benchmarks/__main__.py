"""Compare kerastorch with loops written by hand and with other frameworks; see benchmarks/RESULTS.md.

    python -m benchmarks                          ours, and every peer that is installed; about 15 minutes
    python -m benchmarks --quick --peers none     only try it out

Each row of the table lives in a process of its own, all of them on one core with one thread, and they take turns: the
optimised loop, then the others, round after round. What is compared is the median CPU time. The results are checked: a
loss that is not near that of the optimised loop makes no row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import facts, processes, report
from benchmarks.peers import ALL, REFERENCE, Row, chosen
from benchmarks.processes import Failed, Worker

MEASURED = ALL[:-1]  # in a process that lives on


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=rows_of, default="all", help="keras,lightning,...; all (the default); or none")
    parser.add_argument("--workloads", type=workloads_of, default=ALL, help=f"some of {','.join(ALL)}; all by default")
    parser.add_argument("--size", choices=("full", "quick", "tiny"), default="full", help="how much is done in a round")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", help="the same as --size quick")
    parser.add_argument("--rounds", type=int, help="5 by default, 2 where it is to be quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables here, below a mark if it has one"
    )
    parser.add_argument("--torchkeras1", metavar="DIR", help="folder that torchkeras 1.5.3 was installed to")
    parsed = parser.parse_args(arguments)
    parsed.rounds = parsed.rounds or (5 if parsed.size == "full" else 2)
    return parsed


def rows_of(names: str) -> list[Row]:
    try:
        return chosen(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def workloads_of(names: str) -> list[str]:
    wanted = names.split(",")
    for name in wanted:
        if name not in ALL:
            raise argparse.ArgumentTypeError(f"Unknown workload {name!r}. There are {', '.join(ALL)}.")
    return wanted


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """The rows and what was found about them so far.

    Attributes:
        figures: `{row: {workload: {"cpu": [...], "wall": [...], ...}}}`, seconds of each round.
        reasons: `{row: {workload: why there is no figure}}`; `"start"` where the process did not even begin.
    """

    def __init__(self, rows: list[Row], size: str, rounds: int) -> None:
        self.rows, self.size, self.rounds = rows, size, rounds
        self.versions: dict[str, str] = {}
        self.figures: dict[str, dict[str, Any]] = {row.key: {} for row in rows}
        self.reasons: dict[str, dict[str, str]] = {row.key: {} for row in rows}

    @contextlib.contextmanager
    def noted(self, row: Row, workload: str) -> Iterator[None]:
        """Turn a failure into a reason, and go on."""
        try:
            yield
        except Failed as error:
            self.reasons[row.key][workload] = str(error)
            self.figures[row.key].pop(workload, None)
            say(f"  {row.title}, {workload}: {error}")

    def going(self, rows: Iterable[Row], workload: str) -> list[Row]:
        return [
            row for row in rows if workload in row.workloads and not {workload, "start"} & set(self.reasons[row.key])
        ]

    def each(self, workload: str, act: Callable[[Row], None]) -> None:
        for row in self.going(self.rows, workload):
            with self.noted(row, workload):
                act(row)

    def begin(self, workers: dict[str, Worker]) -> None:
        for row in self.rows:
            with self.noted(row, "start"):
                self.versions[row.key] = workers[row.key].ask("hello")["version"]

    def measure(self, workload: str, workers: dict[str, Worker]) -> None:
        """Do the workload once to warm up, then in rounds; then look at what came out."""
        outcomes: dict[str, Any] = {}

        def prepare(row: Row) -> None:
            before = workers[row.key].ask("prepare", name=workload, size=self.size)["before"]
            first = workers[row.key].ask("run")
            self.figures[row.key][workload] = {"first": first, "before": before, "rounds": []}

        def run(row: Row) -> None:
            self.figures[row.key][workload]["rounds"].append(workers[row.key].ask("run"))

        def check(row: Row) -> None:
            outcomes[row.key] = workers[row.key].ask("check")["outcome"]
            self.compare(row, workload, outcomes)

        self.each(workload, prepare)
        for turn in range(self.rounds):
            say(f"{workload}: round {turn + 1} of {self.rounds}")
            self.each(workload, run)
        self.each(workload, check)
        for worker in workers.values():
            with contextlib.suppress(Failed):
                worker.ask("drop")

    def compare(self, row: Row, workload: str, outcomes: dict[str, Any]) -> None:
        from benchmarks.workloads import fault

        figures = self.figures[row.key][workload]
        figures["outcome"] = outcomes[row.key]
        if REFERENCE.key not in outcomes:
            raise Failed("there is no reference to compare it with")
        wrong = fault(figures["before"], outcomes[REFERENCE.key], outcomes[row.key])
        if wrong:
            raise Failed(f"wrong result: {wrong}")

    def measure_processes(self, settings: dict[str, str], folder: str) -> None:
        def run(row: Row) -> None:
            found = processes.seconds_of_one_step(row, settings, folder)
            self.figures[row.key].setdefault("process", {"rounds": []})["rounds"].append(found)

        for turn in range(max(1, self.rounds // 2)):
            say(f"process: round {turn + 1} of {max(1, self.rounds // 2)}")
            self.each("process", run)

    def results(self) -> dict[str, Any]:
        """Return what goes into the JSON: facts about the machine, then medians and reasons of each row."""
        rows = [
            {
                "key": row.key,
                "title": row.title,
                "note": row.note,
                "version": self.versions.get(row.key),
                "figures": {name: summary(found) for name, found in self.figures[row.key].items()},
                "reasons": self.reasons[row.key],
            }
            for row in self.rows
        ]
        return {"machine": facts.machine(), "size": self.size, "rounds": self.rounds, "rows": rows}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return medians over the rounds, and for training what the first, warming run took beside."""
    rounds = found["rounds"]
    medians = {kind: statistics.median(turn[kind] for turn in rounds) for kind in ("cpu", "wall")}
    medians["spread"] = max(turn["cpu"] for turn in rounds) / min(turn["cpu"] for turn in rounds) - 1
    if "first" in found:
        medians["first_wall"] = found["first"]["wall"]
        medians["growth_mb"] = rounds[0]["growth"]  # in the second fit: the first was to warm up
        medians["outcome"] = found["outcome"]
    return medians


def compare(
    rows: list[Row], workloads: Iterable[str], size: str, rounds: int, torchkeras1: str | None
) -> dict[str, Any]:
    """Measure everything; return what `report` makes tables of."""
    comparison = Comparison(rows, size, rounds)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as open_workers:
        settings = processes.environment(folder, torchkeras1)
        workers = {row.key: Worker(row, settings, folder) for row in rows}
        for worker in workers.values():
            open_workers.callback(worker.close)
        comparison.begin(workers)
        for workload in MEASURED:
            if workload in workloads:
                comparison.measure(workload, workers)
        if "process" in workloads:
            comparison.measure_processes(settings, folder)
    return comparison.results()


def main(arguments: list[str] | None = None) -> None:
    parsed = parse_arguments(arguments)
    results = compare(parsed.peers, parsed.workloads, parsed.size, parsed.rounds, parsed.torchkeras1)
    text = report.markdown(results)
    print(text)
    if parsed.json:
        parsed.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if parsed.markdown:
        report.write(parsed.markdown, text)


if __name__ == "__main__":
    main()
