import itertools
import json
import math
import random
import subprocess
import sys
import time
import warnings
from functools import partial
from socket import socket
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import LambdaCallback, TensorBoard
from kerastorch.callbacks.events import hparams_event

X, Y = torch.randn(40, 2), torch.randn(40, 1)


def fit(callback, *, validated=True, epochs=3, also=None, **options):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam", ["mae"])
    callbacks = [callback] if also is None else [callback, also]
    val = (X, Y) if validated else None
    model.fit(epochs, (X, Y), val, callbacks=callbacks, verbose=0, batch_size=10, **options)
    return model


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    events.Reload()
    return events


def read(folder):
    events = events_of(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_curves_are_those_of_the_history(tmp_path):
    model = fit(TensorBoard(tmp_path))
    train, validation = read(tmp_path / "train"), read(tmp_path / "validation")
    assert set(train) == {"epoch_loss", "epoch_mae", "epoch_lr", "epoch_seconds", "epoch_samples_per_second"}
    assert set(validation) == {"epoch_loss", "epoch_mae"}
    assert [step for step, _ in train["epoch_loss"]] == [0, 1, 2]
    assert [value for _, value in train["epoch_loss"]] == pytest.approx(model.history["loss"], rel=1e-6)
    assert [value for _, value in validation["epoch_mae"]] == pytest.approx(model.history["val_mae"], rel=1e-6)


@pytest.mark.parametrize(
    ("update_freq", "log_step_freq", "steps"),
    [(None, 3, [3, 6, 9, 12]), (None, None, None), (5, 3, [5, 10]), (0, 3, None)],
)
def test_curves_per_step(tmp_path, update_freq, log_step_freq, steps):
    fit(TensorBoard(tmp_path, update_freq=update_freq), log_step_freq=log_step_freq)
    train = read(tmp_path / "train")
    if steps is None:
        assert "batch_loss" not in train
    else:
        assert [step for step, _ in train["batch_loss"]] == [step for step, _ in train["batch_mae"]] == steps


def test_without_validation_there_is_no_file_for_it(tmp_path):
    fit(TensorBoard(tmp_path), validated=False)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_two_fits_write_into_one_folder(tmp_path):
    callback = TensorBoard(tmp_path)
    fit(callback, epochs=1)
    fit(callback, epochs=2)
    assert [step for step, _ in read(tmp_path / "train")["epoch_loss"]] == [0, 0, 1]


def test_after_an_error_what_was_written_is_there(tmp_path):
    def fail(epoch, logs):
        if epoch == 1:
            raise ZeroDivisionError

    callback, failing = TensorBoard(tmp_path), kt.callbacks.LambdaCallback(on_epoch_end=fail)
    failing.stage = "display"
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "adam")
    with pytest.raises(ZeroDivisionError):
        model.fit(3, (X, Y), callbacks=[callback, failing], verbose=0)
    assert len(read(tmp_path / "train")["epoch_loss"]) == 2
    assert not callback._writers


def test_without_the_package_it_says_what_to_install_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        ImportError, match=r"The TensorBoard callback needs the package 'tensorboard'\. Type: pip install"
    ):
        TensorBoard("logs")


def test_repr_is_the_call():
    assert repr(TensorBoard("logs", update_freq=10)) == "TensorBoard('logs', update_freq=10)"
    assert repr(TensorBoard("logs", histogram_freq=1, write_graph=True, hparams={"lr": 0.1})) == (
        "TensorBoard('logs', update_freq=None, histogram_freq=1, write_graph=True, hparams={'lr': 0.1})"
    )


def tensors(folder, plugin):
    """Return `{tag: {step: values}}` of a plugin."""
    events = events_of(folder)
    found = {}
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == plugin:
            found[tag] = {event.step: event.tensor_proto for event in events.Tensors(tag)}
    return found


def test_the_learning_rate_of_a_schedule_is_a_curve(tmp_path):
    schedule = kt.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    model.fit(2, (X, Y), callbacks=[TensorBoard(tmp_path), schedule], verbose=0)
    assert [value for _, value in read(tmp_path / "train")["epoch_lr"]] == pytest.approx([0.1, 0.05])


