import csv
import json
import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import CSVLogger, EarlyStopping, LambdaCallback

X, Y = torch.randn(8, 2), torch.randn(8, 1)


def fit(callback, *others, epochs=1, model=None, metrics=("mae",), validated=False, **options):
    if model is None:
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", "adam", list(metrics))
    val = (X, Y) if validated else None
    model.fit(epochs, (X, Y), val, callbacks=[*others, callback], verbose=0, **options)
    return model


def lines(path):
    return path.read_text().splitlines()


def table(path, **options):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, **options))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_that_of_the_file(tmp_path, separator):
    path = tmp_path / "new" / "log.csv"
    fit(CSVLogger(path, separator))
    assert csv.Sniffer().sniff(path.read_text()).delimiter == separator
    assert table(path, delimiter=separator)[0]["epoch"] == "0"


def test_a_file_that_is_appended_to_has_one_line_of_names(tmp_path):
    path = tmp_path / "log.csv"
    model = fit(CSVLogger(path))
    callback = CSVLogger(path, append=True)
    fit(callback, model=model)
    fit(callback, model=model, epochs=2)
    assert len(lines(path)) == 5
    assert [row["epoch"] for row in table(path)] == ["0", "0", "0", "1"]


@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_empty_file_that_is_appended_to_gets_its_names(tmp_path, there):
    path = tmp_path / "log.csv"
    if there:
        path.touch()
    model = fit(CSVLogger(path, append=True))
    assert float(table(path)[0]["loss"]) == model.history["loss"][0]


def test_values_are_those_of_the_history_in_its_order(tmp_path):
    model = fit(CSVLogger(tmp_path / "log.csv"), epochs=3, validated=True)
    rows = table(tmp_path / "log.csv")
    assert list(rows[0]) == ["epoch", "loss", "mae", "val_loss", "val_mae", "lr", "seconds", "samples_per_second"]
    for name in model.history:
        assert [float(row[name]) for row in rows] == model.history[name]


def test_a_second_fit_overwrites_the_file_when_its_first_epoch_is_over(tmp_path):
    path = tmp_path / "log.csv"
    callback = CSVLogger(path)
    model = fit(callback, epochs=3)
    seen = []
    fit(callback, LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(len(lines(path)))), model=model)
    assert seen == [4]
    assert len(lines(path)) == 2


def test_columns_of_a_validation_are_there_before_it(tmp_path):
    fit(CSVLogger(tmp_path / "log.csv"), epochs=5, validated=True, validation_freq=3)
    rows = table(tmp_path / "log.csv")
    assert list(rows[0])[:5] == ["epoch", "loss", "mae", "val_loss", "val_mae"]
    assert not {"val_lr", "val_seconds"} & set(rows[0])
    assert [row["val_loss"] == "NA" for row in rows] == [True, True, False, True, True]


def test_metrics_of_validation_alone_and_of_several_sets_have_columns_too(tmp_path):
    model = kt.Model(nn.Linear(2, 1))
    once = kt.metrics.MeanAbsoluteError()
    once.on = "val"
    trained = kt.metrics.MeanSquaredError()
    trained.on = "train"
    model.compile("mse", "adam", {"once": once, "trained": trained})
    sets = {"easy": (X, Y), "hard": (X, Y)}
    model.fit(2, (X, Y), sets, callbacks=[CSVLogger(tmp_path / "log.csv")], verbose=0, validation_freq=2)
    names = list(table(tmp_path / "log.csv")[0])
    assert names[:7] == ["epoch", "loss", "trained", "val_easy_loss", "val_easy_once", "val_hard_loss", "val_hard_once"]
    assert set(model.history) <= set(names)


def test_without_validation_there_are_no_columns_for_it(tmp_path):
    fit(CSVLogger(tmp_path / "log.csv"))
    assert not [name for name in table(tmp_path / "log.csv")[0] if name.startswith("val_")]


def test_a_value_that_comes_late_is_reported(tmp_path):
    def add(epoch, logs):
        if epoch == 1:
            logs["bleu"] = 0.5

    with pytest.warns(UserWarning, match=r"log\.csv has no column for bleu, which the first epoch lacked"):
        fit(CSVLogger(tmp_path / "log.csv"), LambdaCallback(on_epoch_end=add), epochs=2)
    assert "bleu" not in table(tmp_path / "log.csv")[1]


def test_several_numbers_are_a_list_and_nan_is_nan(tmp_path, scripted):
    values = [torch.tensor([0.5, 1.0])], [torch.eye(2)], [(1, 2)], [math.nan], [torch.tensor(2.0)], [None]
    script = scripted(**dict(zip("abcdef", values, strict=True)))
    fit(CSVLogger(tmp_path / "log.csv"), script)
    row = table(tmp_path / "log.csv")[0]
    assert [row[name] for name in "abcde"] == ["[0.5, 1.0]", "[[1.0, 0.0], [0.0, 1.0]]", "[1, 2]", "nan", "2.0"]


