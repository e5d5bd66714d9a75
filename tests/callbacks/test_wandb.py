import json
import struct
import sys
import time

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, WandB

wandb = pytest.importorskip("wandb", reason="wandb is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

X, Y = torch.randn(40, 2), torch.randn(40, 1)
BLOCK = 32768


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Nothing outside of the folder, and nothing from the network."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")


def records(folder):
    """Return what the file of a run that has ended holds; a process of wandb's own writes it, and may be late."""
    for _ in range(300):
        found = list(parsed(folder))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"the run in {folder} has no end")


def parsed(folder):
    """Yield what the file of a run holds: the log format of LevelDB, with its own header, around protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, or last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(folder):
    rows = []
    for record in records(folder):
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def config(folder):
    found = {}
    for record in records(folder):
        for update in (*record.run.config.update, *record.config.update):
            found[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
    return found


def fit(*callbacks, epochs=2, model=None, **options):
    if model is None:
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", torch.optim.SGD(model.parameters(), lr=0.25), ["mae"])
    model.fit(epochs, (X, Y), (X, Y), callbacks=list(callbacks), verbose=0, batch_size=10, **options)
    return model


def test_values_are_those_of_the_history(tmp_path, capfd):
    callback = WandB("tests", name="first", dir=tmp_path / "runs", config={"augmented": True}, update_freq=2)
    (tmp_path / "runs").mkdir()
    model = fit(callback)
    assert callback.folder.parent == tmp_path / "runs" / "wandb"
    rows = history(callback.folder)
    epochs = [row for row in rows if "epoch" in row]
    assert [(row["optimizer_step"], row["epoch"]) for row in epochs] == [(4, 0), (8, 1)]
    for name in ("loss", "val_mae", "lr"):
        assert [row[name] for row in epochs] == pytest.approx(model.history[name], rel=1e-12)
    assert [row["optimizer_step"] for row in rows if "batch_loss" in row] == [2, 4, 6, 8]
    found = config(callback.folder)
    assert (found["optimizer"], found["optimizer_lr"], found["augmented"], found["epochs"]) == ("SGD", 0.25, True, 2)
    run = next(record.run for record in records(callback.folder) if record.HasField("run"))
    assert (run.project, run.display_name) == ("tests", "first")
    assert wandb.run is None
    printed = capfd.readouterr()
    assert "wandb" not in printed.out


def exit_codes(folder):
    return [record.exit.exit_code for record in records(folder) if record.HasField("exit")]


def test_an_error_ends_the_run_as_failed_and_the_next_fit_is_another():
    def fail(epoch, logs):
        raise ZeroDivisionError

    callback = WandB("tests")
    with pytest.raises(ZeroDivisionError):
        fit(callback, LambdaCallback(on_epoch_begin=fail))
    assert exit_codes(callback.folder) == [1]
    first = callback.folder
    fit(callback, epochs=1)
    assert callback.folder != first
    assert exit_codes(callback.folder) == [0]


def test_a_run_of_the_user_is_written_to_and_not_ended(tmp_path):
    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(project="own", mode="offline", dir=tmp_path, settings=settings) as run:
        run.log({"before": 1})
        callback = WandB("tests")
        model = fit(callback, epochs=1)
        values = model.evaluate((X, Y), callbacks=[callback])
        assert wandb.run is run
        assert run.config["optimizer"] == "SGD"
    rows = history(callback.folder)
    assert [row["optimizer_step"] for row in rows if "optimizer_step" in row] == [4, 4]
    assert rows[-1]["test_loss"] == pytest.approx(values["loss"], rel=1e-12)


def test_pictures_text_and_arrays_are_shown_as_such():
    figure = pytest.importorskip("matplotlib.figure").Figure()

    def log(epoch, logs):
        callback.run.log({"digits": torch.rand(2, 1, 8, 8), "colour": torch.rand(3, 8, 8), "chart": figure})
        callback.run.log({"note": "good", "each": torch.rand(5), "thing": object(), "nan": float("nan")})

    callback = WandB("tests")
    with pytest.warns(UserWarning, match="leaves out 'thing': there is no form to show object in"):
        fit(callback, LambdaCallback(on_epoch_end=log), epochs=1)
    rows = {name: value for row in history(callback.folder) for name, value in row.items()}
    assert (rows["digits/_type"], rows["digits/count"]) == ("images/separated", 2)
    assert rows["colour/_type"] == "images/separated"
    assert rows["chart/_type"] == "image-file"
    assert (rows["chart/width"], rows["chart/height"]) == (640, 480)
    assert (rows["note"], rows["each/_type"]) == ("good", "histogram")
    assert "thing" not in rows


def test_disabled_writes_nothing(tmp_path):
    fit(WandB("tests", mode="disabled", dir=tmp_path), epochs=1)
    assert not list(tmp_path.rglob("*.wandb"))


def test_the_mode_is_checked():
    with pytest.raises(ValueError, match=r"got 'ofline'\. Did you mean 'offline'\?"):
        WandB(mode="ofline")


def test_without_the_package_it_says_what_to_install_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"The WandB callback needs the package 'wandb'"):
        WandB()


def test_repr_is_the_call():
    assert repr(WandB("cifar", config={"a": 1})) == (
        "WandB('cifar', name=None, mode='offline', config={'a': 1}, dir=None, update_freq=None)"
    )


def test_an_array_with_nan_does_not_cost_the_epoch():
    def log(epoch, logs):
        logs["each"] = torch.tensor([0.5, float("nan"), 0.25])
        logs["none"] = torch.tensor([float("nan")] * 2)

    callback = WandB("tests")
    fit(callback, LambdaCallback(on_epoch_end=log), epochs=1)
    (row,) = [row for row in history(callback.folder) if "epoch" in row]
    assert "loss" in row
    assert "none" not in row


def test_one_that_cannot_be_shown_does_not_cost_the_others():
    class Odd:
        def savefig(self):
            raise NotImplementedError("odd")

    callback = WandB("tests")
    with pytest.warns(UserWarning, match="leaves out 'odd'"):
        fit(callback, LambdaCallback(on_epoch_end=lambda epoch, logs: logs.__setitem__("odd", Odd())), epochs=1)
    assert [row["epoch"] for row in history(callback.folder) if "loss" in row] == [0]


def test_an_evaluation_of_several_sets_is_one_run(tmp_path):
    callback = WandB("tests", dir=tmp_path)
    model = fit(epochs=1)
    model.evaluate({"a": (X, Y), "b": (X, Y)}, callbacks=[callback])
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    names = {name for row in history(callback.folder) for name in row}
    assert {"test_a_loss", "test_b_loss"} <= names


def test_online_an_evaluation_adds_to_the_run_of_the_last_fit(monkeypatch):
    class Run:
        id, dir = "abc", "folder/files"

        def define_metric(self, *arguments, **options):
            pass

        log = finish = define_metric

    given = []
    monkeypatch.setattr(wandb, "init", lambda **options: given.append(options) or Run())
    callback = WandB("tests", mode="online")
    model = fit(callback, epochs=1)
    model.evaluate((X, Y), callbacks=[callback])
    fit(callback, epochs=1)
    assert [(options.get("id"), options.get("resume")) for options in given] == [
        (None, None),
        ("abc", "allow"),
        (None, None),
    ]


def test_two_of_them_are_told_that_there_is_one_run():
    with pytest.warns(UserWarning, match=r"WandB\('second'.* writes into the run of WandB\('first'"):
        fit(WandB("first"), WandB("second"), epochs=1)


def training(*callbacks, killed=False):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    try:
        model.fit(3, (X, Y), batch_size=10, shuffle=False, callbacks=list(callbacks), verbose=0)
    except BaseException as error:
        if not killed or type(error).__name__ != "Killed":
            raise
    return model


def test_a_killed_run_goes_on_offline_with_its_id(tmp_path, killing):
    killed = killing.Kill(0, None)
    first, second = WandB("tests", dir=tmp_path), WandB("tests", dir=tmp_path)
    training(first, killed, killed=True)
    time.sleep(1.1)  # wandb names folders by the second
    model = training(second, *killing.going_on(killed))
    assert first.folder != second.folder
    runs = [next(r.run for r in records(each.folder) if r.HasField("run")) for each in (first, second)]
    assert runs[0].run_id == runs[1].run_id
    rows = [row for each in (first, second) for row in history(each.folder) if "epoch" in row]
    assert [(row["optimizer_step"], row["epoch"]) for row in rows] == [(4, 0), (8, 1), (12, 2)]
    assert [row["loss"] for row in rows] == pytest.approx(model.history["loss"], rel=1e-12)


@pytest.mark.parametrize("name", [None, "another"])
def test_online_a_killed_run_is_resumed_and_has_no_row_twice(monkeypatch, killing, name):
    rows, given = [], []

    class Run:
        id, dir = "abc", "folder/files"

        @property
        def summary(self):
            return {} if not rows else {"optimizer_step": rows[-1]["optimizer_step"], "epoch": 0}

        def log(self, row):
            rows.append(row)

        def define_metric(self, *arguments, **options):
            pass

        finish = define_metric

    monkeypatch.setattr(wandb, "init", lambda **options: given.append(options) or Run())
    killed = killing.Kill(1, 1, later=2)
    training(WandB("tests", mode="online", update_freq=1), killed, killed=True)
    training(WandB("tests", name=name, mode="online", update_freq=1), *killing.going_on(killed))
    resumed = ("abc", "allow") if name is None else (None, None)
    assert [(options.get("id"), options.get("resume")) for options in given] == [(None, None), resumed]
    if name is None:
        assert [row["optimizer_step"] for row in rows if "batch_loss" in row] == list(range(1, 13))
        assert [row["epoch"] for row in rows if "epoch" in row] == [0, 1, 2]
