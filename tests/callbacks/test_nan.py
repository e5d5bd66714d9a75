import math

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint, TerminateOnNaN


def batches(bad=None, *, value=math.nan, count=6):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 2, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]
    if bad is not None:
        data[bad][1].fill_(value)
    return data


def fit(callback, data, *others, epochs=2, verbose=0, **options):
    model = kt.Model(nn.Linear(2, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    seen = []
    count = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    try:
        model.fit(epochs, data, callbacks=[callback, count, *others], verbose=verbose, **options)
    finally:
        model.seen = seen
    return model


class Unsized:
    """Batches of which nobody knows how many they are."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [1, 3, 5])
def test_it_stops_at_the_batch_and_names_it(bad, value, capsys):
    model = fit(TerminateOnNaN(), batches(bad, value=value))
    assert model.seen == list(range(bad + 1))
    assert capsys.readouterr().err == (
        f"Stopped by TerminateOnNaN (loss is {value} in batch {bad + 1}) in epoch 1 after batch {bad + 1}. "
        "The history keeps 0 finished epochs.\n"
    )


@pytest.mark.parametrize("raise_error", [False, True])
def test_training_that_is_well_is_left_alone(raise_error):
    model = fit(TerminateOnNaN(raise_error=raise_error), batches())
    assert len(model.history) == 2
    assert len(model.seen) == 12


def test_raised_it_names_batch_and_value_and_no_train_end_is_called():
    ended = []
    with pytest.raises(RuntimeError, match=r"loss is nan in batch 3 of epoch 1\. Try a lower learning rate"):
        fit(TerminateOnNaN(raise_error=True), batches(2), LambdaCallback(on_train_end=ended.append))
    assert ended == []


def test_a_later_epoch_is_watched_too(capsys):
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[4][1].fill_(math.nan) if epoch == 1 else None)
    model = fit(TerminateOnNaN(), data, spoil, epochs=5)
    assert len(model.history) == 2
    assert "in batch 5) in epoch 3" in capsys.readouterr().err


def test_the_lost_net_is_not_validated_and_not_written(tmp_path, capsys):
    tested = []
    fit(
        TerminateOnNaN(),
        batches(5),
        ModelCheckpoint(tmp_path / "{epoch}.pt", "loss"),
        LambdaCallback(on_test_begin=tested.append),
        dl_val=batches(),
    )
    assert list(tmp_path.iterdir()) == []
    assert tested == []


def test_the_best_weights_come_back(scripted, capsys):
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[0][1].fill_(math.nan) if epoch == 1 else None)
    early = EarlyStopping("loss", restore_best_weights=True, patience=5)
    model = fit(TerminateOnNaN(), data, scripted(), early, spoil, epochs=5)
    assert early.best_epoch is not None
    assert torch.equal(model.net.bias, torch.full((1,), float(early.best_epoch)))


def test_a_table_keeps_the_epochs_before(tmp_path, capsys):
    data = batches()
    spoil = LambdaCallback(on_epoch_end=lambda epoch, logs: data[0][1].fill_(math.nan))
    fit(TerminateOnNaN(), data, CSVLogger(tmp_path / "log.csv"), spoil, epochs=5)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("bad", "every", "seen", "where"),
    [(1, 4, 4, "batches 1 to 4"), (4, 4, 6, "batches 5 to 6"), (3, 4, 4, "batches 1 to 4"), (2, 1, 3, "batch 3")],
)
def test_it_may_look_less_often_and_always_at_the_last(bad, every, seen, where, capsys):
    model = fit(TerminateOnNaN(every=every), batches(bad))
    assert len(model.seen) == seen
    assert len(model.history) == 0
    assert f"in {where})" in capsys.readouterr().err


def test_data_of_unknown_length_are_looked_at_when_the_epoch_is_over(capsys):
    model = fit(TerminateOnNaN(every=4), Unsized(batches(5)))
    assert len(model.seen) == 6
    assert len(model.history) == 1
    assert "TerminateOnNaN (loss is nan in batches 5 to the last) after epoch 1" in capsys.readouterr().err


def test_between_looks_nothing_is_read():
    reads = []

    class Logs(dict):
        def items(self):
            reads.append(1)
            return super().items()

    class Place:
        device = torch.device("cuda")
        train_data = kt.data.NoData()

        class state:
            epoch = 0

    Place.train_data.steps = 100
    callback = TerminateOnNaN()
    callback.run = Place
    for batch in range(100):
        callback.on_train_batch_end(batch, Logs(loss=1.0))
    assert len(reads) == 5
    Place.device = torch.device("cpu")
    callback.on_train_batch_end(6, Logs(loss=1.0))
    assert len(reads) == 6


def test_losses_of_a_step_of_ones_own_are_watched(capsys):
    class Gan(kt.Model):
        def train_step(self, batch):
            return {"generator_loss": batch.y.mean(), "discriminator_loss": 1.0, "ratio": math.nan}

    model = Gan(nn.Linear(2, 1))
    model.compile()
    model.fit(2, batches(2), callbacks=[TerminateOnNaN()], verbose=0)
    assert "generator_loss is nan in batch 3" in capsys.readouterr().err


def test_a_validation_that_is_nan_does_not_end_training():
    assert len(fit(TerminateOnNaN(), batches(), dl_val=batches(0)).history) == 2


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_every_is_a_number_of_batches(every):
    with pytest.raises(ValueError, match="every is a number of batches, 1 or more"):
        TerminateOnNaN(every=every)


def test_repr_is_the_call():
    assert repr(TerminateOnNaN(every=10)) == "TerminateOnNaN(every=10, raise_error=False)"
