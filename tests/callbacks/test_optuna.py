import copy
import os
import signal
import warnings

import pytest
import torch
from torch import nn

import kerastorch as kt
from kerastorch.callbacks import CSVLogger, EarlyStopping, OptunaPruning
from tests.distributed.together import together

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

X = torch.linspace(-1, 1, 64)[:, None]
DATA = (X, 3 * X)


class Below(optuna.pruners.BasePruner):
    """Prunes at a step, or where the last value is above a limit."""

    def __init__(self, *, step=None, limit=None):
        self.step, self.limit, self.asked = step, limit, []

    def prune(self, study, trial):
        self.asked.append(trial.last_step)
        value = trial.intermediate_values[trial.last_step]
        return trial.last_step == self.step or (self.limit is not None and not value < self.limit)


def study_with(pruner=None, direction="minimize"):
    return optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(0))


def compiled(lr=0.1):
    torch.manual_seed(0)
    model = kt.Model(nn.Linear(1, 1))
    model.compile("mse", lambda parameters: torch.optim.SGD(parameters, lr))
    return model


def test_a_study_prunes_what_learns_too_slowly():
    models = []

    def objective(trial):
        model = compiled(trial.suggest_categorical("lr", [0.3, 1e-4]))
        models.append(model)
        model.fit(5, DATA, DATA, callbacks=[OptunaPruning(trial)], verbose=0)
        return model.history["val_loss"][-1]

    study = optuna.create_study(
        sampler=optuna.samplers.GridSampler({"lr": [0.3, 1e-4]}, seed=1),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1),
    )
    study.enqueue_trial({"lr": 0.3})
    study.optimize(objective, n_trials=3)
    good, bad = study.trials[0], next(trial for trial in study.trials if trial.params["lr"] == 1e-4)
    assert good.state.name == "COMPLETE"
    assert good.intermediate_values == dict(enumerate(models[0].history["val_loss"]))
    assert good.value == good.intermediate_values[4]
    assert bad.state.name == "PRUNED"
    assert list(bad.intermediate_values) == [0, 1]
    assert bad.intermediate_values[1] == models[bad.number].history["val_loss"][1]


def test_all_callbacks_see_the_end_before_the_error(tmp_path, capsys):
    trial, model = study_with(Below(step=2)).ask(), compiled()
    keep = EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    worse = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_loss=float(epoch)))
    seen = []
    note = kt.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.net.weight.clone()),
        on_train_end=lambda logs: seen.append("end"),
        on_exception=seen.append,
    )
    pruning = OptunaPruning(trial)
    with pytest.raises(optuna.TrialPruned, match=r"^OptunaPruning \(val_loss in epoch 3\)$"):
        model.fit(9, DATA, DATA, callbacks=[worse, pruning, keep, note, CSVLogger(tmp_path / "log.csv")], verbose=2)
    assert pruning.pruned
    assert "Stopped by OptunaPruning (val_loss in epoch 3) after epoch 3." in capsys.readouterr().out
    assert len(seen) == 4
    assert seen[-1] == "end"
    assert torch.equal(model.net.weight, seen[0])
    assert len(model.history) == 3
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_a_trial_that_is_not_pruned_trains_as_without():
    plain, model = compiled(), compiled()
    plain.fit(3, DATA, DATA, verbose=0, seed=0)
    pruning = OptunaPruning(study_with(Below()).ask(), "loss")
    model.fit(3, DATA, DATA, verbose=0, seed=0, callbacks=[pruning])
    assert torch.equal(plain.net.weight, model.net.weight)
    assert not pruning.pruned
    model.evaluate(DATA, callbacks=[pruning])


def test_epochs_without_a_value_are_passed_over():
    study = study_with(pruner := Below())
    compiled().fit(6, DATA, DATA, callbacks=[OptunaPruning(study.ask())], validation_freq=2, verbose=0)
    assert pruner.asked == [1, 3, 5]


def test_a_second_fit_goes_on_by_its_number_and_forgets_the_first():
    study, model = study_with(Below(step=1)), compiled()
    pruning = OptunaPruning(study.ask(), "loss")
    with pytest.raises(optuna.TrialPruned):
        model.fit(4, DATA, callbacks=[pruning], verbose=0)
    model.fit(4, DATA, callbacks=[pruning], verbose=0, initial_epoch=2)
    assert not pruning.pruned
    assert list(study.trials[0].intermediate_values) == [0, 1, 2, 3]


def test_a_value_that_is_not_there_is_named():
    with pytest.warns(UserWarning, match="There is no 'los' to monitor. Did you mean 'loss'?"):
        compiled().fit(1, DATA, callbacks=[OptunaPruning(study_with().ask(), "los")], verbose=0)
    with pytest.raises(ValueError, match="There is no 'val_loss' without data to validate on"):
        compiled().fit(1, DATA, callbacks=[OptunaPruning(study_with().ask())], verbose=0)


def test_nan_is_for_the_pruner_to_judge():
    study = study_with(Below(limit=100.0))
    spoil = kt.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_loss=float("nan")))
    with pytest.raises(optuna.TrialPruned):
        compiled().fit(3, DATA, DATA, callbacks=[spoil, OptunaPruning(study.ask())], verbose=0)


