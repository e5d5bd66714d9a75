import csv
import math
import sys

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kerastorch.errors import MissingPackageError
from kerastorch.history import Best, History, better_direction, format_number, numbers

NAN = math.nan
varied = settings(max_examples=60)
names = st.sampled_from(["loss", "accuracy", "val_loss", 'a "name", with all', "größe"])
rows = st.lists(st.dictionaries(names, st.floats(width=32), max_size=4), max_size=5)


def a_history(*rows, first=0):
    history = History()
    for epoch, row in enumerate(rows, first):
        history.append(epoch, row)
    return history


def same(one, other):
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True))


@varied
@given(rows)
def test_every_column_has_one_value_an_epoch(rows):
    history = a_history(*rows)
    assert len(history) == len(rows)
    assert history.epoch == list(range(len(rows)))
    assert set(history) == set(history.history) == {name for row in rows for name in row}
    for name, column in history.history.items():
        assert same(column, [row.get(name, NAN) for row in rows])
        assert same(history[name], column)
        assert name in history


def test_columns_come_in_the_order_in_which_they_appeared():
    history = a_history({"loss": 1.0, "lr": 0.1}, {"loss": 0.5, "val_loss": 0.7, "lr": 0.1})
    assert list(history) == ["loss", "lr", "val_loss"]
    assert same(history["val_loss"], [NAN, 0.7])
    assert "val_accuracy" not in history


def test_what_a_callback_writes_into_its_logs_is_kept():
    logs = {"loss": 1.0}
    history = a_history(logs)
    logs["event"] = 3.0
    assert history["event"] == [3.0]
    assert history.rows[0] is logs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val_los", "No column 'val_los'. Did you mean 'val_loss'? There are: loss, val_loss."),
        ("xyz", "No column 'xyz'. There are: loss, val_loss."),
    ],
)
def test_a_column_that_is_not_there_is_named(name, text):
    history = a_history({"loss": 1.0, "val_loss": 2.0})
    for read in (history.__getitem__, history.best):
        with pytest.raises(KeyError) as error:
            read(name)
        assert error.value.args == (text,)


@pytest.mark.parametrize(
    ("name", "values", "mode", "best"),
    [
        ("val_loss", [3.0, 1.0, 2.0], "auto", Best(1, 1.0)),
        ("val_accuracy", [0.3, 0.9, 0.2], "auto", Best(1, 0.9)),
        ("score", [3.0, 1.0, 2.0], "min", Best(1, 1.0)),
        ("score", [3.0, 1.0, 2.0], "max", Best(0, 3.0)),
        ("val_loss", [3.0, 1.0, 2.0], "max", Best(0, 3.0)),
        ("val_loss", [NAN, 2.0, NAN, 1.0, NAN], "auto", Best(3, 1.0)),
        ("val_accuracy", [NAN, 0.2, NAN, 0.1], "auto", Best(1, 0.2)),
        ("val_loss", [-math.inf, 2.0, NAN], "auto", Best(0, -math.inf)),
        ("val_loss", [1.0, 1.0, 1.0], "auto", Best(0, 1.0)),
        ("val_accuracy", [1.0, 1.0], "auto", Best(0, 1.0)),
    ],
)
def test_the_best_epoch_is_the_first_with_the_best_number(name, values, mode, best):
    history = a_history(*({name: value} for value in values))
    assert history.best(name, mode) == best
    assert history.best(name, mode).epoch == best.epoch


def test_the_best_epoch_has_the_number_it_had_in_training():
    assert a_history({"loss": 2.0}, {"loss": 1.0}, first=10).best("loss") == (11, 1.0)


def test_epochs_without_the_value_are_never_the_best():
    assert a_history({"loss": 1.0}, {"loss": 2.0, "val_loss": 5.0}, {"loss": 0.0}).best("val_loss") == (1, 5.0)


def test_a_column_without_a_number_has_no_best():
    with pytest.raises(ValueError, match=r"^No epoch has a value of 'loss' that is a number\.$"):
        a_history({"loss": NAN}).best("loss")


def test_a_name_that_tells_no_direction_is_asked_for():
    with pytest.raises(ValueError) as error:
        a_history({"score": 1.0}).best("score")
    assert str(error.value) == (
        "Whether a low or a high 'score' is better cannot be told from its name. Say mode='min' or 'max'."
    )


@pytest.mark.parametrize("mode", ["minimum", "MIN", None, "lower"])
def test_a_misspelt_mode_is_refused(mode):
    with pytest.raises(ValueError, match=f"^mode is 'auto', 'min' or 'max'; got {mode!r}.$"):
        a_history({"loss": 1.0}).best("loss", mode)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("logloss", "min"),
        ("val_mse", "min"),
        ("mean_absolute_error", "min"),
        ("MAE", "min"),
        ("val_error", "min"),
        ("perplexity", "min"),
        ("accuracy", "max"),
        ("val_acc", "max"),
        ("top5_accuracy", "max"),
        ("binary_auroc", "max"),
        ("roc_auc", "max"),
        ("f1_score", "max"),
        ("val_F1", "max"),
        ("r2_score", "max"),
        ("mean_iou", "max"),
    ],
)
def test_a_name_tells_the_direction(name, direction):
    assert better_direction(name) == direction


