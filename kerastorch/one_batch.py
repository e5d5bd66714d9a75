"""Training, evaluating and using a net on one batch."""

from __future__ import annotations

from typing import Any


def train_on_batch(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, Any]:
    """Train on one batch; return its loss and metrics."""
    return model._session.on_batch("train_on_batch", x, y, sample_weight)  # type: ignore[no-any-return]


def test_on_batch(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, Any]:
    """Return loss and metrics of one batch."""
    return model._session.on_batch("test_on_batch", x, y, sample_weight)  # type: ignore[no-any-return]


def predict_on_batch(model: Any, x: Any) -> Any:
    """Return what the net gives for one batch, on the CPU."""
    return model.predict([(x,)])
