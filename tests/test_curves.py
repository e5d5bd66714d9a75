import math
import random
import sys
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from kerastorch import curves
from kerastorch.curves.charts import grouped
from kerastorch.errors import MissingPackageError
from kerastorch.history import History

NAN = math.nan


def a_history(*rows, first=0):
    history = History()
    for epoch, row in enumerate(rows, first):
        history.append(epoch, row)
    return history


def learned(epochs, **more):
    return a_history(
        *(
            {"loss": 2.0 / (i + 1), "accuracy": 1 - 1 / (i + 2), "val_loss": 1 + (i - 3) ** 2, "val_accuracy": 0.5}
            | {"lr": 0.1, "seconds": 1.0, "samples_per_second": 9.0}
            | more
            for i in range(epochs)
        )
    )


def lines(axes):
    """Return points of each curve, without the stars."""
    return [line.get_xydata().tolist() for line in axes.lines if line.get_marker() != "*"]


def stars(axes):
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "*"]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["loss", "val_loss"], {"loss": {"loss": "training", "val_loss": "validation"}}),
        (["loss", "val_f1"], {"loss": {"loss": "training"}, "f1": {"val_f1": "validation"}}),
        (
            ["loss", "mask_loss", "val_loss", "val_mask_loss"],
            {
                "loss": {"loss": "training", "val_loss": "validation"},
                "mask_loss": {"mask_loss": "training", "val_mask_loss": "validation"},
            },
        ),
        (
            ["loss", "val_loss", "val_weighted_loss"],
            {
                "loss": {"loss": "training", "val_loss": "validation"},
                "weighted_loss": {"val_weighted_loss": "validation"},
            },
        ),
        (
            ["loss", "val_easy_loss", "val_easy_f1", "val_hard_loss", "val_hard_f1"],
            {
                "loss": {
                    "loss": "training",
                    "val_easy_loss": "validation easy",
                    "val_hard_loss": "validation hard",
                },
                "f1": {"val_easy_f1": "validation easy", "val_hard_f1": "validation hard"},
            },
        ),
        (
            ["loss", "mask_loss", "val_a_loss", "val_a_mask_loss"],
            {
                "loss": {"loss": "training", "val_a_loss": "validation a"},
                "mask_loss": {"mask_loss": "training", "val_a_mask_loss": "validation a"},
            },
        ),
        ([], {}),
    ],
)
def test_training_and_validation_of_a_metric_go_together(names, expected):
    assert grouped(names) == expected
    assert curves.known(names) == {*expected, *names}


def test_each_metric_has_a_chart_with_all_values_and_stars_at_the_best():
    history = learned(6)
    figure = history.plot()
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    loss, accuracy = figure.axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for line, column in zip(lines(axes), (name, f"val_{name}"), strict=True):
            assert line == [[epoch + 1, value] for epoch, value in zip(history.epoch, history[column], strict=True)]
    assert stars(loss) == [(6, history["loss"][5]), (4, 1.0)]
    assert legend(loss) == ["training, best 0.3333 in epoch 6", "validation, best 1 in epoch 4"]
    dashed, solid = (line for line in loss.lines if line.get_marker() != "*")
    assert dashed.get_linestyle() == "--"
    assert solid.get_linestyle() == "-"
    assert dashed.get_color() != solid.get_color()
    assert loss.get_xlabel() == "epoch"


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 50, 1000])
def test_epochs_are_whole_numbers_from_one(epochs):
    figure = learned(epochs).plot()
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) and 1 <= tick <= epochs * 1.05 for tick in ticks)


def test_a_single_epoch_is_seen():
    axes = learned(1).plot().axes[0]
    assert [line.get_marker() for line in axes.lines if line.get_marker() != "*"] == ["o", "o"]


def test_many_epochs_are_lines_without_points():
    assert {line.get_marker() for line in learned(100).plot(["loss"]).axes[0].lines} == {"", "*"}


