import json
import math
import platform
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

if sys.platform == "win32":
    pytest.skip("the workers need a pseudo terminal", allow_module_level=True)
pytest.importorskip("benchmarks", reason="the source distribution has none")

from benchmarks import __main__ as program
from benchmarks import chart, cost, processes, report, workloads
from benchmarks.peers import OURS, PEERS, ROWS, chosen
from benchmarks.processes import Failed, Worker


def row(key, reasons=None, **seconds):
    figures = {
        name: {"cpu": value, "wall": 2 * value, "first_wall": 2 * value + 3, "growth_mb": 4.25}
        for name, value in seconds.items()
    }
    return {
        "key": key,
        "title": ROWS[key].title,
        "note": ROWS[key].note,
        "version": "1.2",
        "figures": figures,
        "reasons": reasons or {},
    }


@pytest.fixture
def results():
    machine = {"cpu": "A CPU", "cores": 4, "system": "Linux", "python": "3.11", "torch": "2.6", "load": 0.1}
    rows = [
        row("optimised", step=0.6, bar=0.6, epoch=0.5, process=3.0),
        row("kerastorch", step=0.45, bar=0.9, epoch=0.4, process=3.25),
        row("kerastorch-jit", {"bar": "no bar today"}, step=0.06, epoch=0.4),
        row("skorch", step=0.9),
        row("keras", {"step": "ImportError: no keras", "epoch": "ImportError: no keras"}),
    ]
    return {"machine": machine, "size": "full", "rounds": 5, "rows": rows}


