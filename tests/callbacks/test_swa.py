import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

import kerastorch as kt
from kerastorch.callbacks import BatchTransform, Freeze, LambdaCallback, ModelCheckpoint, StochasticWeightAveraging

GENERATOR = torch.Generator().manual_seed(0)
SIZES = (4, 4, 4, 3)  # the last batch is short
DATA = [(torch.randn(size, 2, generator=GENERATOR), torch.randn(size, 1, generator=GENERATOR)) for size in SIZES]


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.2), nn.Linear(3, 1))


def make_model(net=None):
    model = kt.Model(make_net() if net is None else net)
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    torch.manual_seed(1)
    return model


def state(module):
    return copy.deepcopy(dict(module.state_dict()))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def close(first, second):
    """On the CPU torch divides by the count where we multiply: the last digit may differ."""
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=1e-6, atol=1e-7) for name in first
    )


def by_hand(start, *, epochs=4, rate=None, anneal_epochs=10):
    """Train as the recipe of torch does; return the average, the net's own state, and the rates of the epochs."""
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    averaged, scheduler, rates = AveragedModel(net), None, []
    torch.manual_seed(1)
    for epoch in range(epochs):
        if epoch == start and rate is not None:
            scheduler = SWALR(optimizer, rate, anneal_epochs=anneal_epochs)
        rates.append(optimizer.param_groups[0]["lr"])
        for x, y in DATA:
            loss = nn.functional.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch >= start:
            averaged.update_parameters(net)
            if scheduler is not None:
                scheduler.step()
    own = state(net)
    update_bn(DATA, averaged)
    return state(averaged.module), own, rates


@pytest.mark.parametrize(
    ("options", "start"),
    [({}, 3), ({"start_epoch": 0.5}, 2), ({"start_epoch": 1}, 1), ({"start_epoch": 0}, 0), ({"start_epoch": 0.0}, 0)],
)
def test_it_equals_the_recipe_of_torch(options, start):
    model, callback = make_model(), StochasticWeightAveraging(**options)
    model.fit(4, DATA, callbacks=[callback], verbose=0)
    average, own, _ = by_hand(start)
    assert close(state(model), average)
    assert not equal(average, own)
    assert (callback.first_epoch, callback.averaged) == (start, 4 - start)
    assert model.net[1].momentum == 0.3


def test_statistics_are_exactly_those_of_update_bn():
    model = make_model()
    model.fit(4, DATA, callbacks=[StochasticWeightAveraging(1)], verbose=0)
    twin = copy.deepcopy(model.net)
    update_bn(DATA, twin)
    assert equal(state(model), state(twin))


@pytest.mark.parametrize("anneal_epochs", [0, 2, 10])
def test_the_learning_rate_is_approached_as_torch_does(anneal_epochs):
    model = make_model()
    callback = StochasticWeightAveraging(1, lr=0.02, anneal_epochs=anneal_epochs)
    history = model.fit(5, DATA, callbacks=[callback], verbose=0)
    average, _, rates = by_hand(1, epochs=5, rate=0.02, anneal_epochs=anneal_epochs)
    assert history["lr"] == rates
    assert close(state(model), average)


def test_training_and_validation_are_the_same_as_without():
    plain, model = make_model(), make_model()
    torch.manual_seed(1)
    expected = plain.fit(4, DATA, DATA, verbose=0)
    after = torch.rand(3)
    torch.manual_seed(1)
    seen = []
    note = LambdaCallback(on_epoch_end=lambda *_: seen.append(state(model)))
    history = model.fit(4, DATA, DATA, callbacks=[StochasticWeightAveraging(0.5), note], verbose=0)
    assert torch.equal(torch.rand(3), after)  # the pass for BatchNorm, with dropout, has drawn nothing
    assert history["loss"] == expected["loss"]
    assert history["val_loss"] == expected["val_loss"]
    assert equal(seen[-1], state(plain))