def test_points_are_joined_across_epochs_without_a_number():
    rows = [{"loss": 1.0} | ({"val_loss": float(i)} if i % 2 else {}) for i in range(6)]
    history = a_history(*rows)
    assert lines(history.plot().axes[0])[1] == [[2, 1], [4, 3], [6, 5]]
    history.rows[3]["val_loss"] = math.inf
    assert lines(history.plot().axes[0])[1] == [[2, 1], [6, 5]]


def test_epochs_have_the_number_they_had_in_training():
    assert lines(a_history({"loss": 2.0}, {"loss": 1.0}, first=10).plot().axes[0]) == [[[11, 2], [12, 1]]]


def test_a_value_of_unknown_direction_has_no_star_and_needs_no_legend():
    axes = a_history({"gradient_norm": 2.0}, {"gradient_norm": 1.0}).plot().axes[0]
    assert stars(axes) == []
    assert legend(axes) is None
    axes = a_history({"loss": 2.0}, {"loss": 1.0}).plot().axes[0]
    assert legend(axes) == ["best 1 in epoch 2"]
    assert axes.lines[0].get_linestyle() == "-"


def test_validation_alone_says_so():
    axes = a_history({"val_auroc": 0.5}, {"val_auroc": 0.7}).plot().axes[0]
    assert legend(axes) == ["validation, best 0.7 in epoch 2"]
    both = a_history({"loss": 0.5, "val_loss": 0.7}).plot().axes[0]
    assert axes.lines[0].get_color() == both.lines[2].get_color()  # as validation has it elsewhere


def test_several_validation_sets_share_the_chart():
    row = {"loss": 1.0, "val_easy_loss": 2.0, "val_hard_loss": 3.0}
    (axes,) = a_history(row).plot().axes
    assert [text.split(",")[0] for text in legend(axes)] == ["training", "validation easy", "validation hard"]
    assert len({line.get_color() for line in axes.lines}) == 3


def test_a_learning_rate_is_drawn_if_it_changes_or_is_asked_for():
    constant = learned(3)
    assert "lr" not in [axes.get_title() for axes in constant.plot().axes]
    assert [axes.get_title() for axes in constant.plot(["lr", "seconds"]).axes] == ["lr", "seconds"]
    changing = a_history({"lr": 0.1, "loss": 1.0, "lr_head": 0.5}, {"lr": 0.01, "loss": 0.5, "lr_head": 0.5})
    assert [axes.get_title() for axes in changing.plot().axes] == ["loss", "lr"]


def test_names_are_metrics_or_columns():
    history = learned(3)
    (axes,) = history.plot(["val_loss"]).axes
    assert lines(axes) == [[[epoch, value] for epoch, value in enumerate(history["val_loss"], 1)]]
    (axes,) = history.plot(["val_loss", "loss"]).axes
    assert len(lines(axes)) == 2
    assert [axes.get_title() for axes in history.plot(["accuracy", "loss"]).axes] == ["accuracy", "loss"]


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(KeyError) as error:
        a_history({"loss": 1.0, "val_loss": 1.0}).plot(["los"])
    assert error.value.args == ("No value 'los' to draw. Did you mean 'loss'? There are: loss, val_loss.",)
    with pytest.raises(TypeError, match=r"names is a list of names; got 'loss'. Type names=\['loss'\]\."):
        learned(1).plot("loss")


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match=r"^There is nothing to draw: no epoch has finished\.$"):
        History().plot()
    with pytest.raises(ValueError, match="no value is one number per epoch"):
        a_history({"matrix": torch.ones(2, 2)}).plot()


def test_matrices_are_left_out_and_tensors_of_one_number_are_not():
    figure = a_history({"loss": torch.tensor(1.0), "matrix": torch.ones(2, 2), "f1": np.float32(0.5)}).plot()
    assert [axes.get_title() for axes in figure.axes] == ["loss", "f1"]