def test_each_epoch_is_in_the_file_when_it_is_over(tmp_path):
    path = tmp_path / "log.csv"
    seen = []
    after = LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(len(lines(path))))
    fit(CSVLogger(path), after, epochs=3)
    assert seen == [0, 2, 3]


def test_after_an_error_the_file_is_whole_and_closed(tmp_path):
    def fail(epoch, logs):
        if epoch == 1:
            raise ZeroDivisionError

    callback = CSVLogger(tmp_path / "log.csv")
    with pytest.raises(ZeroDivisionError):
        fit(callback, LambdaCallback(on_epoch_begin=fail), epochs=3)
    assert len(table(tmp_path / "log.csv")) == 1
    fit(callback)  # a handle that was left open would be a ResourceWarning, which is an error here
    assert len(table(tmp_path / "log.csv")) == 1


def test_the_epoch_that_stopped_training_is_in_it(tmp_path, scripted):
    fit(CSVLogger(tmp_path / "log.csv"), scripted(val_loss=[1.0, 2.0, 3.0]), EarlyStopping(), epochs=3)
    assert [row["val_loss"] for row in table(tmp_path / "log.csv")] == ["1.0", "2.0"]


def test_lines_go_into_the_columns_that_a_file_has(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("loss,epoch,accuracy\n0.5,0,0.9\n")
    with pytest.warns(UserWarning, match="no column for mae, lr, seconds"):
        model = fit(CSVLogger(path, append=True), initial_epoch=1, epochs=2)
    assert lines(path)[2] == f"{model.history['loss'][0]},1,NA"


def test_a_file_with_other_separators_is_not_appended_to(tmp_path):
    path = tmp_path / "log.csv"
    fit(CSVLogger(path, ";"))
    before = path.read_text()
    with pytest.raises(ValueError, match=r"without a column 'epoch'\. Is another separator than ',' used there"):
        fit(CSVLogger(path, append=True))
    assert path.read_text() == before


def test_only_epochs_have_lines(tmp_path):
    callback = CSVLogger(tmp_path / "log.csv")
    log = LambdaCallback(on_epoch_end=lambda epoch, logs: callback.run.log({"temperature": 0.5}))
    model = fit(callback, log, log_step_freq=1)
    before = lines(tmp_path / "log.csv")
    model.evaluate((X, Y), callbacks=[callback])
    assert len(before) == 2
    assert lines(tmp_path / "log.csv") == before


def test_a_file_that_cannot_be_written_is_an_error_before_the_first_batch(tmp_path):
    (tmp_path / "log.csv").mkdir()
    seen = []
    with pytest.raises(OSError, match=r"log\.csv"):
        fit(CSVLogger(tmp_path / "log.csv"), LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch)))
    assert seen == []


@pytest.mark.parametrize("separator", ["", ", "])
def test_the_separator_is_one_character(separator):
    with pytest.raises(ValueError, match="separator is one character"):
        CSVLogger("log.csv", separator)