@pytest.mark.parametrize("before", [True, False])
def test_modes_are_as_before(before):
    model = make_model()
    model.net.train(before)
    model.fit(2, DATA, callbacks=[StochasticWeightAveraging()], verbose=0)
    assert all(part.training == before for part in model.net.modules())


def test_a_frozen_batch_norm_keeps_its_statistics():
    model = make_model()
    model.freeze("1")
    before = state(model.net[1])
    model.fit(4, DATA, callbacks=[StochasticWeightAveraging()], verbose=0)
    assert equal(state(model.net[1]), before)


def test_without_batch_norm_nothing_is_read_again(capsys):
    readings = []

    class Data:
        def __len__(self):
            return len(DATA)

        def __iter__(self):
            readings.append(1)
            return iter(DATA)

    model = make_model(nn.Linear(2, 1))
    model.fit(2, Data(), callbacks=[StochasticWeightAveraging()], verbose=2)
    assert len(readings) == 2
    assert capsys.readouterr().out.endswith("The weights are the average of 1 epoch.\n")
    make_model().fit(4, Data(), callbacks=[StochasticWeightAveraging(1)], verbose=2)
    assert len(readings) == 2 + 4 + 1
    text = "The weights are the average of 3 epochs. BatchNorm statistics were taken anew.\n"
    assert capsys.readouterr().out.endswith(text)


def test_batches_are_prepared_and_spread_over_the_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.layer = nn.Linear(2, 1)

        def forward(self, first, second):
            return self.layer(self.norm(first + second))

    class Doubles(kt.Callback):
        def prepare_batch(self, batch):
            batch.x = tuple(2 * part for part in batch.x)
            return batch

    data = [((x, x + 1), y) for x, y in DATA]
    model = make_model(Two())
    callbacks = [Doubles(), StochasticWeightAveraging()]
    model.fit(2, data, [(x, y) for x, y in data], callbacks=callbacks, verbose=0)
    means = torch.stack([(2 * (2 * x + 1)).mean(0) for x, _ in DATA]).mean(0)
    assert torch.allclose(model.net.norm.running_mean, means, atol=1e-6)


def test_shuffled_data_leave_the_random_numbers_alone():
    data = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*DATA, strict=True)))
    numbers = []
    for callbacks in ([], [StochasticWeightAveraging()]):
        model = make_model()
        model.fit(2, torch.utils.data.DataLoader(data, 5, shuffle=True), callbacks=callbacks, verbose=0)
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)


