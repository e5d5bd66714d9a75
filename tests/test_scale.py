"""The formulas of benchmarks/scale.py against what a ring really sends, and both benchmarks of several processes."""

import math
import sys

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

if sys.platform == "win32":
    pytest.skip("gloo has no such processes", allow_module_level=True)
pytest.importorskip("benchmarks", reason="the source distribution has none")

from benchmarks import distributed, scale, scale_here
from benchmarks.scale import Cluster, Link, Work, ddp, fsdp
from tests.distributed.together import Failed, together

FREE = math.inf


def ring(numbers, *, reduce):
    """Go round a ring once; each device has a list of as many parts as there are devices. Return rounds and parts sent.

    Patarasuk & Yuan 2009: reduce-scatter if `reduce`, else all-gather; at the end of the first, device d has the sum of
    part d + 1.
    """
    size, sent = len(numbers), 0
    for turn in range(size - 1):
        moved = []
        for device in range(size):
            part = (device - turn + (not reduce)) % size
            moved.append((part, numbers[device][part]))
            sent += 1
        for device, (part, number) in enumerate(moved):
            to = numbers[(device + 1) % size]
            to[part] = to[part] + number if reduce else number
    return size - 1, sent / size


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 7])
def test_a_ring_takes_what_the_formulas_say(devices):
    numbers = [[10.0**part * (device + 1) for part in range(devices)] for device in range(devices)]
    expected = [sum(column) for column in zip(*numbers, strict=True)]
    scattered = ring(numbers, reduce=True)
    gathered = ring(numbers, reduce=False)
    assert numbers == [expected] * devices  # it is an all-reduce
    rounds, sent = scattered[0] + gathered[0], scattered[1] + gathered[1]
    assert Link(1.0, FREE).all_reduce(devices, devices) == rounds
    assert Link(0.0, 1.0).all_reduce(devices, devices) == pytest.approx(sent)  # parts of one byte
    for link in (Link(1.0, FREE), Link(0.0, 1.0)):
        both = link.reduce_scatter(devices, devices) + link.all_gather(devices, devices)
        assert link.all_reduce(devices, devices) == pytest.approx(both)


def test_halving_and_doubling_send_as_much_in_fewer_rounds():
    one, other = Link(1.0, 3.0), Link(1.0, 3.0, halving=True)
    for devices in (1, 2, 8, 1024):
        rounds = 2 * int(math.log2(devices))
        same = other.all_reduce(600.0, devices) - rounds
        assert same == pytest.approx(one.all_reduce(600.0, devices) - 2 * (devices - 1))
    assert other.all_reduce(0.0, 5) == 2 * 3  # as for eight


def test_within_a_node_the_network_is_not_used():
    cluster = Cluster(8, Link(1e-6, 1e11), Link(1.0, 1.0))
    assert cluster.all_reduce(1e9, 8) == pytest.approx(Link(1e-6, 1e11).all_reduce(1e9, 8))
    assert cluster.all_reduce(1e9, 1) == 0


def test_between_nodes_a_node_sends_what_one_device_of_its_size_would():
    cluster = Cluster(8, Link(0.0, FREE), Link(0.0, 1e10))
    for nodes in (2, 4, 128):
        assert cluster.all_reduce(1e9, 8 * nodes) == pytest.approx(Link(0.0, 1e10).all_reduce(1e9, nodes))
        assert cluster.all_gather(1e9, 8 * nodes) == pytest.approx(Link(0.0, 1e10).all_gather(1e9, nodes))


def test_ddp_by_hand():
    # 2 buckets; forward takes 1 s, each half of backward 1 s, each bucket 3 s: 1 + 1 + 3 + 3
    work = Work(2 * scale.BUCKET / 4, 3.0)
    link = Link(0.0, scale.BUCKET / 3.0)  # two devices send a bucket once
    assert ddp(work, Cluster(2, link, link), 2) == pytest.approx(8.0)
    fast = Link(0.0, scale.BUCKET * 10)
    assert ddp(work, Cluster(2, fast, fast), 2) == pytest.approx(3.1)  # only the last bucket is waited for


def test_fsdp_by_hand():
    # one block of 3 s, 6 bytes: gather 3, forward 1, gather 3 beside it, backward 2, scatter 3
    link = Link(0.0, 1.0)
    assert fsdp(Work(1.5, 3.0, 4, blocks=1), Cluster(2, link, link), 2) == pytest.approx(3 + 3 + 2 + 3)