def test_repr_is_the_call():
    assert repr(CSVLogger("log.csv", ";")) == "CSVLogger('log.csv', ';', append=False)"


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_half_of_it(tmp_path):
    """The next line went on where it ended."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    table_path, text_path = tmp_path / "log.csv", tmp_path / "log.jsonl"

    def smaller(path):
        def limit(epoch, logs):
            room = {1: path.stat().st_size + 10 if epoch else 0, 2: before[0]}.get(epoch, before[0])
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))

        return LambdaCallback(on_epoch_begin=limit)

    try:
        with pytest.warns(UserWarning, match="could not write: OSError: .*File too large"):
            fit(CSVLogger(table_path), smaller(table_path), epochs=4)
        with pytest.warns(UserWarning, match="could not write: OSError: .*File too large"):
            fit(
                kt.callbacks.JSONLogger(text_path),
                smaller(text_path),
                epochs=4,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [row["epoch"] for row in table(table_path)] == ["0", "2", "3"]
    assert [json.loads(line)["epoch"] for line in lines(text_path)] == [0, 2, 3]


@pytest.mark.parametrize(("end", "epochs"), [("7,0.5,0.", ["6", "0"]), ("7,0.5,0.25\r", ["6", "7", "0"])])
def test_a_torn_last_line_is_taken_away(tmp_path, end, epochs):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,loss,mae,lr,seconds,samples_per_second\r\n6,0.5,0.25,1,1,1\r\n" + end.encode())
    fit(CSVLogger(path, append=True))
    assert [row["epoch"] for row in table(path)] == epochs


def test_a_torn_line_of_names_is_written_anew(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,lo")
    model = fit(CSVLogger(path, append=True))
    assert float(table(path)[0]["loss"]) == model.history["loss"][0]


def test_an_odd_value_costs_its_cell(tmp_path, scripted):
    class Odd:
        def tolist(self):
            raise RuntimeError("no list")

    with pytest.warns(UserWarning, match="leaves out 'odd': no list"):
        model = fit(CSVLogger(tmp_path / "log.csv"), scripted(odd=[Odd()]))
    row = table(tmp_path / "log.csv")[0]
    assert (row["odd"], float(row["loss"])) == ("NA", model.history["loss"][0])


def test_what_callbacks_add_has_no_column_for_validation(tmp_path):
    add = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.__setitem__("temperature", 0.5))
    fit(CSVLogger(tmp_path / "log.csv"), add, epochs=2, validated=True, validation_freq=2)
    names = list(table(tmp_path / "log.csv")[0])
    assert names[:6] == ["epoch", "loss", "mae", "temperature", "val_loss", "val_mae"]
    assert "val_temperature" not in names


class Two(kt.metrics.MeanAbsoluteError):
    """Has two values, by names of their own."""

    def value(self, parts):
        return {"low": 0.0, "high": 1.0}


def test_a_metric_of_several_values_has_columns_for_validation(tmp_path):
    fit(CSVLogger(tmp_path / "log.csv"), metrics=[Two()], epochs=2, validated=True, validation_freq=2)
    row = table(tmp_path / "log.csv")[1]
    assert (row["val_low"], row["val_high"]) == ("0.0", "1.0")


def test_what_a_step_of_the_users_own_measures_has_a_column_for_validation(tmp_path):
    class Own(kt.Model):
        def train_step(self, batch):
            super().train_step(batch)
            return {"own": 0.5}

    model = Own(nn.Linear(2, 1))
    model.compile("mse", "adam")
    fit(CSVLogger(tmp_path / "log.csv"), model=model, epochs=2, validated=True, validation_freq=2)
    assert "val_own" in table(tmp_path / "log.csv")[0]


RESUMED = pytest.mark.parametrize(("place", "later"), [((2, 1), 0), ((1, None), 0), ((1, None), 5), ((1, 1), 9)])


def training(*callbacks, epochs=5, killed=False):
    """Train; return the model, after the kill if there is one."""
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd", ["mae"])
    try:
        model.fit(epochs, (X, Y), (X, Y), batch_size=2, shuffle=False, callbacks=list(callbacks), verbose=0)
    except BaseException as error:
        if not killed or type(error).__name__ != "Killed":
            raise
    return model


@RESUMED
@pytest.mark.parametrize("append", [False, True])
def test_a_killed_run_goes_on_in_its_file(tmp_path, killing, place, later, append):
    path = tmp_path / "log.csv"
    before = ""
    if append:
        training(CSVLogger(path))
        before = path.read_text()
    else:
        path.write_text("a table of another time\r\n")
    killed = killing.Kill(*place, later=later)
    training(CSVLogger(path, append=append), killed, killed=True)
    with path.open("a") as file:
        file.write("4,0.1")  # and in the middle of a line
    model = training(CSVLogger(path, append=append), *killing.going_on(killed))
    assert path.read_text().startswith(before)
    rows = table(path)[5 * append :]
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    for name in ("loss", "val_mae", "seconds"):
        assert [float(row[name]) for row in rows] == model.history[name]


@pytest.mark.parametrize("what", ["lost", "emptied", "shorter", "another"])
def test_lines_that_are_not_there_are_filled_in_from_the_history(tmp_path, killing, what):
    path = tmp_path / "log.csv"
    killed = killing.Kill(2, None)
    training(CSVLogger(path), killed, killed=True)
    whole = path.read_bytes()
    if what == "lost":
        path.unlink()
    elif what != "another":
        path.write_bytes(whole[: 0 if what == "emptied" else len(whole) // 2])
    new = tmp_path / "another.csv" if what == "another" else path
    model = training(CSVLogger(new), *killing.going_on(killed))
    assert new.read_bytes().startswith(whole)
    assert [float(row["loss"]) for row in table(new)] == model.history["loss"]
    assert path.read_bytes().startswith(whole)


def test_a_logger_that_is_new_in_a_run_that_goes_on_has_all_epochs(tmp_path, killing):
    killed = killing.Kill(2, 1)
    training(killed, killed=True)
    model = training(CSVLogger(tmp_path / "log.csv"), *killing.going_on(killed))
    assert [float(row["val_loss"]) for row in table(tmp_path / "log.csv")] == model.history["val_loss"]


def test_killed_in_the_first_epoch_nothing_before_is_cut(tmp_path, killing):
    path = tmp_path / "log.csv"
    training(CSVLogger(path))
    before = path.read_text()
    killed = killing.Kill(0, 1, later=6)
    training(CSVLogger(path, append=True), killed, killed=True)
    assert len(table(path)) == 6
    looked = LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(path.read_text()))
    seen = []
    training(CSVLogger(path, append=True), looked, *killing.going_on(killed))
    assert seen[0] == before
    assert [row["epoch"] for row in table(path)] == 2 * ["0", "1", "2", "3", "4"]


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="no pipes")
def test_a_device_is_left_alone(tmp_path, killing):
    killed = killing.Kill(1, None)
    training(CSVLogger("/dev/null"), killed, killed=True)
    training(CSVLogger("/dev/null"), *killing.going_on(killed))
