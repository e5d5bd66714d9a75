import logging
import sys

import numpy as np
import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, MLflow

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no local store without sqlalchemy and alembic")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

X, Y = torch.randn(40, 2), torch.randn(40, 1)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty database: to make its tables takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.MlflowClient(uri).create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return uri


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*callbacks, epochs=2, model=None, **options):
    if model is None:
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", torch.optim.SGD(model.parameters(), lr=0.25), ["mae"])
    model.fit(epochs, (X, Y), (X, Y), callbacks=list(callbacks), verbose=0, batch_size=10, **options)
    return model


def read(callback, database, name):
    history = mlflow.MlflowClient(database).get_metric_history(callback.run_id, name)
    return [(metric.step, metric.value) for metric in history]


def test_metrics_are_those_of_the_history(database):
    callback = MLflow("tests", "first", database, tags={"kind": "a test"}, params={"augmented": True, "loss": "own"})
    model = fit(callback, log_step_freq=2)
    assert read(callback, database, "loss") == list(zip([4, 8], model.history["loss"], strict=True))
    assert read(callback, database, "val_mae") == list(zip([4, 8], model.history["val_mae"], strict=True))
    assert read(callback, database, "epoch") == [(4, 0), (8, 1)]
    assert [step for step, _ in read(callback, database, "batch_loss")] == [2, 4, 6, 8]
    run = mlflow.MlflowClient(database).get_run(callback.run_id)
    assert (run.info.status, run.info.run_name, run.data.tags["kind"]) == ("FINISHED", "first", "a test")
    expected = {"optimizer": "SGD", "optimizer_lr": "0.25", "epochs": "2", "parameters": "3", "augmented": "True"}
    assert expected.items() <= run.data.params.items()
    assert run.data.params["loss"] == "own"
    assert mlflow.active_run() is None


def test_an_error_is_a_failed_run(database):
    def fail(epoch, logs):
        raise ZeroDivisionError

    callback = MLflow("tests", tracking_uri=database)
    with pytest.raises(ZeroDivisionError):
        fit(callback, LambdaCallback(on_epoch_begin=fail))
    assert mlflow.MlflowClient(database).get_run(callback.run_id).info.status == "FAILED"


