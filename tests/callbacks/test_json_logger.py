import json
import math
import os
import signal
import time

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import JSONLogger, LambdaCallback

X, Y = torch.randn(8, 2), torch.randn(8, 1)


def fit(*callbacks, epochs=1, model=None, **options):
    if model is None:
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", "sgd")
    model.fit(epochs, (X, Y), (X, Y), callbacks=list(callbacks), verbose=0, batch_size=4, **options)
    return model


def rows(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_one_line_an_epoch_with_the_values_of_the_history(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    model = fit(JSONLogger(path), epochs=3)
    read = rows(path)
    assert [(row.pop("step"), row.pop("epoch")) for row in read] == [(2, 0), (4, 1), (6, 2)]
    assert read == model.history.rows


def test_lines_of_steps_stand_between_them(tmp_path):
    fit(JSONLogger(tmp_path / "log.jsonl", update_freq=1))
    first, _, last = rows(tmp_path / "log.jsonl")
    assert set(first) == {"step", "batch_loss"}
    assert last["epoch"] == 0


def test_pandas_reads_it(tmp_path):
    pandas = pytest.importorskip("pandas")
    model = fit(JSONLogger(tmp_path / "log.jsonl"), epochs=4, validation_freq=2)
    table = pandas.read_json(tmp_path / "log.jsonl", lines=True, precise_float=True)
    assert table["loss"].tolist() == model.history["loss"]
    assert table["val_loss"].isna().tolist() == [True, False, True, False]


def test_every_value_is_strict_json_or_left_out_with_a_warning(tmp_path, scripted):
    values = {"nan": [math.nan], "inf": [-math.inf], "each": [torch.tensor([0.5, math.nan])], "word": ["ä"]}
    with pytest.warns(UserWarning, match="leaves out") as caught:
        fit(JSONLogger(tmp_path / "log.jsonl"), scripted(**values, thing=[object()] * 2, large=[torch.zeros(20_000)]))
    first, second = (str(warning.message).partition("leaves out ")[2] for warning in caught)
    assert first == "'thing': object is no number, text, list or array."
    assert second == "'large': 20000 numbers are too many for a text."
    row = rows(tmp_path / "log.jsonl")[0]
    assert (row["nan"], row["inf"], row["each"], row["word"]) == (None, None, [0.5, None], "ä")
    assert not {"thing", "large"} & set(row)


def test_a_second_fit_overwrites_and_append_adds(tmp_path):
    path = tmp_path / "log.jsonl"
    fit(JSONLogger(path), epochs=3)
    callback = JSONLogger(path)
    seen = []
    fit(callback, LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(len(rows(path)))))
    assert seen == [3, 3]
    assert len(rows(path)) == 1
    fit(JSONLogger(path, append=True), epochs=2)
    assert [row["epoch"] for row in rows(path)] == [0, 0, 1]


def test_an_evaluation_does_not_overwrite_the_training(tmp_path):
    callback = JSONLogger(tmp_path / "log.jsonl")
    model = fit(callback)
    values = model.evaluate((X, Y), callbacks=[callback])
    assert rows(tmp_path / "log.jsonl")[1] == {"step": 2, "test_loss": values["loss"]}


@pytest.mark.parametrize(("end", "kept"), [('{"epoch": 7, "lo', 1), ('{"epoch": 7}', 2), ("", 1)])
def test_a_torn_last_line_is_taken_away(tmp_path, end, kept):
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 6}\n' + end)
    fit(JSONLogger(path, append=True))
    assert [row["epoch"] for row in rows(path)] == [*[6, 7, 0][:kept], 0]


def test_a_process_that_is_killed_loses_at_most_the_line_that_it_writes(tmp_path, run_program):
    path = tmp_path / "log.jsonl"
    program = f"""
        import torch, kerastorch as kt
        model = kt.Model(torch.nn.Linear(2, 1))
        model.compile("mse", "sgd")
        data = torch.randn(64, 2), torch.randn(64, 1)
        logger = kt.callbacks.JSONLogger({str(path)!r}, update_freq=1)
        model.fit(10**6, data, batch_size=4, verbose=0, callbacks=[logger])
    """
    process = run_program(program)
    while not path.exists() or path.stat().st_size < 3_000:
        time.sleep(0.02)
        assert process.is_running
    os.kill(process.pid, signal.SIGKILL)
    assert process.ended()[0] == -signal.SIGKILL
    lines = path.read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines[:-1]]
    assert steps == sorted(steps)
    assert set(steps) == set(range(1, steps[-1] + 1))


