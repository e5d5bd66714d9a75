"""Metrics: sums on the device, read when somebody looks."""

from kerastorch.metrics.accuracy import Accuracy
from kerastorch.metrics.base import Metric
from kerastorch.metrics.mean import MeanAbsoluteError, MeanOf, MeanSquaredError
from kerastorch.metrics.set import MetricSet
from kerastorch.metrics.wrap import TorchMetric

__all__ = ["Accuracy", "MeanAbsoluteError", "MeanOf", "MeanSquaredError", "Metric", "MetricSet", "TorchMetric"]
