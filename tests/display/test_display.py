import io
import re

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.display import EpochLines, ProgressBar, TableLog, display
from kerastorch.display.lines import shown

ESCAPE = "\x1b"


def fit(verbose, *, epochs=2, validated=True, **options):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 3))
    model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, lr=0.0), ["accuracy"])
    x, y = torch.randn(40, 2), torch.arange(40) % 3
    model.fit(epochs, (x, y), (x, y) if validated else None, verbose=verbose, batch_size=10, **options)
    return model


@pytest.mark.parametrize("verbose", ["auto", "bar", "table", 1])
def test_piped_output_is_the_text_of_torchkeras_without_control_codes(capsys, verbose):
    model = fit(verbose, log_step_freq=2)
    text = capsys.readouterr().out
    assert ESCAPE not in text
    assert "\r" not in text
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    loss, accuracy = model.history["loss"][0], model.history["accuracy"][0]
    row = f"|   {{}}   | {loss:.3f} |  {accuracy:.3f}   |  {loss:.3f}   |    {accuracy:.3f}     |"
    bar = "=" * 80 + "TIME"
    border = "+-------+-------+----------+----------+--------------+"
    assert re.sub(r"\{'step'.*\}", "STEP", text).splitlines() == [
        "Start Training ...",
        "",
        bar,
        *(
            line
            for epoch in (1, 2)
            for line in (
                "STEP",
                "STEP",
                "",
                border,
                "| epoch |  loss | accuracy | val_loss | val_accuracy |",
                border,
                row.format(epoch),
                border,
                "",
                bar,
            )
        ),
        "Finished Training...",
    ]
    steps = re.findall(r"\{'step': (\d+), 'loss': (\d\.\d+), 'accuracy': (\d\.\d+)\}", text)
    assert [step for step, _, _ in steps] == ["2", "4", "2", "4"]
    assert float(steps[1][1]) == pytest.approx(loss, abs=5e-4)


def test_without_log_step_freq_there_are_no_lines_of_steps(capsys):
    fit("table")
    assert "step" not in capsys.readouterr().out


def test_small_values_do_not_become_zero(capsys):
    model = kt.Model(nn.Linear(1, 1))
    nn.init.constant_(model.module.weight, 0.01)
    nn.init.zeros_(model.module.bias)
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model.fit(1, (torch.ones(4, 1), torch.zeros(4, 1)), verbose="table", log_step_freq=1)
    text = capsys.readouterr().out
    assert "{'step': 1, 'loss': 0.0001}" in text
    assert "|   1   | 0.0001 |" in text


def test_one_line_per_epoch(capsys):
    model = fit(2)
    lines = capsys.readouterr().out.splitlines()
    loss, accuracy = model.history["loss"][0], model.history["accuracy"][0]
    expected = f"loss: {loss:.3f} - accuracy: {accuracy:.3f} - val_loss: {loss:.3f} - val_accuracy: {accuracy:.3f}"
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"Epoch {number}/2 - \d+\.\ds - {re.escape(expected)}", line)


def test_silence(capfd):
    fit(0)
    assert capfd.readouterr() == ("", "")


def test_evaluate_and_predict_are_silent_unless_asked(capfd):
    model = fit(0)
    x, y = torch.randn(4, 2), torch.zeros(4).long()
    model.evaluate((x, y))
    model.predict(x)
    assert capfd.readouterr() == ("", "")


def test_verbose_chooses():
    assert display(0) == []
    assert [type(callback) for callback in display(2)] == [EpochLines]
    assert [type(callback) for callback in display("table")] == [TableLog]
    with pytest.raises(ValueError, match="verbose is 'auto', 'bar', 'table', 0, 1 or 2; got 3"):
        display(3)


def test_rates_and_times_are_not_shown():
    assert shown({"loss": 1.0, "lr": 0.1, "seconds": 2.0, "samples_per_second": 3.0, "val_loss": 2.0}) == {
        "loss": 1.0,
        "val_loss": 2.0,
    }


@pytest.mark.parametrize("verbose", [2, "table", "bar"])
def test_a_matrix_is_kept_but_not_shown(verbose, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: verbose == "bar", raising=False)
    model = kt.Model(nn.Linear(3, 2))
    model.compile("cross_entropy", "sgd", ["accuracy", "confusion_matrix", kt.metrics.Recall(average=None, on="val")])
    data = (torch.randn(8, 3), torch.arange(8) % 2)
    history = model.fit(2, data, data, verbose=verbose)
    shown = capsys.readouterr().out
    assert "val_accuracy" in shown
    assert "confusion_matrix" not in shown
    assert "recall" not in shown
    assert history["val_confusion_matrix"][1].shape == (2, 2)
    assert history["val_recall"][1].shape == (2,)


@pytest.mark.parametrize("stdout", [None, object()])
def test_without_a_stdout_that_can_tell_there_is_the_text(stdout, monkeypatch):
    monkeypatch.setattr("sys.stdout", stdout)
    assert [type(callback) for callback in display("auto")] == [TableLog]


def test_nothing_is_drawn_on_a_dumb_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert [type(callback) for callback in display("auto")] == [TableLog]
    monkeypatch.setenv("TERM", "xterm")
    assert [type(callback) for callback in display("auto")] == [ProgressBar]


@pytest.mark.parametrize("verbose", ["auto", 1, 2, "table"])
def test_a_display_that_is_given_is_the_only_one(verbose, capsys):
    fit(verbose, callbacks=[EpochLines()])
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("verbose", ["auto", 0, 2, "table"])
def test_a_program_without_a_console_trains(verbose, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert len(fit(verbose, log_step_freq=1).history) == 2
    assert len(fit(verbose, callbacks=[kt.callbacks.ProgbarLogger()]).history) == 2


@pytest.mark.parametrize("verbose", [1, 2, "bar"])
def test_names_that_a_log_file_cannot_hold_are_written_all_the_same(verbose, monkeypatch):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", file)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd", {"pr\u00e9cision": lambda y_pred, y_true: y_pred.mean()})
    given = [ProgressBar()] if verbose == "bar" else []
    model.fit(1, (torch.ones(4, 2), torch.ones(4, 1)), verbose=verbose, log_step_freq=1, callbacks=given)
    file.flush()
    assert rb"pr\xe9cision" in file.buffer.getvalue()
    assert ESCAPE.encode() not in file.buffer.getvalue()


@pytest.mark.parametrize("kind", [EpochLines, TableLog])
def test_a_run_that_goes_on_says_where(capsys, killing, kind):
    killed = killing.Kill(1, 2)
    with pytest.raises(killing.Killed):
        fit(0, epochs=3, validation_freq=2, shuffle=False, callbacks=[killed])
    model = fit(0, epochs=3, validation_freq=2, shuffle=False, callbacks=[kind(), *killing.going_on(killed)])
    text = capsys.readouterr().out
    assert "Going on in epoch 2/3 after batch 2 of 4, from backup.pt.\n" in text
    if kind is TableLog:
        before, after = text.split("=" * 80)[:2]
        loss, accuracy = (f"{model.history[name][0]:.3f}" for name in ("loss", "accuracy"))
        assert re.search(rf"\|   1   \| {loss} \|  {accuracy}   \|", before)
        assert re.search(r"\|   2   \|", after)
    else:
        assert [line.split()[1] for line in text.splitlines() if line.startswith("Epoch")] == ["2/3", "3/3"]
