"""A training that was killed at any moment and begun again equals one that was not, bit for bit."""

import random
import warnings
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import kerastorch as kt
from kerastorch.callbacks import (
    BackupAndRestore,
    EarlyStopping,
    ExponentialMovingAverage,
    LearningRateScheduler,
    MixUp,
    ModelCheckpoint,
    OneCycle,
)
from kerastorch.errors import BusyError, CheckpointError

SAMPLES, SIZE, STEPS, EPOCHS = 50, 8, 7, 3
X = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(1) > 0).long()
WEIGHTS = torch.arange(1, SAMPLES + 1) / SAMPLES
VALIDATION = [(X[:10] + 0.1, Y[:10]), (X[10:20] + 0.1, Y[10:20])]


class Augmented(Dataset):
    """Draws from torch, NumPy and random for every sample."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        noise = torch.rand(()) + np.random.rand() + random.random()
        return X[index] + 0.1 * noise.float(), Y[index]


class Plain(Dataset):
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, every = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, SAMPLES, every):
            yield Augmented()[index] if worker is None else (X[index], Y[index])


class Lazy(Sampler):
    """Draws each index when it is asked for."""

    def __iter__(self):
        for _ in range(SAMPLES):
            yield int(torch.randint(SAMPLES, ()))

    def __len__(self):
        return SAMPLES


class Numpyish(Sampler):
    def __iter__(self):
        return iter(np.random.permutation(SAMPLES).tolist())

    def __len__(self):
        return SAMPLES


class Special(DataLoader):
    """A subclass with a signature of its own."""

    def __init__(self, size):
        super().__init__(Augmented(), batch_size=size, shuffle=True)


class Drawing(Dataset):
    """Has a generator of its own."""

    def __init__(self):
        self.numbers = np.random.default_rng(3)
        self.generator = torch.Generator().manual_seed(4)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return X[index] + float(self.numbers.random()) + torch.rand((), generator=self.generator), Y[index]


def batches():
    for start in range(0, SAMPLES, SIZE):
        yield X[start : start + SIZE] + 0.1 * torch.rand(()), Y[start : start + SIZE]


class Batches:
    def __iter__(self):
        return batches()


def seeded():
    return torch.Generator().manual_seed(7)


loader = partial(DataLoader, batch_size=SIZE)
two = partial(DataLoader, batch_size=SIZE, num_workers=2, timeout=60)
FORMS = {
    "tensors": lambda: ((X, Y), {"batch_size": SIZE}),
    "tensors in order": lambda: ((X, Y), {"batch_size": SIZE, "shuffle": False}),
    "tensors, seed": lambda: ((X, Y), {"batch_size": SIZE, "seed": 5}),
    "dataset": lambda: (Augmented(), {"batch_size": SIZE}),
    "dataset, seed": lambda: (Augmented(), {"batch_size": SIZE, "seed": 5}),
    "split": lambda: ((X, Y), {"batch_size": SIZE, "validation_split": 0.2}),
    "loader": lambda: (loader(Augmented()), {}),
    "loader, shuffle": lambda: (loader(Augmented(), shuffle=True), {}),
    "loader, seed": lambda: (loader(Augmented(), shuffle=True), {"seed": 5}),
    "loader, generator": lambda: (loader(Augmented(), shuffle=True, generator=seeded()), {}),
    "loader, generator and seed": lambda: (loader(Augmented(), shuffle=True, generator=seeded()), {"seed": 5}),
    "generators in the dataset": lambda: (loader(Drawing(), shuffle=True), {}),
    "drop last": lambda: (loader(Augmented(), shuffle=True, drop_last=True), {}),
    "weighted": lambda: (loader(Augmented(), sampler=WeightedRandomSampler(WEIGHTS, SAMPLES)), {}),
    "replacement": lambda: (loader(Augmented(), sampler=RandomSampler(range(SAMPLES), True)), {}),
    "subset": lambda: (loader(Subset(Augmented(), range(5, SAMPLES)), shuffle=True), {}),
    "subset sampler": lambda: (loader(Augmented(), sampler=SubsetRandomSampler(range(40))), {}),
    "sampler of NumPy": lambda: (loader(Augmented(), sampler=Numpyish()), {}),
    "lazy sampler": lambda: (loader(Plain(), sampler=Lazy()), {}),
    "batch sampler": lambda: (
        DataLoader(Augmented(), batch_sampler=BatchSampler(RandomSampler(range(SAMPLES)), SIZE, False)),
        {},
    ),
    "no batching": lambda: (DataLoader([(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, 48, SIZE)], None), {}),
    "subclass": lambda: (Special(SIZE), {}),
    "limited": lambda: (loader(Augmented(), shuffle=True), {"steps_per_epoch": 5}),
    "limited tensors": lambda: ((X, Y), {"batch_size": SIZE, "steps_per_epoch": 9}),
    "list": lambda: ([(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, 48, SIZE)], {}),
    "iterable": lambda: (Batches(), {"seed": 5}),
    "stream": lambda: (loader(Stream()), {"seed": 5}),
    "two workers": lambda: (two(Plain(), shuffle=True), {}),
    "two workers, seed": lambda: (two(Augmented(), shuffle=True), {"seed": 5}),
    "two persistent workers": lambda: (two(Plain(), shuffle=True, persistent_workers=True), {}),
    "two persistent workers, seed": lambda: (two(Augmented(), shuffle=True, persistent_workers=True), {"seed": 5}),
    "two workers, weighted": lambda: (
        two(Plain(), sampler=WeightedRandomSampler(WEIGHTS, SAMPLES)),
        {},
    ),
    "two workers, stream": lambda: (DataLoader(Stream(), 5, num_workers=2, timeout=60), {"seed": 5}),
    "two spawned workers, seed": lambda: (two(Augmented(), shuffle=True, multiprocessing_context="spawn"), {"seed": 5}),
}
SLOW = [name for name in FORMS if "spawn" in name]


class Killed(BaseException):
    """What a kill looks like from inside: nothing that catches an Exception stops it."""


class Kill(kt.Callback):
    """Ends the process, as it were, before a batch of training or of validation."""

    def __init__(self, epoch, batch, *, validating=False):
        self.place = (epoch, batch)
        self.validating = validating

    def on_train_batch_begin(self, batch, logs):
        self.end("train", batch)

    def on_test_batch_begin(self, batch, logs):
        self.end("val", batch)

    def end(self, phase, batch):
        if (self.run.state.epoch, batch) == self.place and (phase == "val") == self.validating:
            raise Killed


def built(make_model=None):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    if make_model is not None:
        return make_model()
    model = kt.Model(net())
    model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=0.01), ["accuracy", "auc"])
    return model


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def trained(directory, form, kill=None, *, others=list, save_freq=1, make_model=None, **options):
    """Train to the end, with an end in between if there is a kill; return model, history and random numbers."""
    data, more = form()
    model = built(make_model)
    callbacks = [*others(), BackupAndRestore(directory, save_freq)]
    options = {"verbose": 0, **more, **options}
    if "validation_split" not in options:
        options["dl_val"] = VALIDATION
    if kill is not None:
        with pytest.raises(Killed):
            model.fit(EPOCHS, data, callbacks=[*callbacks, kill], **options)
        scrambled()
        return trained(directory, form, others=others, save_freq=save_freq, make_model=make_model, **options)
    history = model.fit(EPOCHS, data, callbacks=callbacks, **options)
    return model, values(history), random_numbers()


def scrambled():
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)


def values(history):
    return [{name: row[name] for name in row if name not in ("seconds", "samples_per_second")} for row in history.rows]


def random_numbers():
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def assert_same(one, other):
    model, history, numbers = one
    model_again, history_again, numbers_again = other
    assert history_again == history
    for name, tensor in model.state_dict().items():
        assert torch.equal(model_again.state_dict()[name], tensor), name
    state, state_again = model.optimizer.state_dict()["state"], model_again.optimizer.state_dict()["state"]
    for key, kept in state.items():
        for name, value in kept.items():
            assert torch.equal(torch.as_tensor(state_again[key][name]), torch.as_tensor(value)), name
    assert numbers_again == numbers


MOMENTS = {
    "first batch": Kill(0, 1),
    "middle": Kill(1, 3),
    "last batch": Kill(1, 4),
    "next epoch": Kill(2, 0),
    "in validation": Kill(1, 1, validating=True),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The result of a training without an end in between, made once for each form of data."""
    made = {}

    def result(name):
        if name not in made:
            made[name] = trained(tmp_path_factory.mktemp("whole"), FORMS[name])
        return made[name]

    return result


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", [name for name in FORMS if name not in SLOW])
def test_any_data_at_any_moment(tmp_path, uninterrupted, name, moment):
    assert_same(uninterrupted(name), trained(tmp_path / "backup", FORMS[name], MOMENTS[moment]))


