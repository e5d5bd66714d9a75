"""What an estimator is after a fit that failed, goes on after another, or runs beside others."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import kerastorch as kt
from kerastorch import randomness
from kerastorch.sklearn import Classifier, Regressor
from tests.sklearn.nets import Net, double

X, Y = load_digits(return_X_y=True)
X, Y = X[:600] / 16, Y[:600]
EARLY, LATE = np.array(list("abcdefghij")), np.array(list("klmnopqrst"))


class Fails(kt.Callback):
    """Fails where a training begins, or in its second epoch."""

    def __init__(self, *, late=False):
        self.late = late

    def on_train_begin(self, logs):
        if not self.late:
            raise OSError("no room")

    def on_epoch_end(self, epoch, logs):
        if epoch % 3 == 1:
            raise OSError("no room")


@pytest.mark.parametrize(
    "options", [{"net_params": {"widht": 3}}, {"callbacks": [Fails()]}, {"validation_split": 5}, {"optimizer": "adm"}]
)
def test_a_fit_that_fails_before_it_trains_changes_nothing(options):
    classifier = Classifier(Net, epochs=2, lr=0.01, random_state=0).fit(X, EARLY[Y])
    before, likely = dict(vars(classifier)), classifier.predict_proba(X)
    classifier.set_params(**options)
    with pytest.raises((ValueError, OSError)):
        classifier.fit(X[:, :5], LATE[Y])
    assert vars(classifier).keys() == before.keys()
    assert [name for name, value in before.items() if vars(classifier)[name] is not value] == list(options)
    assert set(classifier.predict(X)) <= set(EARLY)
    assert np.array_equal(classifier.predict_proba(X), likely)


def test_a_first_fit_that_fails_leaves_no_net():
    classifier = Classifier(lambda n_features: Net(n_features, 7), warm_start=True, epochs=1, random_state=0)
    with pytest.raises(ValueError, match="The net gave 7 numbers per sample, but y needs 10"):
        classifier.fit(X, Y)
    with pytest.raises(NotFittedError):
        classifier.predict(X)
    classifier.set_params(net_factory=Net).partial_fit(X, Y)
    assert classifier.predict_proba(X).shape == (600, 10)
    assert classifier.n_epochs_ == 1


def test_a_fit_that_fails_in_training_has_the_net_that_it_trained():
    classifier = Classifier(Net, epochs=3, random_state=0).fit(X, EARLY[Y])
    classifier.set_params(callbacks=[Fails(late=True)])
    with pytest.raises(OSError, match="no room"):
        classifier.fit(X, LATE[Y])
    assert set(classifier.predict(X)) <= set(LATE)
    assert classifier.n_epochs_ == len(classifier.history_) == len(classifier.model_.history)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"callbacks": [Fails()]}, {"validation_split": 5}])
def test_epochs_that_never_were_do_not_count(options):
    classifier = Classifier(Net, epochs=3, random_state=0, warm_start=True).fit(X, Y)
    usual = {name: classifier.get_params()[name] for name in options}
    with pytest.raises((ValueError, OSError)):
        classifier.set_params(**options).fit(X, Y)
    assert classifier.n_epochs_ == 3
    assert classifier.set_params(**usual).fit(X, Y).history_.epoch == [3, 4, 5]


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_a_backup_is_for_one_run(kind, tmp_path):
    estimator = kind(Net, callbacks=[kt.callbacks.BackupAndRestore(tmp_path / "backup")])
    with pytest.raises(ValueError, match=r"BackupAndRestore is for one run; .* Give it to a kt\.Model's fit, or leave"):
        estimator.fit(X, Y)
    with pytest.raises(ValueError, match="BackupAndRestore is for one run"):
        estimator.partial_fit(X, Y)
    assert not (tmp_path / "backup").exists()


def test_threads_take_turns():
    classifier = Classifier(Net, net_params={"dropout": 0.5}, epochs=2, random_state=0)
    one_by_one = cross_val_score(classifier, X, Y, cv=6)
    before = randomness.capture()
    with joblib.parallel_backend("threading", n_jobs=3):
        together = cross_val_score(classifier, X, Y, cv=6, n_jobs=3)
    assert together.tolist() == one_by_one.tolist()
    assert randomness.same(before, randomness.capture())


@pytest.mark.parametrize("warm", [True, False])
def test_a_new_learning_rate_counts_where_a_net_goes_on(warm):
    classifier = Classifier(Net, optimizer="sgd", lr=0.1, epochs=1, random_state=0, warm_start=warm).fit(X, Y)
    step = classifier.fit if warm else classifier.partial_fit
    before = [each.clone() for each in classifier.model_.parameters()]
    classifier.set_params(lr=0.0)
    step(X, Y)
    assert all(torch.equal(*pair) for pair in zip(before, classifier.model_.parameters(), strict=True))
    again = pickle.loads(pickle.dumps(classifier)).set_params(lr=0.2)
    again.partial_fit(X, Y)
    assert again.model_.optimizer.param_groups[0]["lr"] == 0.2
    assert clone(again).fit(X, Y).model_.optimizer.param_groups[0]["lr"] == 0.2


def test_a_learning_rate_that_no_step_was_made_with_is_put_right_later():
    classifier = Classifier(Net, lr=0.1, epochs=1, random_state=0, warm_start=True).fit(X, Y)
    with pytest.raises(OSError, match="no room"):
        classifier.set_params(lr=0.5, callbacks=[Fails()]).fit(X, Y)
    classifier.set_params(lr=0.1, callbacks=None).fit(X, Y)
    assert classifier.model_.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"net_factory": double},
        {"net_params": {"width": 8}},
        {"loss": "nll_loss"},
        {"optimizer": "sgd"},
        {"optimizer_params": {"weight_decay": 0.1}},
        {"metrics": ["accuracy"]},
        {"device": "cpu"},
        {"lr": None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_counts_from_the_next_net_on_is_said(options):
    classifier = Classifier(Net, lr=0.1, epochs=1, random_state=0, warm_start=True).fit(X, Y)
    classifier.fit(X, Y)  # nothing is said of what stayed
    classifier.set_params(**options)
    with pytest.warns(UserWarning, match=f"^{next(iter(options))} counts from the next new net on; this fit goes on"):
        classifier.fit(X, Y)


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_a_net_of_another_dtype_is_told_how_to_get_its_inputs(kind):
    with pytest.raises(ValueError, match=r"^The net is float64, and X is made float32: type dtype='float64'\.$"):
        kind(double).fit(X, Y)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        kind(double, dtype="float64", net_params={"n_features": 3}).fit(X, Y)
    estimator = kind(double, dtype=torch.float64, epochs=1, random_state=0)
    assert np.array_equal(
        clone(estimator).fit(X, Y).predict(X), estimator.set_params(dtype="float64").fit(X, Y).predict(X)
    )
