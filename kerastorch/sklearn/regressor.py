"""Nets that tell numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import RegressorMixin
from torch import nn

from kerastorch.display import Verbose
from kerastorch.hooks import Callback
from kerastorch.sklearn.estimator import Array, Estimator

if TYPE_CHECKING:
    from typing_extensions import Self


class Regressor(RegressorMixin, Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor of scikit-learn with a net inside, for one number per sample or several.

    Each `fit` makes a new net, by `net_factory`. Targets far from the size of 1 are best scaled, by
    `sklearn.compose.TransformedTargetRegressor`.

    Example:
        >>> class Net(nn.Sequential):
        ...     def __init__(self, n_features, n_outputs, width=64):
        ...         super().__init__(nn.Linear(n_features, width), nn.ReLU(), nn.Linear(width, n_outputs))
        >>> regressor = kt.sklearn.Regressor(Net, epochs=20, random_state=0)
        >>> cross_val_score(make_pipeline(StandardScaler(), regressor), X, y)

    Args:
        net_factory: A class or function that returns an `nn.Module`. If it has parameters `n_features` and `n_outputs`,
            it is told the second dimension of `X`, and how many numbers per sample the net must give.
        net_params: Further arguments of `net_factory`, as a dict; one by one as `net_params__width`.
        loss: As for `Model.compile`.
        optimizer: A name, a class, or a function of the parameters.
        lr: Learning rate; by default that of the optimizer.
        optimizer_params: Further arguments of the optimizer, as a dict; one by one as `optimizer_params__momentum`.
        metrics: As for `Model.compile`; they are in `history_`.
        epochs: How many `fit` trains.
        batch_size: Samples per step, and per step of `predict`.
        validation_split: The share of the samples to validate on after each epoch.
        callbacks: Callbacks; each `fit` uses copies of them.
        warm_start: Whether `fit` goes on with the net and the optimizer that are there.
        random_state: As for `Classifier`.
        dtype: What `X` is made; None leaves it, for nets that take whole numbers.
        device: As for `Model.compile`.
        verbose: As for `Model.fit`.

    Attributes:
        model_: The `kerastorch.Model`, to evaluate and to save.
        history_: The `kerastorch.History` of the last `fit`.
        n_features_in_: The second dimension of `X`.
        feature_names_in_: The names of the columns, where `X` was a data frame.
        n_epochs_: Epochs that the net was trained.
    """

    _is_flat: bool

    def __init__(
        self,
        net_factory: Callable[..., nn.Module],
        *,
        net_params: Mapping[str, Any] | None = None,
        loss: Any = "mse",
        optimizer: Any = "adam",
        lr: float | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        metrics: Any = None,
        epochs: int = 10,
        batch_size: int = 32,
        validation_split: float | None = None,
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
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.random_state = random_state
        self.dtype = dtype
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the net that is there, or a new one, for one epoch; the arguments are those of `fit`."""
        return self._train(X, y, sample_weight, 1, goes_on=hasattr(self, "model_"))

    def predict(self, X: Any) -> Array:
        """Return the numbers of each sample, float64, `(N,)` or `(N, n_outputs)` as the targets were."""
        outputs = self._outputs(X).numpy()
        return outputs.ravel() if self._is_flat else outputs

    def _checks(self) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True}

    def _targets(self, y: Array, *, goes_on: bool, classes: Any) -> tuple[Array, int]:
        self._is_flat = y.ndim == 1
        return y.astype(float), 1 if self._is_flat else y.shape[1]  # float64 becomes what the net has

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape
