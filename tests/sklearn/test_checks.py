"""scikit-learn's own checks of estimators."""

import pytest
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from kerastorch.sklearn import Classifier, Regressor
from tests.sklearn.nets import Net, double

# Full batches, for the checks compare fits on the same rows in another order, or twice, to the last bits
OPTIONS = {"epochs": 40, "lr": 0.03, "batch_size": 500}
ESTIMATORS = [Classifier(Net, **OPTIONS), Regressor(Net, **OPTIONS)]
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "float32 rounds sums of other numbers otherwise, by 1e-7; a net "
    "in float64 passes, see below",
}


@pytest.mark.filterwarnings("ignore")  # the checks warn of what they provoke
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: EXPECTED)
def test_an_estimator_keeps_the_protocol(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_a_weight_of_two_is_a_row_twice(kind):
    estimator = kind(double, dtype="float64", **OPTIONS)
    check_sample_weight_equivalence_on_dense_data(kind.__name__, estimator)
