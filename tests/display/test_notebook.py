import re
import sys

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.display import LivePlot, NotebookProgress, display
from kerastorch.display.jupyter import in_notebook

DATA = (torch.arange(80.0).reshape(40, 2) / 80, torch.arange(40) % 3)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("kerastorch.display.notebook.monotonic", lambda: now[0])
    return now


def passing(clock, seconds=1.0):
    """Let time pass at each batch."""

    def tick(batch, logs):
        clock[0] += seconds

    return kt.callbacks.LambdaCallback(on_train_batch_end=tick, on_test_batch_end=tick, on_predict_batch_end=tick)


def a_model():
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 3))
    model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, lr=0.0), ["accuracy"])
    return model


def texts(place):
    return [content["text/plain"] for content in place.shown]


def rows(html):
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_a_fit_shows_a_bar_a_table_and_curves(notebook, clock, capfd):
    model = a_model()
    history = model.fit(2, DATA, DATA, batch_size=10, callbacks=[passing(clock)])
    bar, table, picture = notebook
    loss, accuracy = history["loss"][0], history["accuracy"][0]
    values = f"loss {loss:.3f}  accuracy {accuracy:.3f}"
    assert len(texts(bar)) == 2 * (4 + 4) + 1
    assert re.fullmatch(r"epoch 1/2  █{6}░{18}  1/4  loss \d\.\d+  accuracy \d\.\d+  10/s  3\.0 s left", texts(bar)[0])
    assert texts(bar)[3] == f"epoch 1/2  {'█' * 24}  4/4  {values}  10/s"
    assert texts(bar)[7] == f"validation 1  {'█' * 24}  4/4  {values}  10/s"
    assert texts(bar)[8].startswith("epoch 2/2")
    assert texts(bar)[-1] == "2 epochs in 0:16"
    assert all(f">{text}</pre>" in content["text/html"] for text, content in zip(texts(bar), bar.shown, strict=True))
    assert rows(table.shown[-1]["text/html"]) == [
        ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"],
        *(
            [f"{epoch}/2", *(f"{value:.3f}" for value in (loss, accuracy, loss, accuracy)), f"{seconds:.1f}"]
            for epoch, seconds in zip((1, 2), history["seconds"], strict=True)
        ),
    ]
    assert texts(table)[-1].split()[:6] == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert all("image/png" in content for content in picture.shown)
    assert capfd.readouterr() == ("", "")


def test_running_values_are_read_at_most_ten_times_a_second(notebook, clock):
    reads = []

    class Watched(dict):
        def items(self):
            reads.append(clock[0])
            return super().items()

    progress = NotebookProgress()
    progress._total = 1000
    for batch in range(100):
        clock[0] += 0.01
        progress.on_train_batch_end(batch, Watched(loss=1.0))
    assert 10 <= len(reads) <= 11


def test_quick_epochs_do_not_flood_the_page(notebook, clock):
    a_model().fit(100, DATA, batch_size=40, callbacks=[passing(clock, 0.01)])
    bar, table, _ = notebook
    assert len(bar.shown) <= 13
    assert len(table.shown) <= 13
    html = table.shown[-1]["text/html"]
    assert len(rows(html)) == 1 + 1 + 20
    assert rows(html)[1] == ["80 epochs before are in the history."]
    assert rows(html)[2][0] == "81/100"
    assert rows(html)[-1][0] == "100/100"
    assert "80 epochs before are in the history." in texts(table)[-1]


def test_epochs_without_validation_have_no_value(notebook):
    a_model().fit(3, DATA, DATA, validation_freq=3)
    cells = rows(notebook[1].shown[-1]["text/html"])
    assert cells[0][3:5] == ["val_loss", "val_accuracy"]
    assert cells[1][3:5] == ["-", "-"]
    assert cells[3][3] != "-"


def test_data_of_unknown_length_are_counted(notebook, clock):
    a_model().fit(1, ((x, y) for x, y in [DATA, DATA]), callbacks=[passing(clock)])
    assert re.fullmatch(r"epoch 1/1  batch 2  loss .*  40/s", texts(notebook[0])[1])


def test_an_evaluation_and_a_prediction_have_a_bar_each(notebook, clock):
    model = a_model()
    values = model.evaluate(DATA, batch_size=10, verbose=1, callbacks=[passing(clock)])
    model.predict(DATA[0], batch_size=10, verbose=1, callbacks=[passing(clock)])
    evaluation, prediction = notebook
    expected = f"loss {values['loss']:.3f}  accuracy {values['accuracy']:.3f}"
    assert texts(evaluation)[-1] == f"evaluate  {'█' * 24}  4/4  {expected}"
    assert texts(prediction)[0] == f"predict  {'█' * 6}{'░' * 18}  1/4  3.0 s left"
    assert texts(prediction)[-1] == f"predict  {'█' * 24}  4/4"


