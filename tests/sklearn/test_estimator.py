import pickle
import random
import signal

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kerastorch as kt
from kerastorch import randomness
from kerastorch.sklearn import Classifier, Regressor
from tests.sklearn.nets import Net, double, twice

X, Y = load_digits(return_X_y=True)
X, Y = X[:600] / 16, Y[:600]


def weights(estimator):
    return list(estimator.model_.parameters())


def same(one, other):
    return all(torch.equal(left, right) for left, right in zip(weights(one), weights(other), strict=True))


def test_it_learns_what_a_model_learns():
    classifier = Classifier(Net, epochs=2, lr=0.01, random_state=3).fit(X, Y)
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    with randomness.kept():
        randomness.reseed(seed, 0)
        model = kt.Model(Net(64, 10))
        model.compile("cross_entropy", lambda parameters: torch.optim.Adam(parameters, 0.01, fused=True), device="auto")
        model.fit(2, (X.astype("float32"), Y), seed=seed, verbose=0)
    assert all(torch.equal(*pair) for pair in zip(weights(classifier), model.parameters(), strict=True))
    assert classifier.history_["loss"] == model.history["loss"]


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_the_same_random_state_gives_the_same_net_and_global_numbers_stay(kind):
    estimator = kind(Net, epochs=2, random_state=1, net_params={"dropout": 0.5}, validation_split=0.2)
    before = randomness.capture()
    one = clone(estimator).fit(X, Y)
    assert randomness.same(before, randomness.capture())
    torch.rand(3), np.random.rand(2), random.random()
    assert same(one, clone(estimator).fit(X, Y))
    assert not same(one, clone(estimator).set_params(random_state=2).fit(X, Y))


def test_without_a_random_state_numbers_follow_those_of_numpy():
    def fitted():
        return Classifier(Net, epochs=1).fit(X, Y)

    with randomness.kept():
        np.random.seed(0)
        one, other = fitted(), fitted()
        assert not same(one, other)
        np.random.seed(0)
        assert same(one, fitted())


def test_parameters_of_the_net_and_the_optimizer_are_set_one_by_one():
    given = {"width": 8}
    classifier = Classifier(Net, net_params=given, optimizer="sgd", epochs=1)
    classifier.set_params(net_params__dropout=0.5, optimizer_params__momentum=0.9, lr=0.1)
    assert given == {"width": 8}
    params = classifier.get_params()
    assert (params["net_params__width"], params["net_params__dropout"]) == (8, 0.5)
    assert params["optimizer_params"] == {"momentum": 0.9}
    assert "net_params__width" not in classifier.get_params(deep=False)
    classifier.fit(X, Y)
    assert classifier.model_.width == 8
    assert classifier.model_.optimizer.defaults["momentum"] == 0.9
    assert clone(classifier).get_params() == params
    with pytest.raises(ValueError, match="Invalid parameter 'learning_rate'"):
        classifier.set_params(learning_rate=1)


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_a_pickle_predicts_and_goes_on_alike(kind):
    estimator = kind(Net, epochs=1, random_state=0, warm_start=True).fit(X, Y)
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.predict(X), estimator.predict(X))
    assert same(again.fit(X, Y), estimator.fit(X, Y))
    assert again.n_epochs_ == estimator.n_epochs_ == 2
    assert again.history_.epoch == [1]


def test_a_warm_start_goes_on_where_the_last_fit_ended():
    whole = Classifier(Net, epochs=1, random_state=0, warm_start=True)
    parts = Classifier(Net, epochs=1, random_state=0)
    for _ in range(3):
        whole.fit(X, Y)
        parts.partial_fit(X, Y)
    assert same(whole, parts)
    assert parts.n_epochs_ == 3
    assert parts.history_.epoch == [2]
    assert same(Classifier(Net, epochs=1, random_state=0).fit(X, Y), whole.set_params(warm_start=False).fit(X, Y))