def test_stopped_early_it_has_the_average_so_far():
    model = make_model()
    callback = StochasticWeightAveraging(1)

    class Interrupt(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.run.state.epoch == 3:
                self.run.interrupt("the test")

    model.fit(9, DATA, callbacks=[callback, Interrupt()], verbose=0)
    average, _, _ = by_hand(1, epochs=3)
    # the epoch that was interrupted is not in the average, and the statistics are of the same data
    assert close(state(model), average)
    assert callback.averaged == 2


def test_stopped_before_the_average_it_warns():
    model = make_model()
    stop = LambdaCallback(on_epoch_end=lambda epoch, logs: model.stop())
    with pytest.warns(UserWarning, match=r"Training ended before epoch 3, counted from 0, was over: there is no av"):
        model.fit(4, DATA, callbacks=[StochasticWeightAveraging(), stop], verbose=0)


def test_after_an_error_the_net_has_its_own_weights():
    def fail(batch, logs):
        if batch == 1 and model._session.state.epoch == 3:
            own.append(state(model))
            raise RuntimeError("the test")

    own, model = [], make_model()
    with pytest.raises(RuntimeError, match="the test"):
        model.fit(4, DATA, callbacks=[StochasticWeightAveraging(1), LambdaCallback(on_train_batch_end=fail)], verbose=0)
    assert equal(state(model), own[0])


def test_an_evaluation_that_fails_is_nothing_to_it():
    class Fails(kt.Callback):
        def on_test_begin(self, logs):
            raise RuntimeError("the test")

    def evaluate(epoch, logs):
        with pytest.raises(RuntimeError, match="the test"):
            model.evaluate(DATA, callbacks=[Fails()])

    model = make_model()
    model.fit(4, DATA, callbacks=[StochasticWeightAveraging(1), LambdaCallback(on_epoch_begin=evaluate)], verbose=0)
    assert close(state(model), by_hand(1)[0])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_last_pass_brings_back_the_nets_own(error):
    class Data:
        readings = 0

        def __len__(self):
            return len(DATA)

        def __iter__(self):
            self.readings += 1
            yield from DATA[:2]
            if self.readings == 5:
                raise error("the test")
            yield from DATA[2:]

    model = make_model()
    with pytest.raises(error, match="the test"):
        model.fit(4, Data(), callbacks=[StochasticWeightAveraging(1)], verbose=0)
    assert equal(state(model), by_hand(1)[1])
    assert model.net[1].momentum == 0.3
    assert len(model.history) == 4


def test_data_that_can_be_read_only_once():
    with pytest.raises(kt.errors.DataError, match=r"dl_train can be read only once\. Give a DataLoader; or type fit"):
        make_model().fit(1, iter(DATA), callbacks=[StochasticWeightAveraging()], verbose=0)
    make_model(nn.Linear(2, 1)).fit(1, iter(DATA), callbacks=[StochasticWeightAveraging()], verbose=0)
    model = make_model()
    with pytest.warns(UserWarning, match=r"no more batches to take BatchNorm statistics from. So the net has its own"):
        model.fit(1, iter(DATA), steps_per_epoch=4, callbacks=[StochasticWeightAveraging()], verbose=0)
    assert equal(state(model), by_hand(0, epochs=1)[1])


def test_a_second_fit_begins_anew():
    model, callback = make_model(), StochasticWeightAveraging(0.5, lr=0.01)
    model.fit(4, DATA, callbacks=[callback], verbose=0)
    model.fit(2, DATA, callbacks=[callback], verbose=0)
    assert (callback.first_epoch, callback.averaged) == (1, 1)
    model.fit(8, DATA, callbacks=[callback], initial_epoch=4, verbose=0)
    assert (callback.first_epoch, callback.averaged) == (6, 2)


def test_its_state_lets_it_go_on():
    saved = []

    class Save(kt.Callback):
        stage = "checkpoint"

        def on_epoch_end(self, epoch, logs):
            run = self.run.state
            states = (run.module.state_dict(), run.optimizer.state_dict(), callback.state_dict(), torch.get_rng_state())
            saved.append(copy.deepcopy(states))

    callback = StochasticWeightAveraging(1, lr=0.02, anneal_epochs=3)
    model = make_model()
    model.fit(5, DATA, callbacks=[callback, Save()], verbose=0)
    for finished in (1, 3):
        other, second = StochasticWeightAveraging(1, lr=0.02, anneal_epochs=3), make_model()

        class Restore(kt.Callback):
            stage = "checkpoint"

            def on_train_begin(self, logs, finished=finished, other=other):
                net, optimizer, average, numbers = saved[finished - 1]
                self.run.state.module.load_state_dict(net)
                self.run.state.optimizer.load_state_dict(optimizer)
                other.load_state_dict(average)
                self.run.state.epoch = finished
                torch.set_rng_state(numbers)

        second.fit(5, DATA, callbacks=[other, Restore()], verbose=0)
        assert equal(state(model), state(second))
        assert other.averaged == 4


def test_there_must_be_an_epoch_to_average():
    with pytest.raises(ValueError, match="start_epoch=4 leaves nothing to average: fit ends after epoch 3, counted"):
        make_model().fit(4, DATA, callbacks=[StochasticWeightAveraging(4)], verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_epoch": 1.0}, "start_epoch is a whole number, or a share from 0.0 to below 1; got 1.0"),
        ({"start_epoch": -1}, "start_epoch is a whole number from 0; got -1"),
        ({"anneal_epochs": -1}, "anneal_epochs is a whole number from 0; got -1"),
        ({"lr": -0.1}, "lr is a number from 0; got -0.1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        StochasticWeightAveraging(**options)


def test_repr_is_the_constructor_call():
    text = "StochasticWeightAveraging(3, lr=0.05, anneal_epochs=5)"
    assert repr(eval(text)) == text


def test_a_share_goes_on_from_a_file_with_the_first_epoch_it_was_begun_with(tmp_path):
    whole, first = make_model(nn.Linear(2, 1)), StochasticWeightAveraging(0.5)
    before = state(whole)
    whole.fit(4, DATA, callbacks=[first, ModelCheckpoint(tmp_path / "{epoch}.pt")], verbose=0)
    for epoch in (1, 2, 3):
        content = kt.checkpoint.load(tmp_path / f"{epoch}.pt")
        model, callback = make_model(nn.Linear(2, 1)), StochasticWeightAveraging(0.5)
        model.load_state_dict(before)

        class Restore(kt.Callback):
            stage = "checkpoint"

            def on_train_begin(self, logs, content=content, callback=callback):
                self.run.state.module.load_state_dict(content["model"])
                self.run.state.optimizer.load_state_dict(content["optimizer"])
                callback.load_state_dict(content["callbacks"]["StochasticWeightAveraging"])

        model.fit(4, DATA, callbacks=[callback, Restore()], initial_epoch=epoch, verbose=0)
        assert (callback.first_epoch, callback.averaged) == (first.first_epoch, first.averaged) == (2, 2)
        assert equal(state(model), state(whole))


@pytest.mark.parametrize("until", [1, 2, 3])
def test_what_is_unfrozen_late_counts_from_the_first_epoch(until):
    class Masked(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.mask = nn.Parameter(torch.tensor([-torch.inf]), requires_grad=False)  # its average would be NaN

    net = Masked(nn.Linear(2, 3), nn.Linear(3, 1))
    model, weights = make_model(net), []
    note = LambdaCallback(on_epoch_end=lambda *_: weights.append(net[0].weight.detach().clone()))
    model.fit(4, DATA, callbacks=[note, StochasticWeightAveraging(0), Freeze("0", until_epoch=until)], verbose=0)
    assert torch.equal(weights[0], weights[until - 1])
    assert not torch.equal(weights[until - 1], weights[until])
    assert torch.allclose(net[0].weight, torch.stack(weights).mean(0), rtol=1e-6, atol=1e-7)
    assert net.mask.item() == -torch.inf


def test_statistics_do_not_depend_on_a_validation():
    states, phases = [], []
    for validation in (None, DATA):
        model, callback = make_model(), StochasticWeightAveraging(0)
        note = LambdaCallback(on_train_end=lambda *_, callback=callback: phases.append(callback.run.phase))
        callbacks = [BatchTransform(lambda x: 3 * x + 1), callback, note]
        model.fit(2, DATA, validation, callbacks=callbacks, verbose=0)
        states.append(state(model))
    assert equal(*states)
    assert phases == ["train", "val"]


@pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError])
def test_workers_that_ctrl_c_has_ended_are_no_error(error):
    class Data:
        ended = False

        def __len__(self):
            return len(DATA)

        def __iter__(self):
            if self.ended:
                raise error("the test")
            yield from DATA

    class Interrupt(kt.Callback):
        def on_train_batch_end(self, batch, logs):
            if self.run.state.epoch == 2:
                data.ended = True
                self.run.interrupt("Ctrl-C")

    own, data, model = [], Data(), make_model()
    note = LambdaCallback(on_train_batch_end=lambda *_: own.append(state(model)))
    text = (
        r"dl_train cannot be read again after an interrupt \(\w+Error\('the test'\)\). So the net has its own weights"
    )
    with pytest.warns(UserWarning, match=text):
        model.fit(4, data, callbacks=[StochasticWeightAveraging(0), Interrupt(), note], verbose=0)
    assert equal(state(model), own[-1])
    assert len(model.history) == 2
