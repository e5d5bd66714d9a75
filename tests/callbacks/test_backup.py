"""BackupAndRestore: which files there are, and when. That training is the same is in tests/test_resume.py."""

import errno
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch import checkpoint
from kerastorch.callbacks import BackupAndRestore, EarlyStopping, LambdaCallback, Timer
from kerastorch.errors import CheckpointError

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


class Killed(BaseException):
    pass


def model():
    torch.manual_seed(0)
    made = kt.Model(nn.Linear(4, 2))
    made.compile("cross_entropy", "adam")
    return made


def fit(*callbacks, epochs=3, made=None, **options):
    made = made or model()
    made.fit(epochs, (X, Y), callbacks=list(callbacks), batch_size=10, **{"verbose": 0, **options})
    return made


def kill_at(step):
    def end(batch, logs):
        if callback.run.state.step == step:
            raise Killed

    callback = LambdaCallback(on_train_batch_begin=end)
    return callback


def killed(*callbacks, at, **options):
    with pytest.raises(Killed):
        fit(*callbacks, kill_at(at), **options)


def files(directory):
    return sorted(path.name for path in directory.glob("*.pt"))


@pytest.mark.parametrize("directory", ["", None])
def test_a_directory_is_needed(directory):
    with pytest.raises(ValueError, match="directory is where the backup is kept"):
        BackupAndRestore(directory)


@pytest.mark.parametrize("save_freq", ["batch", 0.15, False, True, 0, -1, None, "0min"])
def test_save_freq_is_looked_at(save_freq):
    with pytest.raises(ValueError, match="save_freq is 'epoch', a number of batches above 0, or a time"):
        BackupAndRestore("runs", save_freq)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_keep_is_looked_at(keep):
    with pytest.raises(ValueError, match="keep is a number of files, 1 or more"):
        BackupAndRestore("runs", keep=keep)


def test_repr_is_the_call():
    text = "BackupAndRestore('runs/mnist', '10min', keep=3, delete_checkpoint=False, background=True)"
    assert repr(eval(text)) == text


def test_it_writes_at_the_end_of_epochs_and_keeps_two(tmp_path):
    killed(BackupAndRestore(tmp_path), at=11)
    assert files(tmp_path) == ["backup-0001-0000000.pt", "backup-0002-0000000.pt"]


def test_it_writes_every_so_many_batches_over_epochs(tmp_path):
    killed(BackupAndRestore(tmp_path, 3, keep=9), at=11)
    assert files(tmp_path) == ["backup-0000-0000003.pt", "backup-0001-0000002.pt", "backup-0002-0000001.pt"]


def test_it_counts_batches_on_where_it_goes_on(tmp_path):
    killed(BackupAndRestore(tmp_path, 3, keep=9), at=5)
    killed(BackupAndRestore(tmp_path, 3, keep=9), at=11)
    assert files(tmp_path) == ["backup-0000-0000003.pt", "backup-0001-0000002.pt", "backup-0002-0000001.pt"]


def test_it_writes_after_some_time(tmp_path):
    wait = LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.03))
    killed(BackupAndRestore(tmp_path, "0.1s", keep=20), wait, at=11)
    assert 1 <= len(files(tmp_path)) <= 4


def test_files_are_deleted_when_training_is_complete(tmp_path):
    directory = tmp_path / "run"
    fit(BackupAndRestore(directory))
    assert not directory.exists()


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fit(BackupAndRestore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_complete_training_that_is_kept_is_not_trained_again(tmp_path, capsys):
    first = fit(BackupAndRestore(tmp_path, delete_checkpoint=False))
    begun = []
    looks = LambdaCallback(on_train_begin=begun.append)
    again = fit(BackupAndRestore(tmp_path, delete_checkpoint=False), looks, verbose=1)
    assert not begun
    assert again.history.rows == first.history.rows
    assert torch.equal(again.net.weight, first.net.weight)
    text = f"This training of 3 epochs is complete; its weights are those of {tmp_path / 'finished.pt'}."
    assert text in capsys.readouterr().out


def test_a_complete_training_can_be_made_longer(tmp_path):
    whole = fit(epochs=5)
    fit(BackupAndRestore(tmp_path, delete_checkpoint=False))
    longer = fit(BackupAndRestore(tmp_path, delete_checkpoint=False), epochs=5)
    assert torch.equal(whole.net.weight, longer.net.weight)
    assert len(longer.history) == 5


def test_a_training_that_was_stopped_early_is_complete(tmp_path):
    def stopping():
        return EarlyStopping("loss", patience=0, min_delta=10.0)

    first = fit(stopping(), BackupAndRestore(tmp_path, delete_checkpoint=False), epochs=9)
    assert len(first.history) < 9
    again = fit(stopping(), BackupAndRestore(tmp_path, delete_checkpoint=False), epochs=9)
    assert len(again.history) == len(first.history)


def test_a_kill_between_the_stop_and_the_end_trains_no_more(tmp_path):
    def end(logs):
        raise Killed

    def stopping():
        return EarlyStopping("loss", patience=0, min_delta=10.0)

    with pytest.raises(Killed):
        fit(stopping(), BackupAndRestore(tmp_path), LambdaCallback(on_train_end=end), epochs=9)
    again = fit(stopping(), BackupAndRestore(tmp_path), epochs=9)
    assert len(again.history) == 2


def test_a_damaged_file_falls_back_to_the_one_before(tmp_path):
    whole = fit()
    killed(BackupAndRestore(tmp_path), at=11)
    newest = tmp_path / "backup-0002-0000000.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"backup-0002-0000000.pt is damaged .* The backup before it is used"):
        again = fit(BackupAndRestore(tmp_path))
    assert torch.equal(whole.net.weight, again.net.weight)
    assert again.history.epoch == [0, 1, 2]


def test_without_a_whole_file_training_begins_anew(tmp_path):
    whole = fit()
    (tmp_path / "backup-0002-0000000.pt").write_text("nonsense")
    with pytest.warns(UserWarning, match="is damaged"):
        again = fit(BackupAndRestore(tmp_path))
    assert torch.equal(whole.net.weight, again.net.weight)


def test_a_damaged_file_goes_with_the_next_one_that_is_whole(tmp_path):
    killed(BackupAndRestore(tmp_path, 3, keep=2), at=8)
    newest = tmp_path / "backup-0001-0000002.pt"
    newest.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        killed(BackupAndRestore(tmp_path, 1, keep=2), at=5)
    assert files(tmp_path) == ["backup-0000-0000004.pt", "backup-0001-0000001.pt"]


def test_an_error_tells_where_it_can_go_on(tmp_path):
    def fail(batch, logs):
        if callback.run.state.step == 9:
            raise RuntimeError("out of memory")

    callback = LambdaCallback(on_train_batch_begin=fail)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        fit(BackupAndRestore(tmp_path), callback)
    assert (
        f"the last backup is {tmp_path / 'backup-0002-0000000.pt'}. Run the script again" in caught.value.__notes__[-1]
    )


def test_a_net_that_is_lost_is_not_saved(tmp_path):
    def spoil(batch, logs):
        if callback.run.state.step == 7:
            with torch.no_grad():
                callback.model.net.weight.fill_(torch.nan)

    callback = LambdaCallback(on_train_batch_end=spoil)
    with pytest.warns(UserWarning) as caught, pytest.raises(Killed):
        fit(callback, BackupAndRestore(tmp_path, 1), kill_at(8), nan="warn")
    assert any("No backup is written any more: weight holds values" in str(each.message) for each in caught)
    assert files(tmp_path) == ["backup-0001-0000001.pt", "backup-0001-0000002.pt"]


def interrupted(number, *callbacks, at=6, **options):
    def send(batch, logs):
        if callback.run.state.step == at:
            os.kill(os.getpid(), number)

    callback = LambdaCallback(on_train_batch_end=send)
    return fit(*callbacks, callback, **options)


def test_ctrl_c_saves_and_ends_the_script(tmp_path, capsys):
    whole = fit()
    with pytest.raises(KeyboardInterrupt):
        interrupted(signal.SIGINT, BackupAndRestore(tmp_path), EarlyStopping("loss", restore_best_weights=True))
    assert files(tmp_path) == ["backup-0001-0000000.pt", "backup-0001-0000002.pt"]
    text = f"It is saved to {tmp_path / 'backup-0001-0000002.pt'}; run the same script again to go on."
    assert text in capsys.readouterr().err
    again = fit(BackupAndRestore(tmp_path), EarlyStopping("loss", restore_best_weights=True))
    assert again.history.epoch == whole.history.epoch
    assert torch.equal(again.net.weight, whole.net.weight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("background", [False, True])
def test_a_signal_saves_and_ends_the_process(tmp_path, number, background):
    before = signal.getsignal(number)
    whole = fit()
    with pytest.raises(SystemExit) as caught:
        interrupted(number, BackupAndRestore(tmp_path, background=background))
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert torch.equal(fit(BackupAndRestore(tmp_path)).net.weight, whole.net.weight)


def test_a_signal_in_validation_saves_the_end_of_training(tmp_path):
    whole = fit(dl_val=(X, Y))
    sent = []

    def send(batch, logs):
        if callback.run.state.epoch == 1 and batch == 1:
            sent.append(batch)
            os.kill(os.getpid(), signal.SIGTERM)

    callback = LambdaCallback(on_test_batch_end=send)
    with pytest.raises(SystemExit):
        fit(BackupAndRestore(tmp_path), callback, dl_val=(X, Y))
    assert sent == [1]
    assert files(tmp_path)[-1] == "backup-0001-0000004.pt"
    batches = []
    again = fit(
        BackupAndRestore(tmp_path),
        LambdaCallback(on_train_batch_begin=lambda batch, logs: batches.append(batch)),
        dl_val=(X, Y),
    )
    assert batches == [0, 1, 2, 3], "only the third epoch was left to train; the second had its validation alone"
    assert again.history["val_loss"] == whole.history["val_loss"]


def test_the_time_that_is_over_saves_inside_the_epoch(tmp_path, capsys):
    whole = fit()
    wait = LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.02))
    stopped = fit(Timer("0.12s"), wait, BackupAndRestore(tmp_path))
    assert len(stopped.history) < 3
    assert "run the same script again to go on" in "".join(capsys.readouterr())
    assert torch.equal(fit(BackupAndRestore(tmp_path)).net.weight, whole.net.weight)


