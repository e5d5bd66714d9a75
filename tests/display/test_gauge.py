import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerastorch.display.gauge import Gauge, clock
from kerastorch.display.text import columns_of


def text(lines):
    return ["".join(piece for piece, _ in line) for line in lines]


def half_way(values=None, total=200):
    gauge = Gauge("epoch 2/3", total, 10.0)
    for second in range(1, 11):
        gauge.advance(10.0 + second, 10 * second, 320 * second, values or {"loss": 0.51, "accuracy": 0.8})
    return gauge


def test_in_eighty_columns():
    assert text(half_way().lines(79, 12, [("fit: 1:00 left", "dim")])) == [
        "epoch 2/3   ━━━━━━━━╸────────  100/200   50%  0:10  0:10 left     320 samples/s",
        "            loss 0.510  accuracy 0.800  fit: 1:00 left",
    ]


@pytest.mark.parametrize(
    ("columns", "there", "missing"),
    [(60, "left", "%"), (49, "left", "samples"), (30, "100/200", "left")],
)
def test_what_matters_least_goes_first_where_it_is_narrow(columns, there, missing):
    head = text(half_way().lines(columns, 12))[0]
    assert there in head
    assert missing not in head


def test_a_finished_one_tells_what_it_took():
    gauge = half_way()
    gauge.finish(30.0, 200, 6400, {"loss": 0.5})
    head, values = text(gauge.lines(79, 12))
    assert "200/200" in head
    assert "100%" in head
    assert "0:20" in head
    assert "left" not in head
    assert "320 samples/s" in head
    assert "─" not in head
    assert values.strip() == "loss 0.500"
    assert text(gauge.summary(79)) == ["epoch 2/3  loss 0.500  (200 batches, 0:20, 320 samples/s)"]


def test_one_that_does_not_finish_tells_how_far_it_came():
    assert text(half_way().summary(99))[0].endswith("(100 of 200 batches, 0:10, 320 samples/s)")


def test_of_unknown_length_it_counts():
    head = text(half_way(total=None).lines(79, 12))[0]
    assert head == "epoch 2/3   100 batches  0:10     320 samples/s"


def test_without_samples_it_counts_batches():
    gauge = Gauge("predict", 10, 0.0)
    gauge.advance(2.0, 5, 0, {})
    lines = text(gauge.lines(79, 12))
    assert "2.5 batches/s" in lines[0]
    assert len(lines) == 1


def test_more_batches_than_promised_are_all_of_it():
    gauge = Gauge("epoch 1/1", 10, 0.0)
    gauge.advance(1.0, 12, 0, {})
    assert "12/10" in text(gauge.lines(79, 12))[0]
    assert "100%" in text(gauge.lines(79, 12))[0]
    assert gauge.left == 0


def test_the_speed_is_that_of_the_last_ten_seconds():
    gauge = Gauge("epoch 1/1", 1000, 0.0)
    gauge.advance(60.0, 1, 1, {})  # compiled in the first batch
    for step in range(100):
        gauge.advance(60.1 + step / 10, 2 + step, 2 + step, {})
    assert gauge.left == pytest.approx((1000 - 101) / 10)


def test_one_that_goes_on_counts_its_speed_from_there():
    gauge = Gauge("epoch 1/1", 100, 0.0, done=50)
    gauge.advance(1.0, 60, 0, {})
    assert gauge.left == pytest.approx(4.0)


def test_many_values_take_three_lines_and_then_are_counted():
    values = {f"metric_number_{index}": 0.5 for index in range(30)}
    lines = text(half_way(values).lines(79, 12, [("fit: 1:00 left", "dim")]))
    assert len(lines) == 4
    assert "more" in lines[-1]
    assert "fit: 1:00 left" in lines[-1]


def test_what_others_add_is_never_left_out():
    more = [(f"a longer piece of number {index:04}", "dim") for index in range(12)]
    below = " ".join(text(half_way().lines(79, 12, more))[1:])
    assert all(piece in below for piece, _ in more)
    assert "+2 more" in below


def test_nan_is_marked():
    lines = half_way({"loss": math.nan, "mae": math.inf}).lines(79, 12)
    assert [piece for piece in lines[1] if piece[1] == "bad"] == [("nan", "bad"), ("inf", "bad")]


@given(
    st.integers(20, 250),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.integers(0, 10**6),
    st.floats(0, 1e6),
    st.dictionaries(st.text("abc_é损", min_size=1, max_size=40), st.floats(), max_size=20),
)
def test_no_line_is_too_wide(columns, total, done, seconds, values):
    gauge = Gauge("epoch 2/3", total, 0.0)
    gauge.advance(seconds, done, 3 * done, values)
    lines = gauge.lines(columns, 12, [("fit: 0:01 left", "dim")])
    assert all(columns_of(line) <= columns for line in lines[1:])
    assert columns_of(lines[0]) <= columns or columns < 40  # the screen cuts it then


@pytest.mark.parametrize(("seconds", "written"), [(0.9, "0:00"), (65, "1:05"), (3723, "1:02:03")])
def test_clock(seconds, written):
    assert clock(seconds) == written


def test_what_was_done_before_does_not_count_for_the_speed():
    gauge = Gauge("epoch", 10, 100.0, done=6)
    assert (gauge.spent, gauge.left) == (0.0, None)
    gauge.advance(102.0, 7, 28, {})
    assert (gauge.elapsed, gauge.left, gauge.spent) == (2.0, 6.0, 14.0)
    assert "2.0 samples/s" in gauge.lines(80, 10)[0][-1][0]
    gauge.finish(108.0, 10, 40, {})
    assert "2.0 samples/s" in gauge.lines(80, 10)[0][-1][0]
