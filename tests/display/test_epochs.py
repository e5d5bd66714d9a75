import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kerastorch as kt
from kerastorch.display.epochs import EpochTable
from kerastorch.display.text import columns_of
from kerastorch.metrics import MetricSet
from kerastorch.run import Run
from kerastorch.state import TrainState
from kerastorch.strategy import Strategy

FOUR = {"loss": 0.512, "accuracy": 0.834, "val_loss": 0.402, "val_accuracy": 0.871}


def run(**sets):
    return Run(TrainState(nn.Linear(1, 1), None, MetricSet({})), Strategy(), val_sets=sets)


def lines(table, label="1/3", columns=79, height=24, sets=(), **logs):
    logs = {"seconds": 17.52, "lr": 0.1, **logs}
    size = os.terminal_size((columns, height))
    return ["".join(text for text, _ in line) for line in table.lines(label, logs, run(**dict.fromkeys(sets)), size)]


def test_in_eighty_columns():
    table = EpochTable(colours=False)
    assert lines(table, **FOUR) == [
        "epoch    loss  accuracy  val_loss  val_accuracy     time",
        "  1/3   0.512*    0.834*    0.402*        0.871*   17.5s",
    ]
    assert lines(table, "2/3", **{**FOUR, "loss": 0.4, "val_loss": 0.5, "seconds": 3723.0}) == [
        "  2/3   0.400*    0.834     0.500         0.871  1:02:03",
    ]


def test_the_best_so_far_is_coloured_and_nan_never_is_the_best():
    table = EpochTable(colours=True)
    size = os.terminal_size((79, 24))
    styles = []
    for loss, unknown in ((math.nan, 1.0), (2.0, 0.5), (math.inf, 3.0), (1.0, 3.0), (1.0, 3.0)):
        row = table.lines("1/5", {"loss": loss, "thing": unknown, "seconds": 1.0}, run(), size)[-1]
        styles.append([style for text, style in row[1:-1] if text.strip()])
    assert styles == [["bad", ""], ["best", ""], ["bad", ""], ["best", ""], ["", ""]]


def test_a_narrow_terminal_first_does_without_the_time_then_without_columns():
    assert lines(EpochTable(colours=False), columns=49, **FOUR)[0] == "epoch    loss  accuracy  val_loss  val_accuracy "
    note, header, row = lines(EpochTable(colours=False), columns=43, **FOUR)
    assert note == "+1 more in the history:  val_accuracy"
    assert header == "epoch    loss  accuracy  val_loss     time"
    assert len(row) <= 43


def test_of_many_metrics_the_first_and_their_validation_stay():
    names = [f"metric_{letter}" for letter in "abcdefg"]
    logs = {"loss": 0.5, **dict.fromkeys(names, 0.5)}
    logs |= {f"val_{name}": value for name, value in logs.items()}
    *note, header, row = lines(EpochTable(colours=False), **logs)
    assert header.split() == ["epoch", "loss", "metric_a", "metric_b", "val_loss", "val_metric_a", "time"]
    assert note[0].startswith("+11 more in the history:  metric_c")
    assert len(row.split()) == 7


def test_long_names_are_cut_in_their_middle():
    logs = {"loss": 1.0, "balanced_accuracy_of_all_the_classes": 0.5, "average_precision_of_all_the_classes": 0.5}
    assert "balance…lasses" in lines(EpochTable(colours=False), **logs)[0]


def test_the_header_comes_again_for_new_columns_and_after_a_screenful():
    table = EpochTable(colours=False)
    counts = [len(lines(table, height=20, loss=1.0)) for _ in range(30)]
    assert counts == [2, *[1] * 13, 3, *[1] * 13, 3, 1]
    assert lines(table, height=20, loss=1.0, thing=2.0)[1].split() == ["epoch", "loss", "thing", "time"]


def test_the_learning_rate_is_a_column_once_it_changes():
    table = EpochTable(colours=False)
    assert "lr" not in lines(table, loss=1.0)[0]
    gap, header, row = lines(table, loss=1.0, lr=0.01)
    assert gap == ""
    assert header.split() == ["epoch", "loss", "lr", "time"]
    assert row.split()[2] == "0.010"
    assert lines(table, loss=1.0, lr=0.1)[0].split()[2] == "0.100"


def test_columns_of_a_validation_that_is_still_to_come():
    table = EpochTable(colours=False)
    header, row = lines(table, sets=["easy_", "hard_"], loss=1.0)
    assert header.split() == ["epoch", "loss", "val_easy_loss", "val_hard_loss", "time"]
    assert row.split()[2:4] == ["-", "-"]


def test_metrics_that_are_not_validated_have_no_column_there(capsys):
    model = kt.Model(nn.Linear(3, 2))
    model.compile("cross_entropy", "sgd", [kt.metrics.Recall(on="train")])
    data = (torch.randn(8, 3), torch.arange(8) % 2)
    model.fit(1, data, data, validation_freq=2, callbacks=[kt.callbacks.ProgbarLogger()])
    assert capsys.readouterr().out.split()[:5] == ["epoch", "loss", "recall", "val_loss", "time"]


@given(
    st.integers(20, 200),
    st.dictionaries(st.from_regex(r"(val_)?[a-z_é损]{1,30}", fullmatch=True), st.floats(-1e99, 1e99), min_size=1),
)
def test_no_line_is_wider_than_the_terminal_unless_it_is_tiny(columns, logs):
    size = os.terminal_size((columns, 24))
    found = EpochTable(colours=False).lines("1/3", {**logs, "seconds": 1.0}, run(), size)
    assert all(columns_of(line) <= max(columns, 33) for line in found)


@pytest.mark.parametrize("value", [1e30, -1e30, 12345678901])
def test_wide_numbers_do_not_break_it(value):
    assert len(lines(EpochTable(colours=False), loss=value)) == 2