@given(
    parameters=st.floats(1e6, 1e10),
    seconds=st.floats(1e-3, 10),
    blocks=st.integers(1, 40),
    latency=st.floats(0, 1e-3),
    bandwidth=st.floats(1e8, 1e12),
    power=st.integers(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_a_step_takes_its_longer_part_at_least_and_both_at_most(**drawn):
    power, latency, bandwidth = drawn.pop("power"), drawn.pop("latency"), drawn.pop("bandwidth")
    work, devices = Work(**drawn), 2**power
    cluster = Cluster(8, Link(latency, bandwidth), Link(latency, bandwidth / 4))
    buckets = math.ceil(work.size / scale.BUCKET)
    reduced = buckets * cluster.all_reduce(work.size / buckets, devices)
    part = work.size / work.blocks
    gathered = work.blocks * (2 * cluster.all_gather(part, devices) + cluster.reduce_scatter(part, devices))
    for took, sent in ((ddp(work, cluster, devices), reduced), (fsdp(work, cluster, devices), gathered)):
        assert max(work.seconds, sent) <= took * (1 + 1e-9)
        assert took <= (work.seconds + sent) * (1 + 1e-9)
    for way in (ddp, fsdp):
        assert way(work, cluster, 1) == pytest.approx(work.seconds)
        assert way(work, cluster, devices) <= way(work, cluster, 2 * devices) * (1 + 1e-9)


def test_fsdp_sends_half_as_much_again():
    cluster = Cluster(8, Link(0.0, 1e9), Link(0.0, 1e9))
    work = Work(1e9, 1e-9)  # all is sending
    assert fsdp(work, cluster, 64) / ddp(work, cluster, 64) == pytest.approx(1.5)


def test_a_link_is_found_again_from_its_times():
    link = Link(3e-4, 2e9)
    found = scale_here.fitted({size: link.all_reduce(size, 2) for size in scale_here.SIZES})
    assert (found.latency, found.bandwidth) == pytest.approx((3e-4, 2e9))


def test_shared_cores_are_shared():
    work, link = Work(250, 1.0), Link(0.0, 1000.0)  # 1000 bytes
    expected = {1: 1.0, 2: 1.0 + 1.0, 4: 2 * (1.0 + 1.5)}
    for processes, seconds in expected.items():
        assert scale_here.on_shared_cores(work, link, processes, cores=2) == pytest.approx(seconds)
    plenty = scale_here.on_shared_cores(work, link, 2, cores=8)
    assert plenty == pytest.approx(ddp(work, Cluster(2, link, link), 2))


def test_prediction_is_printed_and_drawn_the_same_each_time(tmp_path):
    work, cluster = Work(1e9, 0.5), Cluster(8, Link(1e-5, 3e11, True), Link(1e-5, 5e10, True))
    lines = scale.text(work, {"400 Gbit/s": cluster}, 1024).splitlines()
    assert [int(line.split()[0]) for line in lines[3:]] == [2**power for power in range(11)]
    assert lines[3].split()[1:] == ["0.5000", "100%", "0.5000", "100%"]
    rows = [
        {"processes": count, "parameters": size, "alone": 1.0, "model": 1.0, "measured": 2.0, "error": -0.5}
        for count in (1, 2)
        for size in (1, 2, 3)
    ]
    machine = {"cpu": "A CPU", "cores": 2, "load": 0.0, "torch": "2.6", "python": "3.11"}
    found = {"machine": machine, "latency": 1e-4, "bandwidth": 1e9, "rows": rows}
    for name in ("one.svg", "two.svg"):
        scale.save(scale.draw(work, {"fast": cluster}, 64, found), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    scale.save(scale.draw(work, {"fast": cluster}, 64, None), tmp_path / "alone.png")
    assert scale_here.comparison(found).count("-50%") == len(rows)


def test_the_command_line_predicts(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["scale", "--devices", "4", "--ring", "--picture", str(tmp_path / "picture.svg")])
    scale.main()
    assert "100 Gbit/s" in capsys.readouterr().out
    assert (tmp_path / "picture.svg").exists()


def measure_a_little():
    dist.init_process_group("gloo")
    return scale_here.link_here(1), scale_here.steps_here(1, 1, False)


def test_link_and_steps_are_measured():
    link, steps = together(2, measure_a_little)[0]
    assert list(link) == list(scale_here.SIZES)
    assert len(steps) == len(scale_here.HIDDEN)
    assert min(*link.values(), *steps) > 0


def compare_a_little():
    dist.init_process_group("gloo")
    return distributed.rounds_of("MLP 64-128-10", 5, 2)


def test_fit_and_the_loop_do_the_same_work():
    found = together(2, compare_a_little)
    table = distributed.compared(found[0], 5)
    assert [len(rounds) for rounds in found] == [2, 2]
    assert table[distributed.BY_HAND]["ratio"] == 1
    assert 0 < table["its epoch"]["us"] <= table["fit"]["us"]
    assert distributed.text(2, "MLP", table).count("\n") == 4


def test_ratios_are_those_of_the_rounds():
    factors = dict(zip(WAYS, (1, 1, 3, 2), strict=True))
    rounds = [{way: (factor * base, base) for way, factor in factors.items()} for base in (1.0, 100.0, 7.0)]
    table = distributed.compared(rounds, steps=10)
    assert table["fit"] == {"us": pytest.approx(2.1e6), "ratio": 3, "low": 3, "high": 3, "cpu_ratio": 1}
    assert distributed.compared(rounds[:1], 1)["its epoch"]["ratio"] == 2


WAYS = (distributed.BY_HAND, "the same again", "fit", "its epoch")


def train_alone(steps, same):
    dist.init_process_group("gloo")
    torch.manual_seed(0 if same else dist.get_rank())
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    distributed.check("fit", optimizer, steps)


@pytest.mark.parametrize(
    ("steps", "same", "text"), [(2, True, "1 steps in place of 2"), (1, False, "they have not trained together")]
)
def test_work_that_was_not_done_is_an_error(steps, same, text):
    with pytest.raises(Failed, match=text):
        together(2, train_alone, steps, same)
    together(2, train_alone, 1, True)


def say(word):
    return f"{word} {dist.get_rank()} of {dist.get_world_size()}"


def fail():
    raise ValueError("no")


def test_processes_are_started_and_answer_in_order(capfd):
    assert distributed.together(2, say, "process") == ["process 0 of 2", "process 1 of 2"]
    with pytest.raises(RuntimeError, match=r"No answer from \[0\]"):
        distributed.together(1, fail)
    assert "ValueError: no" in capfd.readouterr().err