def test_an_epoch_count_is_the_number_to_end_before(tmp_path):
    killed(BackupAndRestore(tmp_path, 1), at=2)
    again = fit(BackupAndRestore(tmp_path, 1), epochs=5)
    assert again.history.epoch == [0, 1, 2, 3, 4]
    assert again._session.state.step == 20
    more = fit(made=again, epochs=2)
    assert more.history.epoch == [0, 1], "a later fit knows nothing of it"


def test_evaluate_leaves_the_directory_alone(tmp_path):
    directory = tmp_path / "run"
    fit(epochs=1).evaluate((X, Y), callbacks=[BackupAndRestore(directory)])
    assert not directory.exists()


def test_in_the_background_it_writes_what_was_there(tmp_path, monkeypatch):
    whole = fit()
    threads, save = set(), checkpoint.save

    def slow(content, path):
        threads.add(threading.current_thread().name)
        time.sleep(0.05)
        save(content, path)

    monkeypatch.setattr("kerastorch.checkpoint.save", slow)
    monkeypatch.setattr("kerastorch.checkpoint.writer.save", slow, raising=False)
    killed(BackupAndRestore(tmp_path, 2, background=True), at=9)
    assert threads
    assert threading.main_thread().name not in threads
    assert files(tmp_path) == ["backup-0001-0000002.pt", "backup-0002-0000000.pt"] or files(tmp_path)[-1] == (
        "backup-0001-0000004.pt"
    )
    monkeypatch.undo()
    assert torch.equal(fit(BackupAndRestore(tmp_path)).net.weight, whole.net.weight)


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_full_is_an_error_and_nothing_is_lost(tmp_path, monkeypatch, background):
    killed(BackupAndRestore(tmp_path), at=5)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    made = model()
    with pytest.raises(CheckpointError, match="No space left on device"):
        fit(BackupAndRestore(tmp_path, background=background), made=made)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    assert torch.isfinite(made.predict(X)).all()