@pytest.mark.parametrize("name", SLOW)
def test_spawned_workers(tmp_path, uninterrupted, name):
    assert_same(uninterrupted(name), trained(tmp_path / "backup", FORMS[name], MOMENTS["middle"]))
    assert uninterrupted(name)[1] == uninterrupted("two workers, seed")[1] == uninterrupted("loader, seed")[1]


def test_a_training_goes_on_with_another_number_of_workers(tmp_path, uninterrupted):
    directory, name = tmp_path / "backup", "two workers, seed"
    model = built()
    with pytest.raises(Killed):
        callbacks = [BackupAndRestore(directory, 1), Kill(1, 3)]
        model.fit(EPOCHS, FORMS[name]()[0], VALIDATION, seed=5, callbacks=callbacks, verbose=0)
    scrambled()
    assert_same(uninterrupted(name), trained(directory, FORMS["loader, seed"]))


@pytest.mark.parametrize("name", ["tensors", "loader, shuffle", "two workers"])
def test_a_backup_changes_nothing(tmp_path, uninterrupted, name):
    data, options = FORMS[name]()
    model = built()
    history = model.fit(EPOCHS, data, VALIDATION, verbose=0, **options)
    numbers = random_numbers()
    assert_same((model, values(history), numbers), uninterrupted(name))