def test_several_sets_have_a_bar_each(notebook):
    a_model().evaluate({"easy": DATA, "hard": DATA}, verbose=1)
    assert [texts(place)[-1].split("  ")[0] for place in notebook] == ["evaluate easy", "evaluate hard"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_what_ends_training_leaves_the_finished_epochs(notebook, error):
    class Break(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.run.state.epoch == 2:
                raise error

    with pytest.raises(type(error)):
        a_model().fit(5, DATA, callbacks=[Break()])
    bar, table, picture = notebook
    assert texts(bar)[-1].startswith("2 epochs in")
    assert [row[0] for row in rows(table.shown[-1]["text/html"])] == ["epoch", "1/5", "2/5"]
    assert picture.shown


def test_an_error_in_the_first_epoch_leaves_no_empty_table(notebook):
    def fail(batch, logs):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        a_model().fit(1, DATA, callbacks=[kt.callbacks.LambdaCallback(on_train_batch_end=fail)])
    assert texts(notebook[-1])[-1].startswith("0 epochs in")
    with pytest.raises(RuntimeError, match="broken"):
        a_model().evaluate(DATA, verbose=1, callbacks=[kt.callbacks.LambdaCallback(on_test_batch_end=fail)])


def test_each_fit_has_places_of_its_own(notebook):
    model = a_model()
    model.fit(1, DATA)
    model.fit(1, DATA)
    assert len(notebook) == 6


def test_verbose_chooses(notebook, monkeypatch):
    assert [type(callback) for callback in display("auto")] == [NotebookProgress, LivePlot]
    assert [type(callback) for callback in display(1)] == [NotebookProgress, LivePlot]
    assert [type(callback) for callback in display("bar", [LivePlot()])] == [NotebookProgress]
    assert NotebookProgress not in map(type, [*display("table"), *display(2), *display(0)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert [type(callback) for callback in display("auto")] == [NotebookProgress]


def test_the_users_curves_take_the_place_of_ours(notebook):
    a_model().fit(2, DATA, callbacks=[LivePlot(names=["accuracy"])])
    assert sum("image/png" in place.shown[0] for place in notebook) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (10.2, "0:11"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_time_is_written_for_people(seconds, text):
    from kerastorch.display.notebook import _clock

    assert _clock(seconds) == text


def test_a_notebook_is_known_by_its_shell(monkeypatch):
    assert not in_notebook()

    class ZMQInteractiveShell:
        pass

    class Shell(ZMQInteractiveShell):  # as Colab's
        pass

    for shell, expected in ((ZMQInteractiveShell(), True), (Shell(), True), (object(), False), (None, False)):
        monkeypatch.setattr("IPython.get_ipython", lambda shell=shell: shell)
        assert in_notebook() is expected


def test_nothing_is_imported_to_find_out(run_program):
    program = "import sys, kerastorch.display as d; d.display('auto'); print('IPython' in sys.modules)"
    assert run_program(program).ended() == (0, "False\n", "")


def test_what_callbacks_add_has_no_column_for_validation(notebook):
    add = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.__setitem__("temperature", 0.5))
    a_model().fit(2, DATA, DATA, callbacks=[add], validation_freq=2)
    table = next(place.shown for place in notebook if "temperature" in place.shown[-1]["text/plain"])
    names = table[-1]["text/plain"].splitlines()[0].split()
    assert "temperature" in names
    assert "val_accuracy" in names
    assert "val_temperature" not in names


def test_a_run_that_goes_on_shows_what_was_before(notebook, clock, killing):
    def training(*callbacks):
        options = {"batch_size": 4, "shuffle": False, "verbose": 0}
        a_model().fit(3, DATA, callbacks=[passing(clock), *callbacks], **options)

    killed = killing.Kill(1, 6)
    with pytest.raises(killing.Killed):
        training(killed)
    training(NotebookProgress(), LivePlot(every=10), *killing.going_on(killed))
    text, table, picture, bar = notebook
    assert texts(text) == ["Going on in epoch 2/3 after batch 6 of 10, from backup.pt."]
    assert [row[0] for row in rows(table.shown[0]["text/html"])] == ["epoch", "1/3"]
    assert len(picture.shown) == 2  # at the beginning, and at the end
    assert re.search(r"epoch 2/3  █{16}░{8}  7/10  .*  4/s  3\.0 s left", texts(bar)[0])
    assert [row[0] for row in rows(table.shown[-1]["text/html"])] == ["epoch", "1/3", "2/3", "3/3"]
