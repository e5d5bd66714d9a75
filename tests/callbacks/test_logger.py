import sys
import time

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import Logger
from kerastorch.callbacks.logger import check_update_freq, configuration

X, Y = torch.randn(40, 2), torch.randn(40, 1)


class Printer(Logger):
    def __init__(self):
        self.rows = []

    def write(self, step, values):
        self.rows.append((step, dict(values)))


class Recorder(Logger):
    """Keeps what happens to it."""

    def __init__(self, fails=None, update_freq=None):
        self.events, self.fails, self.update_freq = [], fails, update_freq

    def open(self):
        self.events.append("open")

    def write(self, step, values):
        self.events.append("write")
        if self.fails:
            raise self.fails

    def close(self, error):
        self.events.append(("close", error))


class Logging(kt.Callback):
    def on_train_batch_end(self, batch, logs):
        if batch == 1:
            self.run.log({"temperature": 0.5})

    def on_train_end(self, logs):
        self.run.log({"done": True})


def fit(*callbacks, epochs=2, model=None, **options):
    if model is None:
        model = kt.Model(nn.Linear(2, 1))
        model.compile("mse", "sgd", ["mae"])
    model.fit(epochs, (X, Y), (X, Y), callbacks=list(callbacks), verbose=0, batch_size=10, **options)
    return model


def test_a_logger_of_five_lines_gets_everything():
    printer = Printer()
    model = fit(printer, Logging(), log_step_freq=2)
    steps = [(step, next(iter(values))) for step, values in printer.rows]
    one = [(2, "temperature"), (2, "batch_loss"), (4, "batch_loss"), (4, "epoch")]
    two = [(6, "temperature"), (6, "batch_loss"), (8, "batch_loss"), (8, "epoch"), (8, "done")]
    assert steps == one + two
    epochs = [values for _, values in printer.rows if "epoch" in values]
    assert [values.pop("epoch") for values in epochs] == [0, 1]
    assert epochs == model.history.rows
    assert set(printer.rows[1][1]) == {"batch_loss", "batch_mae"}


@pytest.mark.parametrize(
    ("update_freq", "log_step_freq", "count"), [(None, 2, 4), (None, None, 0), (3, 2, 2), ("epoch", 2, 0), (0, 2, 0)]
)
def test_running_means_are_written_every_so_many_steps(update_freq, log_step_freq, count):
    recorder = Recorder(update_freq=update_freq)
    fit(recorder, log_step_freq=log_step_freq)
    assert recorder.events.count("write") == count + 2


def test_a_step_of_several_batches_is_written_once():
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    printer = Printer()
    rewind = kt.callbacks.LambdaCallback()
    rewind.on_train_batch_end = lambda batch, logs: setattr(rewind.run.state, "step", (batch + 2) // 2)
    fit(rewind, printer, model=model, epochs=1, log_step_freq=1)
    assert [step for step, values in printer.rows if "batch_loss" in values] == [1, 2]


def test_the_result_of_evaluate_is_a_test():
    printer = Printer()
    model = fit(epochs=1)
    values = model.evaluate((X, Y), callbacks=[printer])
    assert printer.rows == [(4, {f"test_{name}": value for name, value in values.items()})]


def test_evaluate_opens_and_closes_and_says_which_data(monkeypatch):
    recorder = Recorder()
    model = fit(epochs=1)
    model.evaluate((X, Y), callbacks=[recorder])
    assert recorder.events == ["open", "write", ("close", None)]


def test_an_evaluation_inside_fit_goes_to_the_logger_of_that_fit():
    printer, recorder = Printer(), Recorder()

    def evaluate(epoch, logs):
        model.evaluate((X, Y), callbacks=[printer, recorder])

    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    fit(printer, recorder, kt.callbacks.LambdaCallback(on_epoch_end=evaluate), model=model, epochs=1)
    assert [next(iter(values)) for _, values in printer.rows] == ["test_loss", "epoch"]
    assert recorder.events == ["open", "write", "write", ("close", None)]


def test_an_evaluation_that_fails_inside_fit_does_not_close_its_logger():
    recorder = Recorder()

    def evaluate(epoch, logs):
        with pytest.raises(ValueError, match="shape"):
            model.evaluate((X, torch.randn(40, 3)), callbacks=[recorder])

    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    fit(recorder, kt.callbacks.LambdaCallback(on_epoch_end=evaluate), model=model, epochs=1)
    assert recorder.events == ["open", "write", ("close", None)]


def test_what_cannot_be_written_is_one_warning_of_each_kind_and_never_the_end():
    recorder = Recorder(OSError("No space left on device"), update_freq=1)
    with pytest.warns(UserWarning, match="could not write: OSError: No space left on device") as caught:
        model = fit(recorder)
    assert len(caught) == 1
    assert len(model.history["loss"]) == 2
    with pytest.warns(UserWarning, match="No space"):  # a new fit warns anew
        fit(recorder)


def test_a_file_that_cannot_be_closed_is_a_warning():
    class Stuck(Printer):
        def close(self, error):
            raise OSError("stale file handle")

    with pytest.warns(UserWarning, match="stale file handle"):
        fit(Stuck())


def test_a_lost_server_holds_up_a_run_by_a_tenth_at_most(monkeypatch):
    class Lost(Printer):
        def write(self, step, values):
            super().write(step, values)
            now[0] += 5
            raise TimeoutError("timed out")

    now = [100.0]
    monkeypatch.setattr("kerastorch.callbacks.logger.perf_counter", lambda: now[0])
    lost = Lost()
    tick = kt.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: now.__setitem__(0, now[0] + 10))
    with pytest.warns(UserWarning, match=r"timed out\. The next 45 s nothing is written\."):
        fit(lost, tick, epochs=12)
    assert [values["epoch"] for _, values in lost.rows] == [0, 5, 10]  # after 5 seconds it rests for 45


