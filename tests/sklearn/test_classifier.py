import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.metrics import get_scorer
from sklearn.model_selection import cross_val_score
from torch import nn

import kerastorch as kt
from kerastorch.sklearn import Classifier
from tests.sklearn.nets import Flat, Images, LogProbabilities, Net, Probability, Words

DIGITS = load_digits()
X, Y = DIGITS.data[:600] / 16, DIGITS.target[:600]
EVEN = np.where(Y % 2, "odd", "even")


def own_loss(output, target):
    return nn.functional.multi_margin_loss(output, target)


def test_labels_may_be_words():
    classifier = Classifier(Net, epochs=8, lr=0.01, random_state=0).fit(X, EVEN)
    assert classifier.classes_.tolist() == ["even", "odd"]
    assert classifier.score(X, EVEN) > 0.9
    likely = classifier.predict_proba(X)
    assert likely.shape == (600, 2)
    assert likely.dtype == np.float64
    assert np.array_equal(classifier.predict(X), classifier.classes_[likely.argmax(1)])


@pytest.mark.parametrize(
    ("factory", "loss"),
    [
        (Net, "bce_with_logits"),
        (Flat, nn.BCEWithLogitsLoss()),
        (Probability, "bce"),
        (LogProbabilities, "nll_loss"),
        (Net, nn.CrossEntropyLoss(label_smoothing=0.01)),
        (Net, own_loss),
    ],
)
def test_every_loss_of_classes_gives_probabilities(factory, loss):
    classifier = Classifier(factory, loss=loss, epochs=8, lr=0.01, random_state=0, metrics=["accuracy"])
    classifier.fit(X, EVEN)
    likely = classifier.predict_proba(X)
    np.testing.assert_allclose(likely.sum(1), 1)
    assert likely.min() >= 0
    assert get_scorer("roc_auc")(classifier, X, EVEN) > 0.95
    assert classifier.history_["accuracy"][-1] > 0.85
    output = classifier.model_.predict(X.astype("float32")).double()
    if factory is Net and loss == "bce_with_logits":
        assert np.array_equal(likely[:, 1], output.sigmoid().ravel().numpy())


@pytest.mark.parametrize(
    ("loss", "labels", "text"),
    [
        ("bce_with_logits", Y, "'bce_with_logits' is for two classes, but y has 10. Use 'cross_entropy'"),
        ("bce", np.zeros(600), "'bce' is for two classes, but y has 1"),
        ("mse", Y, "'mse' does not compare with classes"),
        ("soft_margin", EVEN, "'soft_margin' does not compare with classes"),
        ("cross_entropy", X[:, 10], "Unknown label type: continuous"),
        ("cross_entropy", np.stack([Y, Y], 1), "1d array"),
    ],
)
def test_what_does_not_fit_is_said_before_training(loss, labels, text):
    with pytest.raises(ValueError, match=text):
        Classifier(Net, loss=loss).fit(X, labels)


def test_images():
    images = DIGITS.images[:600, None] / 16
    classifier = Classifier(Images, epochs=8, lr=0.02, random_state=0).fit(images, EVEN)
    assert classifier.n_features_in_ == 1
    assert cross_val_score(classifier, images, EVEN, cv=2).min() > 0.7


def test_whole_numbers():
    tokens = np.random.RandomState(0).randint(10, size=(200, 6))
    labels = (tokens == 3).any(1)
    classifier = Classifier(Words, dtype=None, epochs=30, lr=0.1, random_state=0).fit(tokens, labels)
    assert classifier.classes_.tolist() == [False, True]
    assert classifier.score(tokens, labels) > 0.9


