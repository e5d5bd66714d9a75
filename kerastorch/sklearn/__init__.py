"""Nets as estimators of scikit-learn."""

from kerastorch.errors import needs

needs("sklearn", purpose="kerastorch.sklearn", install="scikit-learn")

from kerastorch.sklearn.classifier import Classifier  # noqa: E402  # after the message that says what to install
from kerastorch.sklearn.regressor import Regressor  # noqa: E402

__all__ = ["Classifier", "Regressor"]
