"""What is easily forgotten over a restart: beside the net, beside the epoch, beside the script."""

import copy
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kerastorch as kt
from kerastorch.callbacks import (
    BackupAndRestore,
    EarlyStopping,
    ExponentialMovingAverage,
    LambdaCallback,
)
from kerastorch.errors import CheckpointError

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()


class Killed(BaseException):
    pass


class Kill(kt.Callback):
    """Ends the process, as it were, before a batch, or in the middle of a validation."""

    def __init__(self, epoch, batch, *, validating=False):
        self.place, self.validating = (epoch, batch), validating

    def on_train_batch_begin(self, batch, logs):
        if not self.validating and (self.run.state.epoch, batch) == self.place:
            raise Killed

    def on_test_batch_begin(self, batch, logs):
        if self.validating and (self.run.state.epoch, batch) == self.place:
            raise Killed


def loader():
    return DataLoader(TensorDataset(X, Y), 8, shuffle=True)


def simple(*layers):
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), *layers, nn.Linear(8, 2)))
    model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=0.01), ["accuracy"])
    return model


def values(history):
    return [{name: row[name] for name in row if name not in ("seconds", "samples_per_second")} for row in history.rows]


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def compared(tmp_path, make, kill, callbacks=list, data=loader, **options):
    """Train without a kill, and with one and again; see that both are the same; return both models."""
    options = {"verbose": 0, **options}
    epochs = options.pop("epochs", 3)

    def train(directory, *more):
        made = make()
        validation = options["dl_val"]() if "dl_val" in options else None
        rest = {name: value for name, value in options.items() if name != "dl_val"}
        given = [*callbacks(), BackupAndRestore(tmp_path / directory, 1), *more]
        made.fit(epochs, data(), validation, callbacks=given, **rest)
        return made

    whole = train("whole")
    with pytest.raises(Killed):
        train("backup", kill)
    torch.manual_seed(99)
    again = train("backup")
    assert same(whole, again)
    assert values(whole.history) == values(again.history)
    return whole, again


@pytest.mark.parametrize("options", [{"start": 3}, {"update_every": 2}, {"warmup": True}])
def test_an_average_that_has_not_begun(tmp_path, options):
    compared(tmp_path, simple, Kill(0, 1), lambda: [ExponentialMovingAverage(0.9, **options)])


class Noisy(Dataset):
    """Validation data with random numbers of their own."""

    def __init__(self):
        self.numbers = np.random.default_rng(3)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return X[index] * float(self.numbers.random()), Y[index]


@pytest.mark.parametrize("kill", [Kill(1, 3), Kill(1, 1, validating=True), Kill(2, 0)])
@pytest.mark.parametrize("kind", ["generator", "dataset", "several"])
def test_generators_of_validation_data(tmp_path, kill, kind):
    def validation():
        mixed = DataLoader(TensorDataset(X, Y), 7, shuffle=True, generator=torch.Generator().manual_seed(3))
        return {
            "generator": mixed,
            "dataset": DataLoader(Noisy(), 7),
            "several": {"a": mixed, "b": DataLoader(Noisy(), 7)},
        }[kind]

    compared(tmp_path, simple, kill, dl_val=validation, validation_steps=3)


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_signal_in_a_validation_that_draws_numbers_of_its_own(tmp_path, number):
    def train(directory, *more):
        model = simple()
        given = [BackupAndRestore(tmp_path / directory), *more]
        model.fit(3, loader(), DataLoader(Noisy(), 7), callbacks=given, verbose=0)
        return model

    whole = train("whole")
    send = LambdaCallback(on_test_batch_end=lambda batch, logs: batch or os.kill(os.getpid(), number))
    with pytest.raises(SystemExit):
        train("backup", send)
    assert values(train("backup").history) == values(whole.history)


def test_two_fits_one_after_the_other(tmp_path):
    def script(*more):
        model = simple()
        first = [BackupAndRestore(tmp_path / f"first{len(more)}", delete_checkpoint=False)]
        model.fit(2, loader(), callbacks=first, verbose=0)
        model.fit(2, loader(), callbacks=[BackupAndRestore(tmp_path / "second"), *more], verbose=0)
        return model

    whole = script()
    with pytest.raises(Killed):
        script(Kill(0, 3))
    torch.manual_seed(99)
    (tmp_path / "first0").rename(tmp_path / "other")
    (tmp_path / "first1").rename(tmp_path / "first0")  # that of the script that was killed
    assert same(whole, script())