def test_it_is_closed_after_an_error_and_can_be_used_again():
    recorder = Recorder()
    error = ZeroDivisionError()

    def fail(epoch, logs):
        raise error

    with pytest.raises(ZeroDivisionError):
        fit(recorder, kt.callbacks.LambdaCallback(on_epoch_begin=fail))
    assert recorder.events == ["open", ("close", error)]
    fit(recorder, epochs=1)
    assert recorder.events[2:] == ["open", "write", ("close", None)]


def test_one_that_cannot_be_opened_ends_the_run_before_its_first_batch():
    class Refused(Recorder):
        def open(self):
            raise PermissionError("read-only")

    refused, seen = Refused(), []
    with pytest.raises(PermissionError):
        fit(refused, kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch)))
    assert seen == []
    ((name, error),) = refused.events  # what it had begun is ended
    assert name == "close"
    assert isinstance(error, PermissionError)


def test_what_is_logged_after_the_end_reaches_nobody():
    printer = Printer()
    model = fit(printer, epochs=1)
    rows = len(printer.rows)
    printer.run.log({"late": 1})
    assert len(printer.rows) == rows
    fit(printer, model=model, epochs=1)
    assert len(printer.run.writers) == 0


def test_other_processes_than_the_main_one_write_nothing(monkeypatch):
    monkeypatch.setattr("kerastorch.strategy.Strategy.is_main", False)
    recorder = Recorder()
    fit(recorder)
    assert recorder.events == []


def test_training_is_the_same_with_and_without(tmp_path):
    def weights(*callbacks):
        torch.manual_seed(0)
        model = kt.Model(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)))
        model.compile("mse", "adam")
        fit(*callbacks, model=model)
        return model.state_dict()

    board = kt.callbacks.TensorBoard(tmp_path, update_freq=1, histogram_freq=1, write_graph=True, hparams={"a": 1})
    plain = weights()
    watched = weights(board, kt.callbacks.JSONLogger(tmp_path / "log.jsonl", update_freq=1))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_history_has_one_value_for_each_epoch_also_where_none_was_validated(tmp_path):
    """As Keras's has not (mistake 34); loggers get what there is."""
    printer = Printer()
    model = fit(printer, epochs=4, validation_freq=2)
    assert {len(column) for column in model.history.history.values()} == {4}
    assert ["val_loss" in values for _, values in printer.rows] == [False, True, False, True]


def test_a_full_disk_is_said_and_does_not_end_the_run():
    """As skorch's sink does not say (mistake 45)."""
    if not sys.platform.startswith("linux"):
        pytest.skip("/dev/full is Linux's")
    with pytest.warns(UserWarning, match="No space left on device"):
        model = fit(kt.callbacks.JSONLogger("/dev/full", append=True))
    with pytest.warns(UserWarning, match="No space left on device"):
        fit(kt.callbacks.CSVLogger("/dev/full"))
    assert len(model.history["loss"]) == 2


