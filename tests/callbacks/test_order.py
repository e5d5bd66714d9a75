"""The order of callbacks in the list never changes the result."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import StepLR

import kerastorch as kt
from kerastorch.callbacks import (
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 3, generator=GENERATOR), torch.randn(24, 1, generator=GENERATOR)


class AddsValue(kt.Callback):
    """Gives the others something to monitor: it is best in epoch 2, counted from 0."""

    def on_epoch_end(self, epoch, logs):
        logs["val_score"] = [3.0, 2.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5][epoch]


class Remembers(kt.Callback):
    """Looks at the net that is kept."""

    weight = None

    def on_train_end(self, logs):
        self.weight = self.run.state.module[0].weight.detach().clone()


def callbacks(folder):
    return [
        AddsValue(),
        Remembers(),
        EarlyStopping("val_score", mode="min", patience=3, restore_best_weights=True),
        ReduceLROnPlateau("val_score", mode="min", patience=1, factor=0.5),
        LearningRateScheduler(partial(StepLR, step_size=5)),
        TerminateOnNaN(),
        ModelCheckpoint(folder / "last.pt"),
        CSVLogger(folder / "log.csv"),
        TensorBoard(folder / "tensorboard"),
    ]


def run(folder, order):
    torch.manual_seed(0)
    model = kt.Model(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    made = callbacks(folder)
    model.fit(8, (X, Y), (X, Y), batch_size=8, callbacks=[made[place] for place in order], verbose=0)
    content = torch.load(folder / "last.pt", weights_only=True)
    content.pop("history")  # seconds differ
    content.pop("names")  # those of files differ
    for logger in ("CSVLogger", "TensorBoard"):
        content["callbacks"].pop(logger)
    assert list(content["callbacks"]["ModelCheckpoint"].pop("files")) == [str(folder / "last.pt")]
    lines = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    timed = [lines[0].index(name) for name in ("seconds", "samples_per_second")]
    table = [[cell for place, cell in enumerate(line) if place not in timed] for line in lines]
    return model, made[1].weight, content, sorted(zip(*table, strict=True))


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@settings(max_examples=4)
@given(st.permutations(range(9)))
def test_net_files_and_rates_do_not_depend_on_the_order(tmp_path_factory, order):
    model, weight, content, table = run(tmp_path_factory.mktemp("one"), range(9))
    again, weight_again, content_again, table_again = run(tmp_path_factory.mktemp("two"), order)
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert torch.equal(weight, weight_again)
    assert torch.equal(weight, model.module[0].weight)  # what is kept: the best, not the last
    assert not torch.equal(weight, content["model"]["0.weight"])
    assert same(content, content_again)
    assert table == table_again