CALLBACKS = {
    "average": lambda: [ExponentialMovingAverage(0.9)],
    "early stopping": lambda: [EarlyStopping("val_loss", patience=1, restore_best_weights=True)],
    "one cycle": lambda: [OneCycle(0.05)],
    "schedule by epoch": lambda: [LearningRateScheduler(partial(lr_scheduler.StepLR, step_size=1, gamma=0.5))],
    "schedule by step": lambda: [
        LearningRateScheduler(partial(lr_scheduler.CosineAnnealingLR, T_max=21), interval="step")
    ],
    "mixing": lambda: [MixUp(0.4)],
    "all": lambda: [
        ExponentialMovingAverage(0.9),
        EarlyStopping("val_loss", patience=1, restore_best_weights=True),
        OneCycle(0.05),
        MixUp(0.2),
    ],
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("name", "save_freq"), [*((name, 1) for name in CALLBACKS), ("all", 3), ("all", "epoch")])
def test_any_callback_at_any_moment(tmp_path, name, moment, save_freq):
    form, others = FORMS["tensors"], CALLBACKS[name]
    whole = trained(tmp_path / "whole", form, others=others)
    again = trained(tmp_path / "backup", form, MOMENTS[moment], others=others, save_freq=save_freq)
    assert_same(whole, again)


class Accumulating(kt.Model):
    """Makes a step of its optimizer for every third batch, with a schedule of its own."""

    def __init__(self):
        super().__init__(net())
        self.mine = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        self.schedules = [lr_scheduler.StepLR(self.mine, 2, 0.5)]

    def train_step(self, batch):
        loss = nn.functional.cross_entropy(self(batch.x), batch.y)
        (loss / 3).backward()
        if batch.index % 3 == 2:
            self.mine.step()
            self.mine.zero_grad()
            self.schedules[0].step()
        return {"loss": loss.detach()}


def accumulating():
    model = Accumulating()
    model.compile("cross_entropy", metrics=["accuracy"])
    return model


@pytest.mark.filterwarnings("ignore:The compiled metric")
@pytest.mark.parametrize("moment", MOMENTS)
def test_inside_an_accumulation_of_gradients(tmp_path, moment):
    options = {"make_model": accumulating}
    whole = trained(tmp_path / "whole", FORMS["loader, shuffle"], **options)
    again = trained(tmp_path / "backup", FORMS["loader, shuffle"], MOMENTS[moment], **options)
    assert_same(whole, again)
    momentum = [state["momentum_buffer"] for state in whole[0].mine.state.values()]
    for one, other in zip(momentum, again[0].mine.state.values(), strict=True):
        assert torch.equal(one, other["momentum_buffer"])