@pytest.mark.parametrize("value", ["batch", -1, 0.5])
def test_update_freq_is_checked(value):
    with pytest.raises(ValueError, match="update_freq is a number of steps"):
        check_update_freq(value)


def test_the_configuration_is_what_a_table_of_runs_shows():
    printer = Printer()
    fit(printer)
    found = configuration(printer.run)
    assert found["optimizer"] == "SGD"
    assert found["optimizer_lr"] == printer.run.state.optimizer.param_groups[0]["lr"]
    assert (found["epochs"], found["steps_per_epoch"], found["parameters"]) == (2, 4, 3)
    assert found["batch_size"] == 10
    assert "loss" in found


def test_without_running_means_a_step_costs_next_to_nothing():
    printer = Printer()
    fit(printer, epochs=1)
    started = time.perf_counter()
    for batch in range(10_000):
        printer.on_train_batch_end(batch, {})
    assert (time.perf_counter() - started) / 10_000 < 2e-5


class Chatty(kt.Callback):
    """Logs under names that loggers use themselves."""

    def on_epoch_end(self, epoch, logs):
        self.run.log({"epoch": epoch + 0.5, "step": -1, "optimizer_step": -2, "temperature": 0.7})


def test_a_value_of_the_user_called_epoch_is_no_epoch(tmp_path):
    """It was taken for the row of the epoch, so that the table had no loss."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = kt.callbacks.TensorBoard(tmp_path / "board", histogram_freq=1)
    model = fit(Chatty(), kt.callbacks.CSVLogger(tmp_path / "log.csv"), board)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[1].split(",")[:2] == ["0", str(model.history["loss"][0])]
    written = events.EventAccumulator(str(tmp_path / "board" / "train")).Reload()
    assert {"epoch_loss", "temperature", "epoch", "step"} <= set(written.Tags()["scalars"])
    assert "epoch_temperature" not in written.Tags()["scalars"]


def test_the_number_of_an_epoch_is_that_of_the_run():
    printer = Printer()
    fit(kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.__setitem__("epoch", 7)), printer)
    assert [values["epoch"] for _, values in printer.rows] == [0, 1]


def test_an_odd_value_costs_itself_and_one_warning_by_its_name():
    class Careful(Printer):
        def write(self, step, values):
            for name, value in values.items():
                with self.leaving_out(name):
                    if name in ("loss", "mae"):
                        raise ValueError("odd.")
                    super().write(step, {name: value})

    careful = Careful()
    with pytest.warns(UserWarning, match=r"leaves out '(loss|mae)': odd\.$") as caught:
        fit(careful)
    assert len(caught) == 2
    assert sum("val_loss" in values for _, values in careful.rows) == 2


def test_a_place_that_fails_is_not_taken_for_an_odd_value(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("kerastorch.callbacks.logger.perf_counter", lambda: now[0])
    printer = Printer()
    with pytest.raises(OSError, match="full"), printer.leaving_out("a"):
        raise OSError("full")
    with pytest.raises(ValueError, match="slow"), printer.leaving_out("a"):
        now[0] += 5
        raise ValueError("slow")


def test_an_evaluation_of_several_sets_is_opened_once():
    recorder = Recorder()
    model = fit(epochs=1)
    model.evaluate({"a": (X, Y), "b": (X, Y)}, callbacks=[recorder])
    assert recorder.events == ["open", "write", "write", ("close", None)]


def test_a_tensor_of_one_number_is_a_number():
    class Kept(Printer):
        def __init__(self):
            super().__init__()
            self.values = []

        def write(self, step, values):
            self.values.append(values)

    class Logs(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            self.run.log({"norm": torch.tensor(2.5), "each": torch.ones(2)})

    kept = Kept()
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", "sgd")
    model.fit(1, (torch.ones(4, 2), torch.ones(4, 1)), callbacks=[Logs(), kept], verbose=0)
    logged = next(values for values in kept.values if "norm" in values)
    assert type(logged["norm"]) is float
    assert torch.equal(logged["each"], torch.ones(2))