def test_callbacks_are_copied_and_early_stopping_works():
    stop = kt.callbacks.EarlyStopping("val_accuracy", patience=0, restore_best_weights=True)
    options = {"metrics": ["accuracy"], "validation_split": 0.2, "callbacks": [stop], "lr": 0.05}
    classifier = Classifier(Net, epochs=50, random_state=0, **options).fit(X, Y)
    assert 1 < len(classifier.history_) < 50
    assert classifier.n_epochs_ == len(classifier.history_)
    assert not hasattr(stop, "run")
    pickle.dumps(classifier)


def test_sample_weights_count():
    weight = (Y == 3).astype(float)
    classifier = Classifier(Net, epochs=3, random_state=0).fit(X, Y, weight)
    assert set(classifier.predict(X)) == {3}
    with pytest.raises(ValueError, match="Negative values"):
        classifier.fit(X, Y, -weight)


def test_a_frame_has_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :3], columns=["a", "b", "c"])
    classifier = Classifier(Net, epochs=1).fit(frame, Y)
    assert classifier.feature_names_in_.tolist() == ["a", "b", "c"]
    assert classifier.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(frame.rename(columns={"a": "d"}))


def test_tensors_will_do():
    one = Classifier(Net, epochs=1, random_state=0).fit(torch.tensor(X), torch.tensor(Y))
    assert same(one, Classifier(Net, epochs=1, random_state=0).fit(X, Y))


def test_a_net_in_float64_computes_in_float64():
    regressor = Regressor(double, dtype="float64", epochs=1).fit(X, Y)
    assert weights(regressor)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (lambda n_features: Net(n_features, 7), "The net gave 7 numbers per sample, but y needs 10. Give net_factory"),
        (twice, "a net that returns one tensor; this one gave"),
    ],
)
def test_a_net_that_does_not_fit(factory, text):
    with pytest.raises(ValueError, match=text):
        Classifier(factory).fit(X, Y)


def test_a_model_with_a_step_of_its_own_may_be_made():
    class Own(kt.Model):
        def __init__(self, n_features, n_outputs):
            super().__init__(Net(n_features, n_outputs))

        def compute_loss(self, batch, output):
            return 2 * super().compute_loss(batch, output)

    options = {"optimizer": "sgd", "epochs": 1, "random_state": 0}
    own = Classifier(Own, lr=0.05, **options).fit(X, Y)
    assert isinstance(own.model_, Own)
    plain = Classifier(Net, lr=0.1, **options).fit(X, Y)
    torch.testing.assert_close(weights(own), weights(plain))


class CtrlC(kt.Callback):
    """Presses Ctrl-C after the third batch."""

    def on_train_batch_end(self, batch, logs):
        if batch == 2:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_a_search_and_not_one_fit_of_it(capsys):
    classifier = Classifier(Net, epochs=5, callbacks=[CtrlC()])
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(X, Y)
    assert classifier.n_epochs_ == 0
    assert "Stopped by Ctrl-C in epoch 1 after batch 3" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(classifier, X, Y, cv=2)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_an_error_in_training_is_a_failed_fit_of_a_search():
    classifier = Classifier(Net, optimizer="sgd", epochs=1, random_state=0)
    search = GridSearchCV(classifier, {"lr": [0.1, 1e30]}, cv=2, refit=False)
    with pytest.warns(FitFailedWarning, match="NonFiniteError"):
        search.fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).tolist() == [True, False]


def test_a_search_over_learning_rate_and_width():
    pipeline = make_pipeline(StandardScaler(), Classifier(Net, epochs=5, random_state=0))
    grid = {"classifier__lr": [1e-4, 1e-2], "classifier__net_params__width": [8, 64]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert search.best_params_ == {"classifier__lr": 1e-2, "classifier__net_params__width": 64}
    assert search.best_score_ > 0.8
    assert search.score(X, Y) > 0.95


def test_two_processes_give_the_same_scores():
    classifier = Classifier(Net, epochs=1, random_state=0)
    together = cross_val_score(classifier, X, Y, cv=2, n_jobs=2)
    assert together.tolist() == cross_val_score(classifier, X, Y, cv=2).tolist()
