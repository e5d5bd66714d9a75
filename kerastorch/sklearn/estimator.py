"""What classifiers and regressors have in common."""

from __future__ import annotations

import copy
import re
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from kerastorch import randomness
from kerastorch.history import History
from kerastorch.hooks import Callback, Logs
from kerastorch.model import Model
from kerastorch.sklearn import build
from kerastorch.tree import describe

if TYPE_CHECKING:
    from typing_extensions import Self

Array = np.ndarray[Any, Any]
_NESTED = ("net_params", "optimizer_params")
_OTHER_DTYPE = r"same dtype|should be the same|expected scalar type|expected m1 and m2"
_turns = threading.RLock()  # random numbers are those of the process: threads would draw from each other's


class Estimator(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """A net behind the protocol of scikit-learn; the parameters are those of `Classifier` and `Regressor`."""

    net_factory: Callable[..., nn.Module]
    net_params: Mapping[str, Any] | None
    loss: Any
    optimizer: Any
    optimizer_params: Mapping[str, Any] | None
    lr: float | None
    metrics: Any
    epochs: int
    batch_size: int
    validation_split: float | None
    callbacks: Sequence[Callback] | None
    warm_start: bool
    random_state: Any
    dtype: Any
    device: Any
    verbose: Any
    model_: Model
    history_: History
    n_epochs_: int
    n_features_in_: int
    _made: dict[str, Any]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new net; with `warm_start` the one that is there.

        Args:
            X: Inputs `(N, ...)`: an array, a tensor or a data frame of numbers.
            y: Targets `(N,)`; of a `Regressor` also `(N, n_outputs)`.
            sample_weight: Weight of each sample in the loss `(N,)`.

        Raises:
            ValueError: Parameters, data and net do not fit together; the estimator stays as it was.
            KeyboardInterrupt: Ctrl-C was pressed; `model_` is what was learned until then.
        """
        goes_on = self.warm_start and hasattr(self, "model_")
        return self._train(X, y, sample_weight, self.epochs, goes_on=goes_on)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; `deep` also those in `net_params`, as `net_params__width`."""
        params: dict[str, Any] = super().get_params(deep)
        for name in _NESTED if deep else ():
            inner = params[name]  # anything may have been set; fit will say so
            params |= {f"{name}__{key}": inner[key] for key in inner} if isinstance(inner, Mapping) else {}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, those in `net_params` and `optimizer_params` also as `net_params__width`."""
        inner = {name: value for name, value in params.items() if name.partition("__")[0] in _NESTED and "__" in name}
        super().set_params(**{name: value for name, value in params.items() if name not in inner})
        for name, value in inner.items():
            outer, _, key = name.partition("__")
            setattr(self, outer, {**(getattr(self, outer) or {}), key: value})  # the dict that was given is not ours
        return self

    @abstractmethod
    def _targets(self, y: Array, *, goes_on: bool, classes: Any) -> tuple[Array, int]:
        """Return targets `(N, ...)`, and how many outputs the net needs for them; learn what `y` is."""

    @abstractmethod
    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one target, given that of one output."""

    def _options(self, y: Array) -> dict[str, Any]:
        """Return further arguments of `Model.fit`."""
        return {}

    def _checks(self) -> dict[str, Any]:
        """Return further arguments of scikit-learn's check of `y`."""
        return {}

    def _train(self, X: Any, y: Any, sample_weight: Any, epochs: int, *, goes_on: bool, classes: Any = None) -> Self:
        build.refuse_backup(self.callbacks)
        end = _End()
        with _turns, self._as_before_unless(end):
            X, y = validate_data(self, X, y, reset=not goes_on, **self._form, **self._checks())
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float32, ensure_non_negative=True)
            targets, outputs = self._targets(y, goes_on=goes_on, classes=classes)
            began = self.n_epochs_ if goes_on else 0
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            with randomness.kept():
                randomness.reseed(seed, began)
                torch.manual_seed(torch.initial_seed())  # accelerators too
                if not goes_on:
                    self.model_ = self._new_model(outputs)
                targets = targets.reshape(len(targets), *self._shape_of_targets(X[:1], outputs))
                if goes_on:
                    build.go_on(self._made, build.recipe(self.get_params(deep=False)), self.model_.optimizer)
                try:
                    self.model_.fit(
                        began + epochs,
                        (X, targets) if sample_weight is None else (X, targets, sample_weight),
                        callbacks=[*copy.deepcopy(list(self.callbacks or ())), end],
                        initial_epoch=began,
                        batch_size=self.batch_size,
                        seed=seed,
                        validation_split=self.validation_split,
                        verbose=self.verbose,
                        **self._options(y),
                    )
                finally:
                    self.history_ = self.model_.history
                    self.n_epochs_ = began + len(self.history_)
        if end.by_ctrl_c:  # or a search would go on with the score of a net that is not trained to its end
            raise KeyboardInterrupt
        return self

    @contextmanager
    def _as_before_unless(self, end: _End) -> Iterator[None]:
        """After an error, be what it was before, unless a net was being trained: labels and net must be of one fit."""
        before, own = self.__dict__.copy(), self.__dict__
        try:
            yield
        except BaseException:
            if not end.trains:
                own.clear()
                own.update(before)
            raise

    def _new_model(self, outputs: int) -> Model:
        told = {"n_features": self.n_features_in_, "n_outputs": outputs}
        optimizer = build.optimizer(self.optimizer, self.lr, self.optimizer_params)
        net = build.net(self.net_factory, self.net_params, told)
        model = net if isinstance(net, Model) else Model(net)
        model.compile(self.loss, optimizer, self.metrics, self.device)
        if hasattr(self, "classes_"):
            model.classes = tuple(map(str, self.classes_))  # for its files
        self._made = build.recipe(self.get_params(deep=False))
        return model

    def _shape_of_targets(self, x: Array, outputs: int) -> tuple[int, ...]:
        """Return the shape of one target; look at what the net gives for one sample."""
        try:
            output = self.model_.predict(x)
        except RuntimeError as error:
            self._explain(error, x.dtype)
            raise
        if not isinstance(output, Tensor):
            raise ValueError(f"An estimator needs a net that returns one tensor; this one gave {describe(output)}.")
        if output.numel() != outputs:
            raise ValueError(
                f"The net gave {output.numel()} numbers per sample, but y needs {outputs}. Give net_factory a "
                "parameter n_outputs: it is told how many."
            )
        return self._shape(tuple(output.shape[1:]))

    def _explain(self, error: RuntimeError, given: Any) -> None:
        """Raise an error that says what to type, if the net has another dtype than `X`."""
        dtypes = {each.dtype for each in self.model_.parameters() if each.is_floating_point()}
        wanted = str(next(iter(dtypes), None)).removeprefix("torch.")
        is_other = len(dtypes) == 1 and wanted in ("float16", "float32", "float64") and wanted != given
        if is_other and re.search(_OTHER_DTYPE, str(error)):
            raise ValueError(f"The net is {wanted}, and X is made {given}: type dtype={wanted!r}.") from error

    def _outputs(self, X: Any) -> Tensor:
        """Return what the net gives for inputs `(N, n_outputs)`, float64 as what scikit-learn does with it."""
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, **self._form)
        with _turns:
            output: Tensor = self.model_.predict(X, batch_size=self.batch_size)
        return output.reshape(len(output), -1).double()

    @property
    def _form(self) -> dict[str, Any]:
        """Arguments of scikit-learn's check of `X`."""
        return {"dtype": build.dtype(self.dtype), "allow_nd": True}


class _End(Callback):
    """Knows whether training has begun, and whether Ctrl-C has ended it."""

    trains = by_ctrl_c = False

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self.trains = True

    def on_train_end(self, logs: Logs) -> None:
        self.by_ctrl_c = self.run.signal == signal.SIGINT