def cells(text, title):
    """Return the first line of a table that begins with this title."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_table_has_times_per_step_and_ratios_to_the_optimised_loop(results):
    text = report.markdown(results)
    assert cells(text, "optimised eager loop") == ["300", "1.00", "300", "1.00", "0.500", "1.00"]
    assert cells(text, "**kerastorch**") == ["225", "0.75", "450", "1.50", "0.400", "0.80"]
    assert cells(text, "skorch") == ["450", "1.50", "-", "-", "-", "-"]
    assert "MNIST CNN" not in text  # nobody measured it
    assert "A CPU, one of 4 cores, one thread" in text
    wall = text.partition("### Wall time")[2]
    assert cells(wall, "skorch")[:2] == ["900", "1.50"]


def test_table_of_processes_has_the_difference_to_a_loop_and_the_time_to_compile(results):
    text = report.markdown(results).partition("### A process")[2]
    assert cells(text, "**kerastorch**") == ["3.25", "+0.25", "4.2", "-"]
    assert cells(text, "**kerastorch, jit_compile=True**") == ["-", "-", "4.2", "3.0, 3.0"]


def test_a_row_that_failed_says_why_once(results):
    text = report.markdown(results)
    assert "- Keras 3 (torch), step, epoch: ImportError: no keras" in text
    assert "- kerastorch, jit_compile=True, bar: no bar today" in text
    assert "| Keras 3" not in text


def test_without_a_reference_there_are_times_and_no_ratios(results):
    results["rows"] = results["rows"][1:2]
    assert cells(report.markdown(results), "**kerastorch**") == ["225", "-", "450", "-", "0.400", "-"]


def test_what_stands_above_the_mark_stays(tmp_path):
    path = tmp_path / "RESULTS.md"
    report.write(path, "plain\n")
    assert path.read_text() == "plain\n"
    path.write_text(f"How to.\n\n{report.MARK}\nold\n")
    report.write(path, "new\n")
    assert path.read_text() == f"How to.\n\n{report.MARK}\n\nnew\n"
    assert report.MARK in Path(report.__file__).with_name("RESULTS.md").read_text()


def test_chart_orders_the_bars_and_is_the_same_each_time(results, tmp_path):
    assert [title for title, _, _ in chart.bars(results, "step")] == [
        "kerastorch, jit_compile=True",
        "kerastorch",
        "optimised eager loop",
        "skorch",
    ]
    for name in ("one.svg", "two.svg", "chart.png"):
        chart.save(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    figure = chart.draw(results)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(chart.PANELS.values())


def test_chart_of_nothing_is_an_error(results):
    with pytest.raises(ValueError, match="neither steps nor epochs"):
        chart.draw({**results, "rows": []})


def test_peers_are_chosen_by_name():
    assert chosen("none") == list(OURS)
    assert chosen("all") == [*OURS, *PEERS]
    assert [one.key for one in chosen("skorch,keras")[len(OURS) :]] == ["skorch", "keras"]
    with pytest.raises(ValueError, match=r"Unknown peer 'kears'\. There are keras, lightning"):
        chosen("kears")


@pytest.mark.parametrize(("option", "text"), [("--peers", "Unknown peer 'x'"), ("--workloads", "Unknown workload 'x'")])
def test_an_unknown_name_is_an_error_of_the_command_line(capsys, option, text):
    with pytest.raises(SystemExit):
        program.parse_arguments([option, "x"])
    assert text in capsys.readouterr().err


def test_quick_is_less_in_fewer_rounds():
    quick, full = program.parse_arguments(["--quick", "--peers", "none"]), program.parse_arguments([])
    assert (quick.size, quick.rounds, quick.peers) == ("quick", 2, list(OURS))
    assert (full.size, full.rounds, full.peers) == ("full", 5, [*OURS, *PEERS])


def test_each_row_has_a_module_and_a_key_of_its_own():
    folder = Path(processes.__file__).parent / "peers"
    assert all((folder / f"{one.module}.py").is_file() for one in ROWS.values())
    assert len(ROWS) == len(OURS) + len(PEERS)


@pytest.mark.parametrize("name", workloads.MAKERS)
def test_a_workload_is_the_same_in_each_process(name):
    size = workloads.SIZES["tiny"]
    one, other = workloads.make(name, size), workloads.make(name, size)
    assert all(map(torch.equal, one.net.state_dict().values(), other.net.state_dict().values()))
    assert all(map(torch.equal, one.sample(), other.sample()))


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({"loss": 1.0}, ""),
        ({"loss": 1.29}, ""),
        ({"loss": 1.31}, "loss is 1.3100, where the reference has 1.0000"),
        ({"loss": 2.0}, "loss is 2.0000"),
        ({"loss": math.nan}, "loss is nan"),
        ({}, "no result"),
    ],
)
def test_a_loss_must_have_fallen_as_that_of_the_reference(found, wrong):
    fault = workloads.fault({"loss": 2.0}, {"loss": 1.0}, found)
    assert fault.startswith(wrong)
    assert bool(fault) == bool(wrong)


def test_what_is_evaluated_must_be_right_to_a_hundredth():
    assert not workloads.fault({}, {"loss": 2.0, "accuracy": 0.1}, {"accuracy": 0.109})
    assert workloads.fault({}, {"loss": 2.0, "accuracy": 0.1}, {"loss": 2.0, "accuracy": 0.12})


def test_computing_what_came_out_leaves_training_modes_alone():
    work = workloads.make("cnn", workloads.SIZES["tiny"])
    work.net.train()
    work.net[4].eval()
    workloads.outcome(work, work.net, None)
    assert [module.training for module in work.net] == [index != 4 for index in range(len(work.net))]


def test_loop_by_hand_and_fit_are_measured_and_checked(capsys):
    rows = [ROWS["optimised"], ROWS["kerastorch"], ROWS["torchkeras1"]]
    results = program.compare(rows, ["step", "predict"], "tiny", 1, None)
    by_hand, ours, absent = results["rows"]
    assert not ours["reasons"]
    for one in (by_hand, ours):
        assert set(one["figures"]) == {"step", "predict"}
        assert all(found["cpu"] > 0 and found["wall"] > 0 for found in one["figures"].values())
    loss = {one["key"]: one["figures"]["step"]["outcome"]["loss"] for one in (by_hand, ours)}
    assert loss["kerastorch"] == pytest.approx(loss["optimised"], rel=1e-4)  # the same steps
    assert absent["reasons"] == {"start": "ModuleNotFoundError: --torchkeras1 does not say where it lies"}
    text = json.dumps(results)
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert cells(report.markdown(results), "**kerastorch**")[0] != "-"
    assert "step: round 1 of 1" in capsys.readouterr().err


def test_a_worker_that_dies_is_a_reason(tmp_path):
    worker = Worker(ROWS["optimised"], processes.environment(str(tmp_path), None), str(tmp_path))
    worker.kill()
    with pytest.raises(Failed, match="the process has ended"):
        worker.ask("hello")
    worker.close()


def test_a_fresh_process_that_fails_says_why(tmp_path):
    settings = processes.environment(str(tmp_path), None)
    with pytest.raises(Failed, match="ModuleNotFoundError: --torchkeras1 does not say"):
        processes.seconds_of_one_step(ROWS["torchkeras1"], settings, str(tmp_path))


def test_cost_holds_nothing_for_each_batch(capsys):
    assert cost.with_batches((50, 150), rounds=1) <= cost.BYTES_PER_BATCH
    assert "batches in an epoch" in capsys.readouterr().out


def test_cost_sees_what_is_kept_for_each_batch():
    held = {}
    for count in (100, 300):
        batches = cost.Repeated(cost.batch(cost.WIDTH), count)
        held[count] = cost.bytes_held(lambda batches=batches: [float(x.sum()) for x, _ in batches], batches)
    assert (held[300] - held[100]) / 200 > cost.BYTES_PER_BATCH


def test_cost_prints_a_line_for_each_size(capsys):
    cost.with_parameters(20, rounds=1, sizes=cost.SIZES[:1])
    cost.with_metrics_and_callbacks(20, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:28].strip() for line in lines if "tensors" in line] == ["2 tensors, 170"]
    assert sum("callbacks" in line for line in lines) == 5
