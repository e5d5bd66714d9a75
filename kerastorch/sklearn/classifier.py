"""Nets that tell classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from torch import nn

from kerastorch import resolve
from kerastorch.display import Verbose
from kerastorch.hooks import Callback
from kerastorch.losses import Loss
from kerastorch.metrics import Task
from kerastorch.resolve.metric import task
from kerastorch.sklearn.estimator import Array, Estimator

if TYPE_CHECKING:
    from typing_extensions import Self


class Classifier(ClassifierMixin, Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of scikit-learn with a net inside, for `Pipeline`, `GridSearchCV` and `cross_val_score`.

    Classes are labels of any kind. The net gives a score for each, as `"cross_entropy"` wants it; with
    `"bce_with_logits"` or `"bce"` one number for two classes. Each `fit` makes a new net, by `net_factory`.

    Example:
        >>> class Net(nn.Sequential):
        ...     def __init__(self, n_features, n_outputs, width=64):
        ...         super().__init__(nn.Linear(n_features, width), nn.ReLU(), nn.Linear(width, n_outputs))
        >>> classifier = kt.sklearn.Classifier(Net, epochs=20, lr=1e-3, random_state=0)
        >>> GridSearchCV(classifier, {"lr": [1e-3, 1e-2], "net_params__width": [32, 64]}).fit(X, y)

    Args:
        net_factory: A class or function that returns an `nn.Module`. If it has parameters `n_features` and `n_outputs`,
            it is told the second dimension of `X`, which are the channels of images, and how many numbers per sample
            the net must give. With a function from a module `n_jobs=2` works; a lambda cannot be pickled.
        net_params: Further arguments of `net_factory`, as a dict; one by one as `net_params__width`.
        loss: As for `Model.compile`.
        optimizer: A name, a class, or a function of the parameters.
        lr: Learning rate; by default that of the optimizer.
        optimizer_params: Further arguments of the optimizer, as a dict; one by one as `optimizer_params__momentum`.
        metrics: As for `Model.compile`; they are in `history_`.
        epochs: How many `fit` trains.
        batch_size: Samples per step, and per step of `predict`.
        validation_split: The share of the samples to validate on after each epoch; with the shares of the classes kept.
        class_weight: `{label: weight}`, or `"balanced"`; it counts in the training loss.
        callbacks: Callbacks; each `fit` uses copies of them.
        warm_start: Whether `fit` goes on with the net and the optimizer that are there.
        random_state: A whole number, a `RandomState` or None, as scikit-learn has it: what weights, order, split and
            Dropout follow. The global random numbers stay as they are, but None draws one number of NumPy's.
        dtype: What `X` is made; None leaves it, for nets that take whole numbers.
        device: As for `Model.compile`.
        verbose: As for `Model.fit`.

    Attributes:
        model_: The `kerastorch.Model`, to evaluate and to save.
        history_: The `kerastorch.History` of the last `fit`.
        classes_: The labels in their order.
        n_features_in_: The second dimension of `X`.
        feature_names_in_: The names of the columns, where `X` was a data frame.
        n_epochs_: Epochs that the net was trained.
    """

    classes_: Array
    _task: Task

    def __init__(
        self,
        net_factory: Callable[..., nn.Module],
        *,
        net_params: Mapping[str, Any] | None = None,
        loss: Any = "cross_entropy",
        optimizer: Any = "adam",
        lr: float | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        metrics: Any = None,
        epochs: int = 10,
        batch_size: int = 32,
        validation_split: float | None = None,
        class_weight: Any = None,
        callbacks: Sequence[Callback] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        dtype: Any = "float32",
        device: str | torch.device | None = "auto",
        verbose: Verbose = 0,
    ) -> None:
        self.net_factory = net_factory
        self.net_params = net_params
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.optimizer_params = optimizer_params
        self.metrics = metrics
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_split = validation_split
        self.class_weight = class_weight
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.random_state = random_state
        self.dtype = dtype
        self.device = device
        self.verbose = verbose

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train the net that is there, or a new one, for one epoch.

        Args:
            X: As for `fit`.
            y: As for `fit`.
            classes: All labels, in the first call, where `y` does not have them all; the same ones later, or None.
            sample_weight: As for `fit`.

        Raises:
            ValueError: As for `fit`; other `classes` than before; or `class_weight="balanced"`, for which all labels
                must be known.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} counts the labels of all data, which partial_fit does not have. "
                "Type class_weight={label: weight}."
            )
        return self._train(X, y, sample_weight, 1, goes_on=hasattr(self, "model_"), classes=classes)

    def predict(self, X: Any) -> Array:
        """Return the likeliest label of each sample `(N,)`."""
        likeliest = self.predict_proba(X).argmax(1)
        labels: Array = self.classes_[likeliest]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class `(N, C)`, float64, in the order of `classes_`."""
        scores = self._outputs(X)
        if self._is_binary:
            second = scores.sigmoid() if self._task.outputs == "logits" else scores
            return torch.cat([1 - second, second], 1).numpy()
        return (scores.exp() if self._task.outputs == "log_probabilities" else scores.softmax(1)).numpy()

    @property
    def _is_binary(self) -> bool:
        """Whether the net gives one number, for the second of two classes."""
        return self._task.labels is False

    def _targets(self, y: Array, *, goes_on: bool, classes: Any) -> tuple[Array, int]:
        check_classification_targets(y)
        self._check_split(y)
        if not goes_on:
            self._task = self._task_of_loss()
        self._check_classes(np.unique(y), None if classes is None else np.unique(classes), goes_on=goes_on)
        numbers = np.searchsorted(self.classes_, y).astype(np.int64)
        if not self._is_binary:
            return numbers, len(self.classes_)
        if len(self.classes_) != 2:
            raise ValueError(f"{self.loss!r} is for two classes, but y has {len(self.classes_)}. Use 'cross_entropy'.")
        return numbers.astype(np.float64), 1

    def _check_classes(self, found: Array, named: Array | None, *, goes_on: bool) -> None:
        """Learn the classes of a new net; see that those of an old one are all."""
        if not goes_on:
            self.classes_ = found if named is None else named
        known = self.classes_.tolist()
        if named is not None and named.tolist() != known:
            raise ValueError(
                f"classes={named.tolist()} are not those that the net was made for: {known}. Leave classes out, or "
                "begin with a new net by fit."
            )
        strange = np.setdiff1d(found, self.classes_).tolist()
        if strange:
            raise ValueError(
                f"y has the class {strange[0]!r}, but the net was made for {known}. Name all classes in the first "
                "call: partial_fit(X, y, classes=...)."
            )

    def _check_split(self, y: Array) -> None:
        """See that each class can be in both parts, in the words of the user."""
        share = self.validation_split
        if not isinstance(share, Real) or not 0 < share < 1:
            return  # there is none, or fit says what is wrong with it
        labels, counts = np.unique(y, return_counts=True)
        if counts.min() == 1:
            raise ValueError(
                f"y has the class {labels.tolist()[counts.argmin()]!r} once, and validation_split={share} puts each "
                "class into both parts. Take that sample out, or type validation_split=None."
            )
        chosen = math.ceil(share * len(y))
        fewest = min(chosen, len(y) - chosen)
        if fewest < len(labels):
            raise ValueError(
                f"validation_split={share} puts each class into both parts, but y has {len(labels)} classes and one "
                f"part would have {fewest} samples. Type another share, or validation_split=None."
            )

    def _task_of_loss(self) -> Task:
        loss = resolve.loss(self.loss)
        found = task(loss)
        if found.labels is False and not (found.outputs and isinstance(loss, Loss) and loss.by_element):
            raise ValueError(f"{self.loss!r} does not compare with classes. Use 'cross_entropy'.")
        return found

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self._is_binary else ()

    def _options(self, y: Array) -> dict[str, Any]:
        weights = self.class_weight
        if weights is not None:
            weights = compute_class_weight(weights, classes=self.classes_, y=y)
        return {"class_weight": weights, "stratify": self.validation_split is not None}