def test_many_kills_one_after_the_other(tmp_path, uninterrupted):
    form, directory = FORMS["loader, shuffle"], tmp_path / "backup"
    for place in [(0, 2), (0, 3), (1, 0), (1, 5), (2, 6)]:
        scrambled()
        with suppress(Killed):
            model = built()
            callbacks = [BackupAndRestore(directory, 1), Kill(*place)]
            model.fit(EPOCHS, form()[0], VALIDATION, callbacks=callbacks, verbose=0)
    assert_same(uninterrupted("loader, shuffle"), trained(directory, form))


def test_a_file_of_model_checkpoint_is_enough(tmp_path, uninterrupted):
    form, path = FORMS["loader, shuffle"], tmp_path / "last.pt"
    with pytest.raises(Killed):
        built().fit(
            EPOCHS, form()[0], VALIDATION, callbacks=[ModelCheckpoint(path, save_freq=1), Kill(1, 3)], verbose=0
        )
    scrambled()
    model = built()
    again = [ModelCheckpoint(tmp_path / "other.pt")]
    history = model.fit(EPOCHS, form()[0], VALIDATION, resume=path, callbacks=again, verbose=0)
    again = (model, values(history), random_numbers())
    assert_same(uninterrupted("loader, shuffle"), again)


def changed(**changes):
    """Build a model that differs in something."""

    def make():
        width, optimizer = changes.get("width", 8), changes.get("optimizer", torch.optim.Adam)
        layers = [nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2)]
        model = kt.Model(nn.Sequential(*layers[:-1], *changes.get("more", []), layers[-1]))
        parameters = list(model.parameters())
        if changes.get("turned"):
            parameters = parameters[::-1]
        model.compile("cross_entropy", optimizer(parameters, lr=changes.get("lr", 0.01)))
        return model

    return make


def begun(directory, **options):
    model = changed()()
    with pytest.raises(Killed):
        model.fit(3, (X, Y), callbacks=[BackupAndRestore(directory, 1), Kill(1, 3)], batch_size=SIZE, verbose=0)
    return model


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 9}, r"shape of 0.weight: \[8, 4\] in the checkpoint, \[9, 4\] in this script"),
        ({"more": [nn.BatchNorm1d(8)]}, "shape of 2.running_mean: 'not there' in the checkpoint"),
        ({"turned": True}, "parameter group 1: "),
        ({"optimizer": torch.optim.SGD}, "optimizer: 'Adam' in the checkpoint, 'SGD' in this script"),
    ],
)
def test_another_script_is_compared_and_refused(tmp_path, change, text):
    begun(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    model = changed(**change)()
    weights = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(CheckpointError, match=text):
        model.fit(3, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1)], batch_size=SIZE, verbose=0)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)


@pytest.mark.parametrize(
    ("data", "options"),
    [((X[:40], Y[:40]), {"batch_size": SIZE}), ((X, Y), {"batch_size": 5}), ((X, Y), {"batch_size": SIZE, "seed": 3})],
)
def test_other_data_are_refused(tmp_path, data, options):
    begun(tmp_path)
    with pytest.raises(CheckpointError, match="training data: "):
        changed()().fit(3, data, callbacks=[BackupAndRestore(tmp_path, 1)], verbose=0, **options)


def test_another_learning_rate_is_told(tmp_path):
    begun(tmp_path)
    model = changed(lr=0.5)()
    with pytest.warns(UserWarning, match=r"the optimizer had lr=0.01 there and has lr=0.5|lr=0.01 there and has 0.5"):
        model.fit(3, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1)], batch_size=SIZE, verbose=0)
    assert model.optimizer.param_groups[0]["lr"] == 0.01


def test_another_number_of_threads_is_told(tmp_path):
    before = torch.get_num_threads()
    begun(tmp_path)
    try:
        torch.set_num_threads(before + 1)
        with pytest.warns(UserWarning, match="threads was"):
            changed()().fit(3, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1)], batch_size=SIZE, verbose=0)
    finally:
        torch.set_num_threads(before)


def test_the_second_of_two_fits_is_not_taken_for_the_first(tmp_path):
    model = changed()()
    model.fit(1, (X, Y), batch_size=SIZE, verbose=0)
    with pytest.raises(Killed):
        model.fit(3, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1), Kill(1, 3)], batch_size=SIZE, verbose=0)
    with pytest.raises(CheckpointError, match="steps of the optimizer before this fit: 7 in the checkpoint, 0 in"):
        changed()().fit(3, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1)], batch_size=SIZE, verbose=0)