class Adversaries(kt.Model):
    """Makes its optimizers when it needs them."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x).relu())

    def train_step(self, batch):
        if not hasattr(self, "both"):
            self.both = {name: torch.optim.Adam(getattr(self, name).parameters()) for name in ("body", "head")}
        loss = nn.functional.cross_entropy(self(batch.x), batch.y)
        for optimizer in self.both.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.both.values():
            optimizer.step()
        return {"loss": loss.detach()}


def test_an_optimizer_that_is_made_too_late_is_told(tmp_path):
    def make():
        torch.manual_seed(0)
        model = Adversaries()
        model.compile()
        return model

    with pytest.raises(Killed):
        make().fit(2, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1), Kill(1, 1)], verbose=0)
    with pytest.warns(
        UserWarning, match=r"a state of both\['(body|head)'\] among its optimizers, which .* in __init__"
    ):
        make().fit(2, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1)], verbose=0)


class Student(kt.Model):
    """Has a teacher that is no part of it, and follows it."""

    def __init__(self):
        super().__init__(nn.Linear(4, 2))
        self.teacher = [copy.deepcopy(self.net)]

    def train_step(self, batch):
        result = super().train_step(batch)
        with torch.no_grad():
            for mine, own in zip(self.teacher[0].parameters(), self.net.parameters(), strict=True):
                mine.mul_(0.9).add_(own, alpha=0.1)
        return result


def student():
    torch.manual_seed(0)
    model = Student()
    model.compile("cross_entropy", "adam")
    return model


def test_a_net_in_a_list(tmp_path):
    whole, again = compared(tmp_path, student, Kill(1, 3))
    assert torch.equal(whole.teacher[0].weight, again.teacher[0].weight)


class Scaled(nn.Module):
    """A loss with a weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output * self.scale, target)


class WithOwnLoss(kt.Model):
    def compute_loss(self, batch, output):
        return super().compute_loss(batch, output) + 0.01 * output.square().mean()


@pytest.mark.parametrize("kind", [kt.Model, WithOwnLoss])
def test_a_loss_with_weights(tmp_path, kind):
    losses = []

    def make():
        torch.manual_seed(0)
        model, loss = kind(nn.Linear(4, 2)), Scaled()
        losses.append(loss)
        model.compile(loss, torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.01))
        return model

    compared(tmp_path, make, Kill(1, 3))
    assert torch.equal(losses[0].scale, losses[-1].scale)


