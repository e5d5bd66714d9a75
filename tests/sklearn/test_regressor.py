import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kerastorch.sklearn import Regressor
from tests.sklearn.nets import Flat, Net

X, Y = load_diabetes(return_X_y=True)


def test_it_scores_in_a_pipeline_with_scaled_targets():
    regressor = Regressor(Net, epochs=30, lr=0.005, random_state=0)
    scaled = TransformedTargetRegressor(make_pipeline(StandardScaler(), regressor), transformer=StandardScaler())
    assert cross_val_score(scaled, X, Y, cv=3).mean() > 0.4


@pytest.mark.parametrize("factory", [Net, Flat])
def test_predictions_have_the_shape_of_the_targets(factory):
    regressor = Regressor(factory, epochs=1).fit(X, Y)
    assert regressor.predict(X).shape == (442,)
    assert regressor.predict(X).dtype == np.float64
    assert Regressor(factory, epochs=1).fit(X, Y[:, None]).predict(X).shape == (442, 1)


def test_several_targets():
    targets = np.stack([Y, -Y, Y * 0], 1) / 100
    regressor = Regressor(Net, epochs=20, lr=0.01, random_state=0, metrics=["mae"]).fit(X * 10, targets)
    found = regressor.predict(X * 10)
    assert found.shape == (442, 3)
    assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] < -0.9
    assert regressor.score(X * 10, targets[:, :3]) > 0.2
    assert regressor.partial_fit(X * 10, targets).n_epochs_ == 21
    with pytest.raises(ValueError, match="The net gave 3 numbers per sample, but y needs 1"):
        regressor.partial_fit(X, Y)


def test_targets_that_were_refused_change_no_predictions():
    regressor = Regressor(Net, epochs=1, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match="The net gave 1 numbers per sample, but y needs 2"):
        regressor.fit(X, np.stack([Y, Y], 1))
    assert regressor.predict(X).shape == (442,)
