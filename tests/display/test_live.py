import random
import sys
import warnings

import pytest
import torch
from PIL import Image
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import LivePlot
from kerastorch.errors import MissingPackageError


def a_model():
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 3))
    model.compile("cross_entropy", "sgd", ["accuracy"])
    return model


DATA = (torch.arange(80.0).reshape(40, 2) / 80, torch.arange(40) % 3)


@pytest.fixture
def drawn(monkeypatch):
    """Return the pictures that were drawn: history's length and arguments."""
    calls = []
    original = kt.History.plot

    def plot(self, names=None, **options):
        calls.append((len(self), names, options))
        return original(self, names, **options)

    monkeypatch.setattr(kt.History, "plot", plot)
    return calls


def test_a_file_is_replaced_after_each_epoch(tmp_path):
    path = tmp_path / "runs" / "history.png"
    contents = []

    class Look(kt.Callback):
        stage = "display"

        def on_epoch_end(self, epoch, logs):
            with Image.open(path) as image:
                image.load()
            contents.append(path.read_bytes())

    a_model().fit(3, DATA, DATA, callbacks=[LivePlot(path), Look()], verbose=0)
    assert len(set(contents)) == 3
    assert contents[-1] == path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["history.png"]


@pytest.mark.parametrize(("every", "lengths"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (10, [5]), (5, [5])])
def test_the_last_epoch_is_always_drawn(tmp_path, drawn, every, lengths):
    plot = LivePlot(tmp_path / "history.png", every=every, log_scale=True)
    a_model().fit(5, DATA, callbacks=[plot], verbose=0)
    assert drawn == [(length, None, {"log_scale": True}) for length in lengths]


def test_auto_draws_no_more_than_a_tenth_of_the_time(tmp_path, drawn, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("kerastorch.display.live.perf_counter", lambda: now[0])

    class Passing(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            now[0] += 1.0

    original = LivePlot._show

    def show(self):
        original(self)
        now[0] += 0.35

    monkeypatch.setattr(LivePlot, "_show", show)
    plot = LivePlot(tmp_path / "history.png", every="auto")
    a_model().fit(11, DATA, callbacks=[Passing(), plot], verbose=0)
    assert [length for length, *_ in drawn] == [1, 5, 9, 11]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_what_ends_training_leaves_the_last_picture(tmp_path, drawn, error):
    class Break(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.run.state.epoch == 3:
                raise error

    with pytest.raises(type(error)):
        a_model().fit(9, DATA, callbacks=[Break(), LivePlot(tmp_path / "history.png", every=2)], verbose=0)
    assert [length for length, *_ in drawn] == [2, 3]


def test_an_error_before_the_first_epoch_draws_nothing(tmp_path):
    class Break(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        a_model().fit(1, DATA, callbacks=[Break(), LivePlot(tmp_path / "history.png")], verbose=0)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_draws_nothing(tmp_path):
    class Break(kt.Callback):
        def on_test_batch_end(self, batch, logs):
            raise RuntimeError("broken")

    plot = LivePlot(tmp_path / "history.png")
    a_model().evaluate(DATA, callbacks=[plot])
    with pytest.raises(RuntimeError, match="broken"):
        a_model().evaluate(DATA, callbacks=[plot, Break()])
    assert not list(tmp_path.iterdir())


def test_a_picture_that_fails_ends_no_training_and_is_told_once(tmp_path):
    (tmp_path / "file").write_text("")
    plot = LivePlot(tmp_path / "file" / "history.png")
    with pytest.warns(UserWarning, match=r"^LivePlot could not draw after epoch 1: \w*Error") as caught:
        history = a_model().fit(3, DATA, callbacks=[plot], verbose=0)
    assert len(history) == 3
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="could not draw"):  # each fit begins anew
        a_model().fit(1, DATA, callbacks=[plot], verbose=0)


def test_names_wait_for_the_first_validation(tmp_path, drawn):
    plot = LivePlot(tmp_path / "history.png", names=["loss", "val_loss"])
    a_model().fit(3, DATA, DATA, callbacks=[plot], validation_freq=2, verbose=0)
    assert [names for _, names, _ in drawn] == [["loss"], ["loss", "val_loss"], ["loss", "val_loss"]]
    drawn.clear()
    plot = LivePlot(tmp_path / "history.png", names=["val_loss"])
    a_model().fit(2, DATA, DATA, callbacks=[plot], validation_freq=2, verbose=0)
    assert [names for _, names, _ in drawn] == [["val_loss"]]


def test_a_misspelt_name_is_told(tmp_path):
    plot = LivePlot(tmp_path / "history.png", names=["val_los"])
    with pytest.warns(UserWarning, match="No value 'val_los' to draw. Did you mean 'val_loss'?"):
        a_model().fit(2, DATA, DATA, callbacks=[plot], verbose=0)


def test_training_is_what_it_is_without(tmp_path):
    def weights(callbacks):
        model = a_model()
        model.fit(3, DATA, DATA, callbacks=callbacks, verbose=0, batch_size=8)
        return [value.clone() for value in model.state_dict().values()], torch.get_rng_state(), random.getstate()

    random.seed(0)
    plain = weights([])
    random.seed(0)
    watched = weights([LivePlot(tmp_path / "history.png")])
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert torch.equal(plain[1], watched[1])
    assert plain[2] == watched[2]


def test_in_a_notebook_the_picture_changes_where_it_is(notebook, tmp_path):
    plot = LivePlot(tmp_path / "history.png", every=1)
    model = a_model()
    model.fit(3, DATA, DATA, callbacks=[plot], verbose=0)
    (place,) = notebook
    assert len({content["image/png"] for content in place.shown}) == 3
    assert set(place.shown[0]) == {"image/png", "text/plain"}
    assert (tmp_path / "history.png").exists()
    model.fit(1, DATA, DATA, callbacks=[plot], verbose=0)
    assert [len(place.shown) for place in notebook] == [3, 1]  # a second cell has a picture of its own


def test_outside_a_notebook_it_needs_a_path():
    with pytest.raises(
        ValueError, match=r"^Outside a notebook, LivePlot writes a file. Type LivePlot\('history.png'\).$"
    ):
        LivePlot()


@pytest.mark.parametrize("every", [0, -1, 1.5, "often"])
def test_every_is_a_number_of_epochs(every):
    with pytest.raises(ValueError, match=f"every is a number of epochs, 1 or more, or 'auto'; got {every!r}"):
        LivePlot("history.png", every=every)


def test_arguments_are_looked_at_at_once():
    with pytest.raises(ValueError, match="A picture ends with"):
        LivePlot("history.txt")
    with pytest.raises(TypeError, match=r"Type names=\['loss'\]"):
        LivePlot("history.png", names="loss")


def test_matplotlib_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="LivePlot needs the package 'matplotlib'"):
        LivePlot("history.png")


def test_repr_is_the_call(notebook):
    assert repr(LivePlot()) == "LivePlot(None, names=None, every=1, log_scale=False)"
    text = "LivePlot('a.png', names=['loss'], every='auto', log_scale=True)"
    assert repr(eval(text)) == text


def test_no_warning_is_swallowed_by_a_picture(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a_model().fit(1, DATA, callbacks=[LivePlot(tmp_path / "history.svg")], verbose=0)
    assert "<svg" in (tmp_path / "history.svg").read_text()