def test_a_column_without_numbers_says_so():
    axes = a_history({"loss": NAN}, {"loss": NAN}).plot().axes[0]
    assert [text.get_text() for text in axes.texts] == ["no value is a number"]


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.5, 0.9), (0.01, 2.0), (1e-6, 1e4), (-1.0, 5.0), (0.0, 5.0)])
def test_a_logarithmic_scale_has_readable_ticks(low, high):
    figure = a_history({"loss": high}, {"loss": low}).plot(log_scale=True)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    bottom, top = axes.get_ylim()
    shown = [text.get_text() for text in axes.get_yticklabels() if bottom <= text.get_position()[1] <= top]
    assert shown
    assert all(float(text) > 0 for text in shown)


def test_a_logarithmic_scale_needs_something_positive():
    assert a_history({"loss": -1.0}).plot(log_scale=True).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("count", range(1, 8))
def test_any_number_of_charts_is_laid_out(count):
    figure = a_history({f"metric{i}": 1.0 for i in range(count)}).plot()
    assert len(figure.axes) == count
    width, height = figure.get_size_inches()
    assert width < 13.3
    assert height < 9.7


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_a_file_is_written_whole(tmp_path, ending):
    path = tmp_path / "runs" / f"history.{ending}"
    learned(3).plot(path=path)
    learned(3).plot(path=str(path))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    assert {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending.lower()] == content[: 4 + (ending == "svg")]


def test_a_file_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "history.png"
    path.write_text("old")
    figure = learned(1).plot()

    def fail(file, **options):
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        curves.write(figure, path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", ["history", "history.txt", "runs.2026/history"])
def test_a_file_needs_the_ending_of_a_format(path):
    with pytest.raises(
        ValueError, match=rf"^A picture ends with .png, .svg or .pdf; got '{path}'. Type '{path}.png'.$"
    ):
        learned(1).plot(path=path)


def test_a_notebook_shows_it_sharp_even_if_pyplot_was_never_imported():
    data, size = learned(2).plot()._repr_png_()
    width, height = Image.open(BytesIO(data)).size
    assert (width, height) == (2 * size["width"], 2 * size["height"])


def test_nothing_global_changes():
    before, state = dict(matplotlib.rcParams), random.getstate()
    had_pyplot = "matplotlib.pyplot" in sys.modules
    torch.manual_seed(0)
    kept = torch.get_rng_state()
    learned(3).plot()._repr_png_()
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    assert random.getstate() == state
    assert torch.equal(torch.get_rng_state(), kept)


def test_names_with_signs_of_mathematics_are_text():
    figure = a_history({"cost_$_a$b": 1.0, "x^_{": 2.0}).plot()
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == ["cost_$_a$b", "x^_{"]


def test_matplotlib_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingPackageError, match=r"^History.plot needs the package 'matplotlib'. Type: pip install matpl"
    ):
        learned(1).plot()


names = st.sampled_from(["loss", "accuracy", "val_loss", "val_a_loss", "lr", "seconds", "_hidden", "größe", "a b"])
values = st.floats(-1e6, 1e6) | st.sampled_from([NAN, math.inf, -math.inf])


@settings(max_examples=15)
@given(st.lists(st.dictionaries(names, values, min_size=1), min_size=1, max_size=4), st.booleans())
def test_whatever_happened_can_be_drawn(rows, log_scale):
    history = a_history(*({"loss": 1.0, **row} for row in rows))
    history.plot(log_scale=log_scale).draw_without_rendering()


def test_a_rate_that_is_in_the_validation_alone_is_drawn():
    """It was a KeyError."""
    history = History()
    history.append(0, {"loss": 1.0, "val_lr_plus": 0.1})
    history.append(1, {"loss": 0.5, "val_lr_plus": 0.2})
    assert [axes.get_title() for axes in history.plot().axes] == ["loss", "lr_plus"]