def test_a_file_that_cannot_be_written_is_an_error_before_the_first_batch(tmp_path):
    seen = []
    with pytest.raises(OSError, match=tmp_path.name):
        fit(JSONLogger(tmp_path), LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch)))
    assert seen == []


def test_repr_is_the_call():
    assert repr(JSONLogger("log.jsonl", update_freq=5)) == "JSONLogger('log.jsonl', append=False, update_freq=5)"


def test_the_step_of_a_line_is_that_of_the_optimizer(tmp_path):
    callback = JSONLogger(tmp_path / "log.jsonl")
    log = LambdaCallback(on_epoch_end=lambda epoch, logs: callback.run.log({"step": -1, "temperature": 0.5}))
    with pytest.warns(UserWarning, match="leaves out 'step': a line has the step of the optimizer by that name"):
        fit(callback, log)
    assert rows(tmp_path / "log.jsonl")[0] == {"step": 2, "temperature": 0.5}


def training(*callbacks, killed=False):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd", ["mae"])
    data = (torch.ones(8, 2), torch.ones(8, 1))
    try:
        model.fit(4, data, batch_size=2, shuffle=False, callbacks=list(callbacks), verbose=0)
    except BaseException as error:
        if not killed or type(error).__name__ != "Killed":
            raise
    return model


def told(path):
    """Return lines without their times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in found]


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize(("place", "later"), [((2, 1), 0), ((1, None), 3), ((1, 2), 7), ((0, 1), 5)])
def test_a_killed_run_goes_on_in_its_file(tmp_path, killing, place, later, append):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    path.write_text('{"before": 1}\n')
    training(JSONLogger(whole, update_freq=1))
    killed = killing.Kill(*place, later=later)
    training(JSONLogger(path, append, update_freq=1), killed, killed=True)
    with path.open("a") as file:
        file.write('{"step": 1')
    training(JSONLogger(path, append, update_freq=1), *killing.going_on(killed))
    assert told(path) == [{"before": 1}] * append + told(whole)


def test_another_file_has_the_lines_before(tmp_path, killing):
    killed = killing.Kill(1, 2, later=3)
    training(JSONLogger(tmp_path / "log.jsonl", update_freq=1), killed, killed=True)
    before = (tmp_path / "log.jsonl").read_text()
    training(JSONLogger(tmp_path / "new.jsonl", update_freq=1), *killing.going_on(killed))
    training(JSONLogger(tmp_path / "whole.jsonl", update_freq=1))
    assert told(tmp_path / "new.jsonl") == told(tmp_path / "whole.jsonl")
    assert (tmp_path / "log.jsonl").read_text() == before


def test_a_file_that_lost_lines_is_told_of(tmp_path, killing):
    path = tmp_path / "log.jsonl"
    killed = killing.Kill(1, None)
    training(JSONLogger(path), killed, killed=True)
    path.write_text(path.read_text()[:-5])
    with pytest.warns(UserWarning, match="is shorter than when the checkpoint was made"):
        training(JSONLogger(path), *killing.going_on(killed))
    assert [row["epoch"] for row in told(path)] == [0, 2, 3]


def test_what_is_logged_before_the_checkpoint_is_loaded_is_not_written_again(tmp_path, killing):
    path = tmp_path / "log.jsonl"

    def fit(*others, killed=False):
        log = kt.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: log.run.log({"begins": epoch}))
        training(JSONLogger(path), log, *others, killed=killed)

    killed = killing.Kill(1, 2)
    fit(killed, killed=True)
    fit(*killing.going_on(killed))
    assert [row["begins"] for row in told(path) if "begins" in row] == [0, 1, 2, 3]