def test_class_weights_are_named_by_labels():
    rare = np.where(Y == 0, "zero", "other")
    options = {"epochs": 2, "random_state": 0}
    balanced = Classifier(Net, class_weight="balanced", **options).fit(X, rare)
    counts = {label: (rare == label).sum() for label in ("other", "zero")}
    by_hand = {label: 600 / (2 * count) for label, count in counts.items()}
    named = Classifier(Net, class_weight=by_hand, **options).fit(X, rare)
    for one, other in zip(balanced.model_.parameters(), named.model_.parameters(), strict=True):
        assert torch.equal(one, other)
    plain = Classifier(Net, **options).fit(X, rare)
    assert (balanced.predict(X) == "zero").sum() > (plain.predict(X) == "zero").sum()


def test_a_validation_has_the_shares_of_the_classes():
    rare = np.arange(600) % 100 == 0
    classifier = Classifier(Net, epochs=1, validation_split=0.5, metrics=["accuracy"], verbose=0).fit(X, rare)
    assert "val_accuracy" in classifier.history_


def test_parts_with_not_all_classes():
    low = Y < 5
    classifier = Classifier(Net, lr=0.01, random_state=0, class_weight={0: 2})
    for _ in range(5):
        classifier.partial_fit(X[low], Y[low], classes=range(10)).partial_fit(X[~low], Y[~low])
    assert classifier.classes_.tolist() == list(range(10))
    assert classifier.n_epochs_ == 10
    assert len(set(classifier.predict(X))) > 5
    with pytest.raises(ValueError, match="y has the class 11, but the net was made for"):
        classifier.partial_fit(X, np.full(600, 11))
    with pytest.raises(ValueError, match="class_weight='balanced' counts the labels of all data"):
        Classifier(Net, class_weight="balanced").partial_fit(X, Y)


def test_the_classes_are_those_of_the_first_call():
    classifier = Classifier(Net, warm_start=True, epochs=1).fit(X[Y < 3], Y[Y < 3])
    with pytest.raises(ValueError, match=r"y has the class 3, but the net was made for \[0, 1, 2\]\. Name all classes"):
        classifier.fit(X, Y)


def test_what_uses_probabilities_takes_it():
    calibrated = CalibratedClassifierCV(Classifier(Net, epochs=5, lr=0.01, random_state=0), cv=2).fit(X, EVEN)
    assert calibrated.score(X, EVEN) > 0.85


def test_a_part_may_name_the_same_classes_again_and_no_others():
    classifier = Classifier(Net, random_state=0).partial_fit(X[Y < 5], Y[Y < 5], classes=range(5))
    classifier.partial_fit(X[Y < 5], Y[Y < 5], classes=[4, 3, 2, 1, 0])
    with pytest.raises(ValueError, match=r"classes=\[0, 1, .*9\] are not those that the net was made for: \[0, 1, 2, "):
        classifier.partial_fit(X[Y < 5], Y[Y < 5], classes=range(10))
    assert classifier.n_epochs_ == 2


def test_a_class_that_cannot_be_split_is_named_as_the_user_does():
    labels = EVEN.astype(object)
    labels[7] = "rare"
    text = r"^y has the class 'rare' once, and validation_split=0\.1 .* Take that sample out, or type validation_split"
    with pytest.raises(ValueError, match=text):
        Classifier(Net, validation_split=0.1).fit(X, labels)
    Classifier(Net, validation_split=None, epochs=1).fit(X, labels)
    with pytest.raises(
        ValueError, match=r"^validation_split=0\.01 .* y has 10 classes and one part would have 6 samples"
    ):
        Classifier(Net, validation_split=0.01).fit(X, Y)
    with pytest.raises(ValueError, match=r"above 0 and below 1, such as 0\.2; got 5"):
        Classifier(Net, validation_split=5).fit(X, Y)


def test_files_of_the_model_have_the_names_of_the_classes(tmp_path):
    names = np.array(["cat", "dog", "bird"])[Y % 3]
    classifier = Classifier(Net, epochs=1, random_state=0).fit(X, names)
    classifier.model_.save(tmp_path / "net.pt")
    assert kt.checkpoint.inspect(tmp_path / "net.pt").classes == ("bird", "cat", "dog")