@pytest.mark.parametrize("hard", [False, True])
def test_ctrl_c_is_a_killed_run(database, hard, capsys):
    def press(batch, logs):
        if hard:
            raise KeyboardInterrupt
        callback.run.interrupt("Ctrl-C")

    callback = MLflow("tests", tracking_uri=database)
    if hard:
        with pytest.raises(KeyboardInterrupt):
            fit(callback, LambdaCallback(on_train_batch_end=press))
    else:
        fit(callback, LambdaCallback(on_train_batch_end=press))
    run = mlflow.MlflowClient(database).get_run(callback.run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags.get("stop_reason") == (None if hard else "Ctrl-C")


def test_a_run_of_the_user_is_written_to_and_not_ended(database):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    try:
        mlflow.set_experiment("tests")
        with mlflow.start_run() as run:
            callback = MLflow("another")
            model = fit(callback, epochs=1)
            fit(callback, model=model, epochs=2)  # its parameters are other ones now, which MLflow would refuse
            assert mlflow.active_run().info.run_id == callback.run_id == run.info.run_id
            assert mlflow.MlflowClient().get_run(run.info.run_id).info.status == "RUNNING"
        assert [step for step, _ in read(callback, database, "loss")] == [4, 8, 12]
    finally:
        mlflow.set_tracking_uri(before)


def test_each_fit_is_a_run_and_an_evaluation_belongs_to_the_last(database):
    callback = MLflow("tests", tracking_uri=database)
    model = fit(callback, epochs=1)
    first = callback.run_id
    fit(callback, model=model, epochs=1)
    assert callback.run_id != first
    second = callback.run_id
    values = model.evaluate((X, Y), callbacks=[callback])
    assert callback.run_id == second
    assert read(callback, database, "test_loss") == [(8, values["loss"])]
    assert mlflow.MlflowClient(database).get_run(second).info.status == "FINISHED"


def test_an_evaluation_alone_is_a_run(database):
    callback = MLflow("tests", tracking_uri=database)
    fit(epochs=1).evaluate((X, Y), callbacks=[callback])
    assert mlflow.MlflowClient(database).get_run(callback.run_id).info.status == "FINISHED"


def test_other_values_become_artifacts(database, tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    image = pytest.importorskip("PIL.Image")

    def log(epoch, logs):
        callback.run.log({"a note": "ä", "chart": figure, "pictures": torch.ones(2, 1, 8, 8), "f1@0.5": 1.0})
        callback.run.log({"each": np.arange(3)})

    callback = MLflow("tests", tracking_uri=database)
    with pytest.warns(UserWarning, match="leaves out 'each': MLflow has no place for ndarray"):
        fit(callback, LambdaCallback(on_epoch_end=log), epochs=2)
    client = mlflow.MlflowClient(database)
    names = {name: [item.path for item in client.list_artifacts(callback.run_id, name)] for name in ("a note", "chart")}
    assert names == {"a note": ["a note/4.txt", "a note/8.txt"], "chart": ["chart/4.png", "chart/8.png"]}
    pictures = [item.path for item in client.list_artifacts(callback.run_id, "images") if item.path.endswith(".png")]
    assert image.open(client.download_artifacts(callback.run_id, pictures[0], str(tmp_path))).size == (16, 8)
    assert read(callback, database, "f1_0.5") == [(4, 1.0), (8, 1.0)]


def test_a_store_that_is_lost_costs_a_warning_and_one_that_never_was_is_an_error(database):
    callback = MLflow("tests", tracking_uri=database)

    def lose(epoch, logs):
        callback._client = None

    with pytest.warns(UserWarning, match="could not write: AttributeError"):
        fit(callback, LambdaCallback(on_epoch_begin=lose), epochs=2)
    with pytest.raises(mlflow.MlflowException):
        fit(MLflow("tests", tracking_uri="nonsense://nowhere"))


def test_without_the_package_it_says_what_to_install_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"The MLflow callback needs the package 'mlflow'"):
        MLflow()


def test_repr_is_the_call():
    expected = "MLflow('cifar', None, tracking_uri='sqlite:///a.db', tags=None, params={'a': 1}, update_freq=None)"
    assert repr(MLflow("cifar", tracking_uri="sqlite:///a.db", params={"a": 1})) == expected


def test_a_bad_name_does_not_cost_the_other_values(database):
    def log(epoch, logs):
        logs |= {"/a:b": 1.0, "../x": 2.0, "y" * 300: 3.0}
        logs |= {f"m{place}": 1.0 for place in range(1000)}  # more than fit into one request

    callback = MLflow("tests", tracking_uri=database)
    model = fit(callback, LambdaCallback(on_epoch_end=log), epochs=1)
    assert read(callback, database, "loss") == [(4, model.history["loss"][0])]
    assert [read(callback, database, name) for name in ("a_b", "x", "y" * 250)] == [[(4, 1.0)], [(4, 2.0)], [(4, 3.0)]]


def test_one_artifact_that_fails_does_not_cost_the_others(database, monkeypatch):
    class Odd:
        def savefig(self, *arguments, **options):
            raise NotImplementedError("odd")

    callback = MLflow("tests", tracking_uri=database)
    log = LambdaCallback(on_epoch_end=lambda epoch, logs: callback.run.log({"odd": Odd(), "note": "good"}))
    with pytest.warns(UserWarning, match="leaves out 'odd'"):
        fit(callback, log, epochs=1)
    client = mlflow.MlflowClient(database)
    assert [item.path for item in client.list_artifacts(callback.run_id, "note")] == ["note/4.txt"]


def test_a_run_that_cannot_be_described_has_failed(database, monkeypatch):
    """It was RUNNING for ever."""

    def refuse(self):
        raise mlflow.MlflowException("no parameters")

    monkeypatch.setattr(MLflow, "_describe", refuse)
    callback = MLflow("tests", tracking_uri=database)
    with pytest.raises(mlflow.MlflowException, match="no parameters"):
        fit(callback)
    assert mlflow.MlflowClient(database).get_run(callback.run_id).info.status == "FAILED"


def training(*callbacks, killed=False):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    try:
        model.fit(4, (X, Y), batch_size=10, shuffle=False, callbacks=list(callbacks), verbose=0)
    except BaseException as error:
        if not killed or type(error).__name__ != "Killed":
            raise
    return model


def test_a_killed_run_goes_on_as_the_same_run(database, killing):
    callback, killed = MLflow("tests", tracking_uri=database, update_freq=1), killing.Kill(1, 2, later=4)
    training(callback, killed, killed=True)
    client = mlflow.MlflowClient(database)
    client.set_tag(callback.run_id, "stop_reason", "a signal")
    again = MLflow("tests", tracking_uri=database, update_freq=1)
    model = training(again, *killing.going_on(killed))
    assert again.run_id == callback.run_id
    assert read(again, database, "loss") == list(zip([4, 8, 12, 16], model.history["loss"], strict=True))
    assert [step for step, _ in read(again, database, "batch_loss")] == list(range(1, 17))
    run = client.get_run(again.run_id)
    assert (run.info.status, run.data.tags.get("stop_reason")) == ("FINISHED", None)


@pytest.mark.parametrize("why", ["deleted", "another name", "gone"])
def test_where_the_run_is_not_there_a_new_one_begins(database, killing, why):
    callback, killed = MLflow("tests", tracking_uri=database), killing.Kill(1, None)
    training(callback, killed, killed=True)
    again = MLflow("tests", "named" if why == "another name" else None, tracking_uri=database)
    if why == "deleted":
        mlflow.MlflowClient(database).delete_run(callback.run_id)
    if why == "gone":
        killed.content["callbacks"]["MLflow"]["run_id"] = "0" * 32
        with pytest.warns(UserWarning, match="begins a new run: 0000"):
            training(again, *killing.going_on(killed))
    else:
        training(again, *killing.going_on(killed))
    assert again.run_id != callback.run_id
    assert [step for step, _ in read(again, database, "loss")] == [12, 16]