def test_histograms_of_parameters_and_gradients(tmp_path):
    model = kt.Model(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1), nn.Linear(1, 1)))
    model.freeze("2")  # has no gradient
    model.compile("mse", "sgd")
    model.fit(4, (X, Y), callbacks=[TensorBoard(tmp_path, histogram_freq=2)], verbose=0)
    events = events_of(tmp_path / "train")
    tags = events.Tags()["histograms"]
    assert set(tags) == {f"parameters/{name}" for name, _ in model.named_parameters()} | {
        f"gradients/{name}" for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    last = events.Histograms("parameters/0.weight")
    assert [event.step for event in last] == [1, 3]
    weight = model.state_dict()["0.weight"].double()
    assert last[-1].histogram_value.num == 8
    assert last[-1].histogram_value.sum == pytest.approx(float(weight.sum()))
    assert last[-1].histogram_value.max == pytest.approx(float(weight.max()))


def test_histograms_leave_out_what_is_not_finite_and_take_sparse_gradients(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(4, 1, sparse=True)
            self.lost = nn.Parameter(torch.full((2,), math.nan))

        def forward(self, x):
            return self.embedding(x).squeeze(-1)

    model = kt.Model(Net())
    model.compile("mse", torch.optim.SGD(model.parameters(), lr=0.1))
    data = torch.randint(4, (8, 1)), torch.randn(8, 1)
    model.fit(1, data, callbacks=[TensorBoard(tmp_path, histogram_freq=1)], verbose=0)
    tags = events_of(tmp_path / "train").Tags()["histograms"]
    assert set(tags) == {"parameters/embedding.weight", "gradients/embedding.weight"}


def test_what_is_logged_is_written_by_what_it_is(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(2, 1), dpi=50)

    def log(epoch, logs):
        run = callback.run
        run.log({"val_pictures": torch.rand(4, 1, 8, 8), "picture": np.zeros((9, 12, 3), np.uint8), "chart": figure})
        run.log(
            {"note": "good", "temperature": 0.5, "spread": torch.rand(100), "thing": object(), "none": [math.nan] * 2}
        )

    callback = TensorBoard(tmp_path)
    with pytest.warns(UserWarning, match="leaves out 'thing': there is no form to show object in"):
        fit(callback, epochs=1, validated=False, also=LambdaCallback(on_epoch_end=log))
    events = events_of(tmp_path / "train")
    assert set(events.Tags()["images"]) == {"picture", "chart"}
    assert (events.Images("picture")[0].width, events.Images("picture")[0].height) == (12, 9)
    assert (events.Images("chart")[0].width, events.Images("chart")[0].height) == (100, 50)
    assert events_of(tmp_path / "validation").Images("pictures")[0].step == 4
    assert tensors(tmp_path / "train", "text")["note/text_summary"][4].string_val == [b"good"]
    assert events.Scalars("temperature")[0].value == 0.5
    assert events.Tags()["histograms"] == ["spread"]


def test_a_metric_of_each_class_is_a_histogram_over_them(tmp_path, scripted):
    fit(TensorBoard(tmp_path), epochs=1, also=scripted(val_recall=[torch.tensor([0.5, 1.0])]))
    assert events_of(tmp_path / "validation").Tags()["histograms"] == ["epoch_recall"]


def test_the_graph_is_drawn_once_and_nothing_is_disturbed(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.layers(x)

    def train(*callbacks):
        torch.manual_seed(0)
        net = Counting()
        net(X[:2])
        model = kt.Model(net)
        model.compile("mse", "adam")
        model.fit(2, (X, Y), callbacks=list(callbacks), verbose=0)
        return net, torch.rand(1), random.getstate()

    plain, plain_random, plain_state = train()
    drawn, drawn_random, drawn_state = train(TensorBoard(tmp_path, write_graph=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), drawn.state_dict().values(), strict=True))
    assert torch.equal(plain_random, drawn_random)
    assert plain_state == drawn_state
    assert drawn.calls == plain.calls
    graph = events_of(tmp_path / "train").Graph()
    names = [node.name for node in graph.node]
    assert any("layers" in name and "Linear" in name for name in names)


def test_several_inputs_are_drawn_and_others_are_a_warning(tmp_path, capsys):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, first, second):
            return self.layer(first + second)

    model = kt.Model(Two())
    model.compile("mse", "sgd")
    model.fit(1, ((X, X), Y), callbacks=[TensorBoard(tmp_path / "tuple", write_graph=True)], verbose=0)
    assert events_of(tmp_path / "tuple" / "train").Tags()["graph"]
    with pytest.warns(UserWarning, match="cannot draw the net: TypeError: its inputs must be tensors") as caught:
        board = TensorBoard(tmp_path / "dict", write_graph=True)
        model.fit(2, ({"first": X, "second": X}, Y), callbacks=[board], verbose=0)
    assert len(caught) == 1
    assert len(read(tmp_path / "dict" / "train")["epoch_loss"]) == 2
    assert capsys.readouterr().out == ""


def test_a_net_that_cannot_be_traced_is_a_warning(tmp_path, capsys):
    class Untraceable(nn.Linear):
        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("no " * 200)
            return super().forward(x)

    model = kt.Model(Untraceable(2, 1))
    model.compile("mse", "sgd")
    with pytest.warns(UserWarning, match=r"cannot draw the net: RuntimeError: no no .* \.\.\. Training goes on"):
        model.fit(1, (X, Y), callbacks=[TensorBoard(tmp_path, write_graph=True)], verbose=0)
    assert capsys.readouterr().out == ""


def hparams(folder):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = events_of(folder)
    found = {}
    for tag in ("_hparams_/session_start_info", "_hparams_/session_end_info"):
        if tag in events.summary_metadata:
            found[tag[10:]] = HParamsPluginData.FromString(events.summary_metadata[tag].plugin_data.content)
    return found


def test_hparams_stand_above_the_values_of_the_run(tmp_path):
    given = {"lr": 0.1, "width": 64, "augmented": True, "net": "wide", "size": (1, 2), "none": None}
    fit(TensorBoard(tmp_path, hparams=given))
    found = hparams(tmp_path)
    session = found["session_start_info"].session_start_info.hparams
    numbers = {name: value.number_value for name, value in session.items() if value.HasField("number_value")}
    words = {name: value.string_value for name, value in session.items() if value.HasField("string_value")}
    assert numbers == {"lr": 0.1, "width": 64}
    assert words == {"augmented": "True", "net": "wide", "size": "(1, 2)", "none": "None"}
    assert found["session_end_info"].session_end_info.status == 1  # success
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["train", "validation"]


def test_hparams_of_a_run_that_failed_have_no_end(tmp_path):
    def fail(epoch, logs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(TensorBoard(tmp_path, hparams={"lr": 0.1}), also=LambdaCallback(on_epoch_end=fail))
    assert set(hparams(tmp_path)) == {"session_start_info"}
    assert hparams_event({}, ends=True).value[0].tag == "_hparams_/session_end_info"


def test_curves_of_precision_over_recall(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(100, 2), torch.randint(3, (100,))
    model = kt.Model(nn.Linear(2, 3))
    curve = kt.metrics.PrecisionRecallCurve()
    model.compile("cross_entropy", "sgd", {"pr": curve})
    sets = {"easy": (x, y), "hard": (x[:50], y[:50])}
    model.fit(2, (x, y), sets, callbacks=[TensorBoard(tmp_path)], verbose=0)
    found = tensors(tmp_path / "validation", "pr_curves")
    assert set(found) == {f"{name}_pr/{place}" for name in ("easy", "hard") for place in range(3)}
    assert list(found["hard_pr/0"]) == [0, 1]
    assert set(tensors(tmp_path / "train", "pr_curves")) == {"pr/0", "pr/1", "pr/2"}
    from torch.utils.tensorboard.summary import compute_curve

    scores = model.predict(x[:50]).softmax(1)[:, 1].numpy()
    expected = compute_curve((y[:50] == 1).numpy(), scores, 127)
    made = np.array(found["hard_pr/1"][1].float_val).reshape(6, 127)
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_the_result_of_evaluate_goes_to_a_folder_of_its_own(tmp_path):
    callback = TensorBoard(tmp_path, hparams={"lr": 0.1})
    model = fit(callback, epochs=1)
    values = model.evaluate((X, Y), callbacks=[callback])
    assert read(tmp_path / "test")["test_mae"] == [(4, pytest.approx(values["mae"]))]


def test_writing_by_epochs_reads_no_running_values(tmp_path, monkeypatch):
    def refuse(self):
        raise AssertionError("a wait for the device that nobody asked for")

    monkeypatch.setattr("kerastorch.metrics.MetricSet._running", refuse)
    board = TensorBoard(tmp_path, histogram_freq=1, write_graph=True, update_freq="epoch")
    fit(board, log_step_freq=None)
    assert not board._writers


def test_the_web_page_answers_with_our_tags(tmp_path):
    fit(TensorBoard(tmp_path, update_freq=2, hparams={"lr": 0.1}))
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--host", "127.0.0.1"]
    options = ["--port", str(port), "--load_fast=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, *options], **quiet) as server:
        try:
            tags = answer(f"http://127.0.0.1:{port}/data/plugin/scalars/tags", {"train", "validation"}, server)
        finally:
            server.terminate()
    assert {"epoch_loss", "epoch_mae", "epoch_lr", "batch_loss"} <= set(tags["train"])
    assert set(tags["validation"]) == {"epoch_loss", "epoch_mae"}


def answer(address, expected, server):
    for _ in range(600):
        assert server.poll() is None
        try:
            with warnings.catch_warnings(), urlopen(address, timeout=5) as page:
                found = json.loads(page.read())
        except OSError:
            found = {}
        if expected <= set(found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"TensorBoard shows {found}")


def test_a_folder_that_cannot_be_is_an_error_before_the_first_batch(tmp_path):
    (tmp_path / "file").touch()
    seen = []
    with pytest.raises(OSError, match="file"):
        fit(TensorBoard(tmp_path / "file" / "x"), also=LambdaCallback(on_train_batch_end=lambda *a: seen.append(a)))
    assert seen == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_failure_the_next_epoch_begins_a_new_file(tmp_path):
    """Nothing was written any more."""

    def fail(epoch, logs):
        if epoch == 1:
            writer = board._writers["train"].file_writer.event_writer._async_writer._writer
            writer.write = full

    def full(data):
        raise OSError("No space left on device")

    board = TensorBoard(tmp_path)
    with pytest.warns(UserWarning, match="could not write: OSError: No space left"):
        fit(board, epochs=4, also=LambdaCallback(on_epoch_begin=fail))
    assert [step for step, _ in read(tmp_path / "train")["epoch_loss"]] == [0, 2, 3]


def test_an_odd_value_costs_itself(tmp_path):
    class Odd:
        def savefig(self):
            raise NotImplementedError

    def log(epoch, logs):
        logs["odd"] = Odd()
        logs["other"] = 0.5

    with pytest.warns(UserWarning, match="leaves out 'odd'"):
        fit(TensorBoard(tmp_path), epochs=1, also=LambdaCallback(on_epoch_end=log))
    assert read(tmp_path / "train")["epoch_other"] == [(0, 0.5)]


def test_a_curve_of_precision_over_recall_is_one_in_evaluate_too(tmp_path):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("bce_with_logits", "sgd", {"pr": kt.metrics.PrecisionRecallCurve()})
    sets = {"a": (X, (Y > 0).float()), "b": (X, (Y > 0).float())}
    model.evaluate(sets, callbacks=[TensorBoard(tmp_path)], verbose=0)
    assert set(tensors(tmp_path / "test", "pr_curves")) == {"test_a_pr", "test_b_pr"}


def test_numbers_of_arrays_are_numbers_in_hparams(tmp_path):
    given = {"a": np.float32(0.5), "b": torch.tensor(2), "c": np.array([3]), "d": np.bool_(True), "e": [4]}
    fit(TensorBoard(tmp_path, hparams=given), epochs=1)
    session = hparams(tmp_path)["session_start_info"].session_start_info.hparams
    assert {name: session[name].number_value for name in "abc"} == {"a": 0.5, "b": 2, "c": 3}
    assert (session["d"].string_value, session["e"].string_value) == ("True", "[4]")


def training(*callbacks, killed=False):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd", ["mae"])
    try:
        model.fit(4, (X, Y), (X, Y), batch_size=10, shuffle=False, callbacks=list(callbacks), verbose=0)
    except BaseException as error:
        if not killed or type(error).__name__ != "Killed":
            raise
    return model


def timeless(folder):
    return {tag: points for tag, points in read(folder).items() if "second" not in tag}


@pytest.mark.parametrize(("place", "later"), [((2, 1), 0), ((1, None), 6), ((1, 2), 9), ((0, 1), 5)])
@pytest.mark.parametrize("folder", ["log", "another"])
def test_the_curves_of_a_killed_run_go_on(tmp_path, killing, place, later, folder, monkeypatch):
    clock = SimpleNamespace(time=partial(next, itertools.count(10**9)))  # files are read in the order of time
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", clock)

    def board(name):
        return TensorBoard(
            tmp_path / name, update_freq=1, histogram_freq=1, write_graph=name == "log", hparams={"a": 1}
        )

    training(board("whole"))
    killed = killing.Kill(*place, later=later)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        training(board("log"), killed, killed=True)
    theirs = tmp_path / "log" / "train" / "events.out.tfevents.1.of.another"
    theirs.touch()
    again = killing.Kill(3, 2)  # and killed once more before there is another checkpoint
    training(board(folder), *killing.going_on(killed), again, killed=True)
    training(board(folder), *killing.going_on(killed))
    for name in ("train", "validation"):
        assert timeless(tmp_path / folder / name) == timeless(tmp_path / "whole" / name)
    histograms = events_of(tmp_path / folder / "train").Histograms("parameters/weight")
    assert [event.step for event in histograms] == [0, 1, 2, 3]
    assert len(list((tmp_path / folder).glob("events*"))) == 2  # begin and end of the tab HPARAMS
    assert theirs.exists()


def test_a_disk_that_fails_costs_no_checkpoint(tmp_path, monkeypatch):
    board, seen = TensorBoard(tmp_path), []

    def look(epoch, logs):
        monkeypatch.setattr(board._writers["train"], "flush", lambda: 1 / 0)
        seen.append(board.state_dict())
        monkeypatch.undo()

    after = LambdaCallback(on_epoch_end=look)
    after.stage = "display"
    training(board, after)
    assert len(seen[0]["files"]) == 2