@pytest.mark.parametrize("name", ["lr", "seconds", "score", "lossy", "accurate", ""])
def test_other_names_tell_no_direction(name):
    with pytest.raises(ValueError, match=f"high {name!r} is better"):
        better_direction(name)


@varied
@given(rows)
def test_a_csv_file_holds_every_value(tmp_path_factory, rows):
    history, path = a_history(*rows, first=3), tmp_path_factory.mktemp("csv") / "history.csv"
    history.to_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    assert head == ["epoch", *history.history]
    assert [int(line[0]) for line in lines] == history.epoch
    for place, column in enumerate(history.history.values(), 1):
        assert same([float(line[place]) for line in lines], column)


def test_a_csv_file_makes_its_folder(tmp_path):
    a_history({"loss": 0.5}).to_csv(tmp_path / "runs" / "first" / "history.csv")
    assert (tmp_path / "runs" / "first" / "history.csv").exists()


def test_a_csv_file_may_be_named_by_text(tmp_path):
    a_history({"loss": 0.5}, {"val_loss": 2.0}).to_csv(str(tmp_path / "history.csv"))
    assert (tmp_path / "history.csv").read_bytes() == b"epoch,loss,val_loss\r\n0,0.5,nan\r\n1,nan,2.0\r\n"


@varied
@given(rows)
def test_pandas_gets_every_value(rows):
    history = a_history(*rows, first=2)
    frame = history.to_pandas()
    assert frame.index.name == "epoch"
    assert list(frame.index) == history.epoch
    assert list(frame.columns) == list(history)
    for name, column in history.history.items():
        assert same(frame[name].tolist(), column)


def test_pandas_reads_back_the_csv_file(tmp_path):
    history = a_history({"loss": 0.1, "val_loss": 1e-12}, {"loss": 1 / 3})
    history.to_csv(tmp_path / "history.csv")
    frame = pandas.read_csv(tmp_path / "history.csv", index_col="epoch")
    pandas.testing.assert_frame_equal(frame, history.to_pandas(), rtol=1e-15, atol=0)


def test_pandas_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError) as error:
        History().to_pandas()
    assert str(error.value) == "History.to_pandas needs the package 'pandas'. Type: pip install pandas"


def test_it_prints_as_a_table():
    history = a_history({"loss": 12.5, "val_loss": 0.0001234}, {"loss": 1.0, "lr": 0.001}, first=8)
    assert repr(history) == (
        "epoch    loss  val_loss     lr\n    9  12.500  0.000123    nan\n   10   1.000       nan  0.001"
    )
    assert repr(History()) == "History()"


def test_a_notebook_shows_a_table():
    history = a_history({"loss": 0.5, "<b>&": 2.0}, {"loss": NAN})
    assert history._repr_html_() == (
        "<table><thead><tr><th>epoch</th><th>loss</th><th>&lt;b&gt;&amp;</th></tr></thead>"
        "<tbody><tr><td>1</td><td>0.500</td><td>2.000</td></tr>"
        "<tr><td>2</td><td>nan</td><td>nan</td></tr></tbody></table>"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97213, "0.972"),
        (0.0001, "0.0001"),
        (0.00012345, "0.000123"),
        (-0.0005, "-0.0005"),
        (0.001, "0.001"),
        (0.0, "0.000"),
        (3, "3"),
        (12345.6, "12346"),
        (-1000.0, "-1000"),
        (999.0, "999.000"),
        (NAN, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (1e-30, "1e-30"),
        (np.float32(0.25), "0.250"),
        (np.float64(0.25), "0.250"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert format_number(value) == text


@varied
@given(st.floats(1e-12, 1e12))
def test_three_digits_of_a_number_always_survive(value):
    assert float(format_number(value)) == pytest.approx(value, rel=0.006 if value >= 0.001 else 0.005, abs=0.0005)
    assert float(format_number(value)) != 0


def test_values_that_are_no_number_are_kept_but_not_shown(tmp_path):
    matrix = torch.tensor([[1, 2], [3, 4]])
    history = a_history({"loss": 1.0, "confusion": matrix}, {"loss": 0.5, "confusion": matrix + 1})
    assert torch.equal(history["confusion"][1], matrix + 1)
    assert repr(history).split() == ["epoch", "loss", "1", "1.000", "2", "0.500"]
    assert "confusion" not in history._repr_html_()
    history.to_csv(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["0", "1.0", "[[1, 2], [3, 4]]"]
    assert torch.equal(history.to_pandas()["confusion"][0], matrix)
    with pytest.raises(ValueError, match="'confusion' is not one number per epoch, so it has no best"):
        history.best("confusion", "max")


def test_numbers_are_of_any_kind():
    logs = {"a": 1, "b": 1.5, "c": np.float32(2), "d": torch.tensor(3.0), "e": torch.ones(2), "f": "text", "g": None}
    assert list(numbers(logs)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["val_top5", "top_3", "top_5_accuracy", "jaccard", "val_easy_f1", "val_iou"])
def test_more_is_better_of_what_counts_right_answers(name):
    assert better_direction(name) == "max"
