import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.tensorboard.summary import compute_curve

import kerastorch as kt
from kerastorch.metrics import PrecisionRecallCurve, Task


def expected(truth, scores, weights=None):
    """Return true and false positives as TensorBoard counts them, `(127, 2)`."""
    weights = None if weights is None else weights.double().numpy()
    return compute_curve(truth.numpy(), scores.float().numpy(), 127, weights)[:2].T


@pytest.mark.parametrize("batch_size", [7, 100])
def test_counts_of_classes_are_those_of_all_data_at_once(batch_size):
    torch.manual_seed(0)
    x, y = torch.randn(100, 4), torch.randint(3, (100,))
    model = kt.Model(nn.Linear(4, 3))
    model.compile("cross_entropy", "sgd", {"curve": PrecisionRecallCurve()})
    counts = model.evaluate((x, y), batch_size=batch_size)["curve"]
    assert counts.shape == (3, 127, 2)
    scores = model.predict(x).softmax(1)
    for place in range(3):
        np.testing.assert_array_equal(counts[place].numpy(), expected(y == place, scores[:, place]))


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_labels_are_counted_one_by_one(shape):
    scores, truth = torch.rand(shape), torch.rand(shape) > 0.5
    counts = PrecisionRecallCurve().bound(Task(outputs="probabilities", labels=False))(scores, truth.float())
    for place, made in enumerate(counts):
        column = scores.reshape(50, -1)[:, place], truth.reshape(50, -1)[:, place]
        np.testing.assert_array_equal(made.numpy(), expected(column[1], column[0]))


def test_samples_count_by_their_weights():
    scores, truth, weight = torch.rand(20), torch.rand(20) > 0.5, torch.rand(20)
    (part,) = PrecisionRecallCurve().measure(scores, truth.float(), weight, 20)
    made = PrecisionRecallCurve().value([part])
    np.testing.assert_allclose(made[0].numpy(), expected(truth, scores, weight), rtol=1e-9)


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "log_probabilities", None])
def test_outputs_become_probabilities(outputs):
    logits, y = torch.randn(30, 3), torch.randint(3, (30,))
    given = {"probabilities": logits.softmax(1), "log_probabilities": logits.log_softmax(1)}.get(outputs, logits)
    counts = PrecisionRecallCurve().bound(Task(outputs=outputs, labels=True))(given, y)
    assert counts[:, 0, 0].tolist() == torch.bincount(y, minlength=3).tolist()
    near = expected(y == 1, logits.softmax(1)[:, 1])
    assert np.abs(counts[1].numpy() - near).max() <= 1  # one score may round to the other side of a threshold


def test_where_nobody_knows_probabilities_stay():
    scores, truth = torch.tensor([0.2, 0.8]), torch.tensor([0.0, 1.0])
    assert PrecisionRecallCurve()(scores, truth)[0, 63].tolist() == [1, 0]


def test_ignored_labels_and_nan_are_told_apart():
    scores, y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, float("nan")]]), torch.tensor([1, -100, 1])
    counts = PrecisionRecallCurve(ignore_index=-100).bound(Task(outputs="probabilities", labels=True))(scores, y)
    assert counts[1, 0].tolist() == [2, 0]
    assert counts[1, 126].tolist() == [1, 0]  # NaN counts as 0


def test_a_dense_target_and_repr():
    scores, y = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    assert PrecisionRecallCurve()(scores, y)[:, 0].sum() == 3 * 32
    assert repr(PrecisionRecallCurve(on="val")) == "PrecisionRecallCurve(on='val')"