class Counting(nn.Module):
    """Has a buffer that is in no state_dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.calls += 1
        return x * (1 + 0.01 * self.calls)


def test_a_buffer_that_is_not_persistent(tmp_path):
    whole, again = compared(tmp_path, lambda: simple(Counting()), Kill(1, 3))
    assert torch.equal(whole.net[2].calls, again.net[2].calls)


def test_a_metric_of_torchmetrics_inside_another(tmp_path):
    torchmetrics = pytest.importorskip("torchmetrics")

    def make():
        torch.manual_seed(0)
        inner = torchmetrics.Accuracy(task="multiclass", num_classes=2, average=None)
        model = kt.Model(nn.Linear(4, 2))
        model.compile("cross_entropy", "adam", [torchmetrics.ClasswiseWrapper(inner)])
        return model

    compared(tmp_path, make, Kill(0, 3))


def test_metrics_that_come_and_go_in_the_middle_of_an_epoch(tmp_path):
    def train(metrics, *more):
        torch.manual_seed(0)
        model = kt.Model(nn.Linear(4, 2))
        model.compile("cross_entropy", "adam", metrics)
        model.fit(2, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1), *more], batch_size=8, verbose=0)
        return model

    with pytest.raises(Killed):
        train(["accuracy", "auc"], Kill(0, 3))
    with pytest.warns(UserWarning, match=r"metrics: \['accuracy', 'auc'\] there and \['accuracy', 'f1'\] here"):
        model = train(["accuracy", "f1"])
    assert set(model.history.history) >= {"accuracy", "f1"}
    assert "auc" not in model.history.history


def test_of_two_callbacks_of_one_class_each_has_its_own_state(tmp_path):
    def two():
        return [EarlyStopping("accuracy", patience=9), EarlyStopping("loss", patience=9)]

    with pytest.raises(Killed):
        simple().fit(3, loader(), callbacks=[*two(), BackupAndRestore(tmp_path), Kill(2, 0)], verbose=0)
    one, found = two()[1], []
    looks = LambdaCallback(on_epoch_begin=lambda epoch, logs: found.append(one.monitor.best))
    with pytest.warns(UserWarning, match=r"a state of EarlyStopping\('accuracy'.* among its callbacks, which this"):
        model = simple()
        model.fit(3, loader(), callbacks=[one, looks, BackupAndRestore(tmp_path)], verbose=0)
    assert found == [min(model.history["loss"][:2])]


def test_fewer_epochs_than_are_trained_delete_nothing(tmp_path):
    with pytest.raises(Killed):
        simple().fit(6, loader(), callbacks=[BackupAndRestore(tmp_path), Kill(4, 0)], verbose=0)
    before = sorted(path.name for path in tmp_path.glob("*.pt"))
    with pytest.raises(CheckpointError, match="has 4 epochs behind it, and epochs=2 asks for fewer"):
        simple().fit(2, loader(), callbacks=[BackupAndRestore(tmp_path)], verbose=0)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == before


def test_a_training_that_is_kept_can_be_made_longer_whatever_its_frequency(tmp_path):
    whole = simple()
    whole.fit(5, loader(), verbose=0)
    simple().fit(3, loader(), callbacks=[BackupAndRestore(tmp_path, "1h", delete_checkpoint=False)], verbose=0)
    begun = []
    looks = LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    longer = simple()
    longer.fit(5, loader(), callbacks=[BackupAndRestore(tmp_path, "1h", delete_checkpoint=False), looks], verbose=0)
    assert begun == [3, 4]
    assert same(whole, longer)


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    leave = LambdaCallback(on_epoch_begin=lambda epoch, logs: os.chdir(tmp_path / "other"))
    with pytest.raises(Killed):
        simple().fit(3, loader(), callbacks=[leave, BackupAndRestore("runs/a"), Kill(2, 1)], verbose=0)
    assert sorted(path.name for path in (tmp_path / "runs" / "a").glob("*.pt")) == [
        "backup-0001-0000000.pt",
        "backup-0002-0000000.pt",
    ]
    assert not list((tmp_path / "other").iterdir())


def test_a_fold_is_not_taken_for_another(tmp_path):
    for _ in range(2):
        simple().fit(1, loader(), callbacks=[BackupAndRestore(tmp_path)], verbose=0)
    with pytest.raises(Killed):
        simple().fit(2, loader(), callbacks=[BackupAndRestore(tmp_path), Kill(1, 1)], verbose=0)
    from kerastorch.callbacks import backup

    backup._ended.clear()  # a new process
    with pytest.raises(
        CheckpointError, match="is of fit number 3 of a script with this directory, and this is number 1"
    ):
        simple().fit(2, loader(), callbacks=[BackupAndRestore(tmp_path)], verbose=0)


def test_a_net_that_is_compiled_now_is_the_same_net(tmp_path):
    def train(wrap, *more):
        torch.manual_seed(0)
        net = nn.Linear(4, 2)
        model = kt.Model(wrap(net))
        model.compile("cross_entropy", torch.optim.Adam(net.parameters()))
        model.fit(3, loader(), callbacks=[BackupAndRestore(tmp_path, 1), *more], verbose=0)
        return net

    whole = train(lambda net: net)
    with pytest.raises(Killed):
        train(lambda net: net, Kill(1, 3))
    again = train(lambda net: torch.compile(net, backend="eager"))
    assert torch.equal(whole.weight, again.weight)


@pytest.mark.parametrize("path", [True, "auto", "directory"])
def test_resume_is_a_file(tmp_path, path):
    with pytest.raises(CheckpointError, match=r"resume is a file, such as .*BackupAndRestore\('runs/name'\)"):
        simple().fit(1, loader(), resume=tmp_path if path == "directory" else path, verbose=0)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be the directory of a backup: .*exists"):
        simple().fit(1, loader(), callbacks=[BackupAndRestore(tmp_path / "runs")], verbose=0)


def test_a_cell_of_a_notebook_is_run_again_after_ctrl_c(tmp_path):
    whole = simple()
    whole.fit(4, loader(), verbose=0)
    model = simple()
    send = LambdaCallback(on_train_batch_end=lambda batch, logs: batch == 3 and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        model.fit(4, loader(), callbacks=[BackupAndRestore(tmp_path), send], verbose=0)
    model.fit(4, loader(), callbacks=[BackupAndRestore(tmp_path)], verbose=0)
    assert same(whole, model)
    model.fit(1, loader(), verbose=0)
    assert model._session.state.began == 28, "the fit before came to its end"


@pytest.mark.parametrize("ends", ["model.stop", "early stopping"])
def test_a_decision_to_stop_survives_a_signal_that_came_first(tmp_path, ends):
    class Stops(kt.Callback):
        def __init__(self, sends):
            self.sends = sends

        def on_epoch_end(self, epoch, logs):
            if epoch == 1:
                if self.sends:
                    os.kill(os.getpid(), signal.SIGTERM)
                if ends == "model.stop":
                    self.model.stop("enough")
            logs["score"] = 1.0

    def callbacks(*, sends):
        return [Stops(sends), EarlyStopping("score", mode="max", patience=1 if ends != "model.stop" else 9)]

    whole = simple()
    whole.fit(6, loader(), callbacks=callbacks(sends=False), verbose=0)
    with pytest.raises(SystemExit):
        simple().fit(6, loader(), callbacks=[*callbacks(sends=True), BackupAndRestore(tmp_path)], verbose=0)
    again = simple()
    again.fit(6, loader(), callbacks=[*callbacks(sends=True), BackupAndRestore(tmp_path)], verbose=0)
    assert len(whole.history) == len(again.history) == 2
    assert same(whole, again)


class Spoiler(torch.autograd.Function):
    """Its gradient is NaN, what it gives is not."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.nan


