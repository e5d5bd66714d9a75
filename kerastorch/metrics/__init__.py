"""Metrics: sums on the device, read when somebody looks."""

from kerastorch.metrics.accuracy import Accuracy
from kerastorch.metrics.base import Metric, Rows
from kerastorch.metrics.confusion import ConfusionMatrix
from kerastorch.metrics.curve import PrecisionRecallCurve
from kerastorch.metrics.epoch import Epoch
from kerastorch.metrics.mean import R2, MeanAbsoluteError, MeanOf, MeanSquaredError, RootMeanSquaredError
from kerastorch.metrics.names import named
from kerastorch.metrics.part import OnOutput
from kerastorch.metrics.perplexity import Perplexity
from kerastorch.metrics.ranking import AUROC, AveragePrecision
from kerastorch.metrics.scores import F1, Dice, IoU, Precision, Recall
from kerastorch.metrics.set import MetricSet
from kerastorch.metrics.task import Task
from kerastorch.metrics.wrap import TorchMetric

__all__ = [  # noqa: RUF022 - in the order of the alphabet; F1 is no constant
    "AUROC",
    "Accuracy",
    "AveragePrecision",
    "ConfusionMatrix",
    "Dice",
    "Epoch",
    "F1",
    "IoU",
    "MeanAbsoluteError",
    "MeanOf",
    "MeanSquaredError",
    "Metric",
    "MetricSet",
    "OnOutput",
    "Perplexity",
    "Precision",
    "PrecisionRecallCurve",
    "R2",
    "Recall",
    "RootMeanSquaredError",
    "Rows",
    "Task",
    "TorchMetric",
    "named",
]