def test_a_file_of_weights_is_no_state_to_go_on_from(tmp_path):
    model = changed()()
    model.save_weights(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"holds weights, .* Type model.load_weights"):
        model.fit(1, (X, Y), resume=tmp_path / "weights.pt", verbose=0)


def test_a_state_of_a_callback_that_is_missing_is_told(tmp_path):
    model = changed()()
    with pytest.raises(Killed):
        callbacks = [BackupAndRestore(tmp_path, 1), EarlyStopping("loss"), Kill(1, 3)]
        model.fit(3, (X, Y), callbacks=callbacks, batch_size=SIZE, verbose=0)
    with pytest.warns(UserWarning, match=r"has a state of EarlyStopping\('loss', .* among its callbacks"):
        changed()().fit(3, (X, Y), callbacks=[BackupAndRestore(tmp_path, 1)], batch_size=SIZE, verbose=0)


def test_a_directory_is_for_one_training_at_a_time(tmp_path):
    class Second(kt.Callback):
        def on_epoch_end(self, epoch, logs):
            with pytest.raises(BusyError, match="is training with the backup in"):
                changed()().fit(1, (X, Y), callbacks=[BackupAndRestore(tmp_path)], verbose=0)
            self.called = True

    second = Second()
    changed()().fit(1, (X, Y), callbacks=[BackupAndRestore(tmp_path), second], verbose=0)
    assert second.called


def test_what_is_frozen_comes_back(tmp_path):
    def fit(callbacks):
        torch.manual_seed(0)
        model = kt.Model(net())
        model.compile("cross_entropy", "adam")
        model.freeze("0", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.fit(3, (X, Y), callbacks=callbacks, batch_size=SIZE, verbose=0)
        return model

    class Thaw(kt.Callback):
        """As users write it: it keeps nothing."""

        def on_epoch_begin(self, epoch, logs):
            if epoch == 1:
                self.model.unfreeze()

    whole = fit([Thaw()])
    with pytest.raises(Killed):
        fit([Thaw(), BackupAndRestore(tmp_path, 1), Kill(2, 2)])
    again = fit([Thaw(), BackupAndRestore(tmp_path, 1)])
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert all(part.training for part in again.modules())


PLANS = {
    "windows": {"accumulate": 3, "clip_norm": 0.5},
    "16-mixed": {"precision": "16-mixed"},
    "16-mixed windows": {"precision": "16-mixed", "accumulate": 2},
    "bf16-mixed": {"precision": "bf16-mixed", "clip_value": 0.01},
    "recomputed": {"gradient_checkpointing": ["0", "1"]},
}


@pytest.mark.parametrize("moment", ["middle", "next epoch", "in validation"])
@pytest.mark.parametrize("name", PLANS)
def test_any_plan_at_any_moment(tmp_path, name, moment):
    def make_model():
        model = kt.Model(net())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        model.compile("cross_entropy", optimizer, ["accuracy"], device="cpu", **PLANS[name])
        return model

    form = FORMS["loader, shuffle"]
    whole = trained(tmp_path / "whole", form, make_model=make_model)
    again = trained(tmp_path / "backup", form, MOMENTS[moment], make_model=make_model)
    assert_same(whole, again)


class Overflow(kt.Callback):
    """Lets the gradients of one batch overflow."""

    def on_train_batch_begin(self, batch, logs):
        weight = next(self.model.parameters())
        self.handle = weight.register_hook(lambda gradient: gradient * torch.inf) if self.is_it(batch) else None

    def on_train_batch_end(self, batch, logs):
        if self.handle is not None:
            self.handle.remove()

    def is_it(self, batch):
        return (self.run.state.epoch, batch) == (0, 2)


def test_the_scaler_goes_on_where_it_was(tmp_path):
    def make_model():
        model = kt.Model(net())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        model.compile("cross_entropy", optimizer, device="cpu", precision="16-mixed")
        return model

    form = FORMS["tensors"]
    whole = trained(tmp_path / "whole", form, make_model=make_model, others=lambda: [Overflow()])
    again = trained(tmp_path / "backup", form, MOMENTS["middle"], make_model=make_model, others=lambda: [Overflow()])
    assert_same(whole, again)
    scales = [model._session._strategy.parts()["precision"].scale for model in (whole[0], again[0])]
    assert scales[0] == scales[1] < 65536
    assert whole[0]._session.state.step < EPOCHS * STEPS