class SpoiledAtLast(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.layer, self.last, self.calls = nn.Linear(4, 2), last, 0

    def forward(self, x):
        self.calls += self.training
        return Spoiler.apply(self.layer(x)) if self.training and self.calls == self.last else self.layer(x)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_net_that_is_lost_in_its_last_step_is_not_complete(tmp_path, keeps):
    model = kt.Model(SpoiledAtLast(14))
    model.compile("cross_entropy", "adam")
    with pytest.warns(UserWarning, match=r"layer.weight holds values .* The last good one is .*backup-0001-0000000.pt"):
        model.fit(2, loader(), callbacks=[BackupAndRestore(tmp_path, delete_checkpoint=not keeps)], verbose=0)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["backup-0001-0000000.pt"]


def test_after_an_error_in_the_background_the_last_backup_is_one_that_is_there(tmp_path, monkeypatch):
    from kerastorch.checkpoint import writer

    save, written = writer.save, []

    def fails_at_last(content, path):
        if len(written) == 2:
            raise CheckpointError("No space left on device")
        written.append(path)
        save(content, path)

    monkeypatch.setattr(writer, "save", fails_at_last)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        simple().fit(4, loader(), callbacks=[BackupAndRestore(tmp_path, background=True)], verbose=0)
    named = tmp_path / "backup-0002-0000000.pt"
    assert named.exists()
    assert f"the last backup is {named}." in caught.value.__notes__[-1]


def test_a_batch_that_counts_nothing_but_is_spoiled_is_left_out():
    weights, spoiled = torch.ones(50), X.clone()
    weights[16:24], spoiled[16:24] = 0, torch.nan
    data = DataLoader(TensorDataset(spoiled, Y, weights), 8)
    model = simple()
    with pytest.warns(UserWarning, match="loss is nan in batch 3 of epoch 1"):
        model.fit(2, data, nan="skip", verbose=0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_very_end_keeps_what_is_complete(tmp_path, number):
    late = LambdaCallback(on_train_end=lambda logs: os.kill(os.getpid(), number))
    late.stage = "display"
    whole = simple()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        whole.fit(2, loader(), callbacks=[BackupAndRestore(tmp_path), late], verbose=0)
    again = simple()
    again.fit(2, loader(), callbacks=[BackupAndRestore(tmp_path)], verbose=0)
    assert same(whole, again)
    assert values(whole.history) == values(again.history)
    assert not tmp_path.exists()


def test_ten_thousand_epochs_come_after_nine_thousand(tmp_path):
    model = simple()
    with pytest.raises(Killed):
        model.fit(
            10_001, (X, Y), initial_epoch=9_998, callbacks=[BackupAndRestore(tmp_path), Kill(10_000, 1)], verbose=0
        )
    begun = []
    looks = LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    callbacks = [BackupAndRestore(tmp_path), looks]
    simple().fit(10_001, (X, Y), initial_epoch=9_998, callbacks=callbacks, verbose=0)
    assert begun == [10_000]


def test_a_file_of_the_first_format_goes_on_with_its_epoch_from_the_beginning(tmp_path):
    class Keeps(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.run.state.step == 10:
                content = self.run.state.state_dict()
                for name in ("buffers", "parts", "gradients", "metrics"):
                    del content[name]
                content["progress"] = {"epoch": 1, "batch": 3, "step": 10}
                torch.save({"format": 1, "torch": str(torch.__version__), **content}, tmp_path / "old.pt")
                raise Killed

    with pytest.raises(Killed):
        simple().fit(3, loader(), callbacks=[Keeps()], verbose=0)
    old, batches = torch.load(tmp_path / "old.pt", weights_only=True), []
    looks = LambdaCallback(on_train_batch_begin=lambda batch, logs: batches.append(batch))
    model = simple()
    with pytest.warns(
        UserWarning, match="is of an older version and has no position in the data; the epoch begins anew"
    ):
        model.fit(3, loader(), resume=tmp_path / "old.pt", callbacks=[looks], verbose=0)
    assert batches == [*range(7), *range(7)]
    assert model.history.epoch == [0, 1, 2]
    assert model.history.rows[0] == old["history"]["rows"][0]
    assert model._session.state.step == 10 + 14


def test_another_number_of_workers_without_a_seed_is_told(tmp_path):
    def train(workers, *more):
        data = DataLoader(TensorDataset(X, Y), 8, shuffle=True, num_workers=workers)
        model = simple()
        model.fit(2, data, callbacks=[BackupAndRestore(tmp_path, 1), *more], verbose=0)
        return model

    whole = simple()
    whole.fit(2, loader(), verbose=0)
    with pytest.raises(Killed):
        train(0, Kill(1, 3))
    with pytest.warns(UserWarning, match=r"workers were 0 there and are 1 here; samples and order are the same, but"):
        assert same(whole, train(1))


def test_another_number_of_parameter_groups_is_refused(tmp_path):
    def train(groups, *more):
        torch.manual_seed(0)
        net = nn.Linear(4, 2)
        given = [{"params": [each]} for each in net.parameters()] if groups == 2 else list(net.parameters())
        model = kt.Model(net)
        model.compile("cross_entropy", torch.optim.Adam(given, lr=torch.tensor(0.01), capturable=False))
        model.fit(2, loader(), callbacks=[BackupAndRestore(tmp_path, 1), *more], verbose=0)

    with pytest.raises(Killed):
        train(1, Kill(1, 3))
    with pytest.raises(CheckpointError, match="number of parameter groups: 1 in the checkpoint, 2 in this script"):
        train(2)


def test_a_net_whose_shapes_are_not_known_yet(tmp_path):
    def make():
        torch.manual_seed(0)
        model = kt.Model(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2)))
        model.compile("cross_entropy", partial(torch.optim.SGD, lr=0.1, momentum=0.9))
        return model

    compared(tmp_path, make, Kill(1, 3))


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (
            lambda: [(X[:8], Y[:8])] * 5,
            {},
            "so 3 batches of it are read again. If they draw random numbers, others may",
        ),
        (lambda: [(X[:8], Y[:8])] * 5, {"seed": 0}, "so 3 batches of it are read again.\n"),
        (lambda: DataLoader(TensorDataset(X, Y), 8, num_workers=1), {}, "random numbers that workers draw do not."),
        (lambda: DataLoader(TensorDataset(X, Y), 8, num_workers=1), {"seed": 0}, ""),
        (loader, {}, ""),
    ],
)
def test_what_cannot_be_exact_is_said_once(tmp_path, capsys, make, options, text):
    with pytest.raises(Killed):
        simple().fit(2, make(), callbacks=[BackupAndRestore(tmp_path, 1), Kill(0, 3)], verbose=0, **options)
    capsys.readouterr()
    simple().fit(2, make(), callbacks=[BackupAndRestore(tmp_path, 1)], verbose=2, **options)
    said = capsys.readouterr().out
    assert said.count(text or "Going on in epoch 1/2") == 1
    assert text or ("read again" not in said and "workers draw" not in said)