@pytest.mark.parametrize(
    ("direction", "monitor", "wanted"),
    [("maximize", "val_loss", "minimize"), ("minimize", "val_accuracy", "maximize")],
)
def test_a_study_that_would_prune_the_best(direction, monitor, wanted):
    with pytest.raises(ValueError, match=f"would prune the best '{monitor}'.*direction='{wanted}'"):
        OptunaPruning(study_with(direction=direction).ask(), monitor)
    OptunaPruning(study_with(direction=wanted).ask(), monitor)
    OptunaPruning(study_with(direction=direction).ask(), "something")


def test_what_is_no_trial_that_can_be_pruned():
    with pytest.raises(TypeError, match="takes the trial that the objective is called with; got <optuna"):
        OptunaPruning(study_with())
    several = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="several objectives; this one has 2"):
        OptunaPruning(several.ask())
    with pytest.raises(TypeError, match="has no trial in the main process"):
        compiled().fit(1, DATA, callbacks=[OptunaPruning(None, "loss")], verbose=0)


def test_a_fixed_trial_and_a_copy():
    trial = optuna.trial.FixedTrial({})
    pruning = OptunaPruning(trial, "loss")
    compiled().fit(1, DATA, callbacks=[pruning], verbose=0)
    assert repr(pruning) == f"OptunaPruning({trial!r}, 'loss')"
    again = copy.deepcopy(OptunaPruning(live := study_with().ask(), "loss"))
    assert again.trial is live
    assert again.monitor == "loss"


def backed_up(trial, directory, stop=None):
    model = compiled()
    stops = kt.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            model._session.running[0].interrupt("the test")
            if (stop, 1) == (model._session.running[0].state.epoch, batch)
            else None
        )
    )
    callbacks = [OptunaPruning(trial), kt.callbacks.BackupAndRestore(directory, delete_checkpoint=False), stops]
    model.fit(4, DATA, DATA, callbacks=callbacks, verbose=0, seed=0)
    return model.history["val_loss"]


def test_a_trial_that_goes_on_from_a_backup_knows_the_epochs_before(tmp_path, capsys):
    study = study_with()
    backed_up(study.ask(), tmp_path, stop=2)
    values = backed_up(study.ask(), tmp_path)
    assert list(study.trials[0].intermediate_values) == [0, 1]
    assert study.trials[1].intermediate_values == dict(enumerate(values))
    backed_up(study.ask(), tmp_path)  # nothing is left to train
    assert study.trials[2].intermediate_values == dict(enumerate(values))


def test_a_trial_that_was_pruned_is_so_again_after_its_process_was_killed(tmp_path):
    study = study_with(Below(step=1))
    for number in range(2):
        with pytest.raises(optuna.TrialPruned):
            backed_up(study.ask(), tmp_path)
        assert list(study.trials[number].intermediate_values) == [0, 1]


def test_ctrl_c_ends_the_study(capsys):
    def objective(trial):
        press = kt.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: signal.raise_signal(signal.SIGINT))
        compiled().fit(3, DATA, callbacks=[OptunaPruning(trial, "loss"), press], verbose=0)

    study = study_with()
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


def fit_together(step, kind):
    rank = int(os.environ["RANK"])
    study = study_with(Below(step=step)) if rank == 0 else None
    trial = study.ask() if rank == 0 else None
    if kind == "TorchDistributedTrial":
        from optuna_integration import TorchDistributedTrial

        torch.distributed.init_process_group("gloo")
        trial = TorchDistributedTrial(trial)
    model = compiled()
    try:
        model.fit(4, DATA, DATA, callbacks=[OptunaPruning(trial)], verbose=0)
    except optuna.TrialPruned as error:
        told = [] if rank else list(study.trials[0].intermediate_values)
        return str(error), len(model.history), told
    return None


@pytest.mark.parametrize("kind", ["Trial", "TorchDistributedTrial"])
def test_of_two_processes_the_main_one_tells_and_both_end(kind):
    if kind == "TorchDistributedTrial":
        pytest.importorskip("optuna_integration")
    text = "OptunaPruning (val_loss in epoch 2)"
    assert together(2, fit_together, 1, kind) == [(text, 2, [0, 1]), (text, 2, [])]


@pytest.mark.parametrize(("error_score", "state"), [(float("nan"), "FAIL"), ("raise", "PRUNED")])
@pytest.mark.filterwarnings("ignore:.*fits failed")
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_fold_that_is_pruned_prunes_the_trial_where_errors_are_raised(error_score, state):
    selection = pytest.importorskip("sklearn.model_selection")

    def objective(trial):
        regressor = kt.sklearn.Regressor(lambda: nn.Linear(1, 1), epochs=3, callbacks=[OptunaPruning(trial, "loss")])
        data = X.numpy(), X.numpy()[:, 0]
        return selection.cross_val_score(regressor, *data, cv=selection.KFold(2), error_score=error_score).mean()

    study = study_with(Below(limit=-1.0))
    with warnings.catch_warnings():
        if error_score != "raise":  # all fits fail, or the second fold tells the trial what it knows
            warnings.simplefilter("ignore")
        try:
            study.optimize(objective, n_trials=1)
        except ValueError as error:
            assert "fits failed" in str(error)
    assert [trial.state.name for trial in study.trials] == [state]


def test_the_second_fold_tells_the_trial_nothing():
    trial = study_with().ask()
    compiled().fit(2, DATA, callbacks=[OptunaPruning(trial, "loss")], verbose=0)
    told = dict(trial.study.trials[0].intermediate_values)
    with pytest.warns(UserWarning, match="reported value is ignored because this `step"):
        compiled(0.2).fit(2, DATA, callbacks=[OptunaPruning(trial, "loss")], verbose=0)
    assert trial.study.trials[0].intermediate_values == told
