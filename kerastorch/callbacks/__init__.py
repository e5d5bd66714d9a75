"""Callbacks to pick from."""

from typing import TYPE_CHECKING

from kerastorch import lazy
from kerastorch.callbacks.device_transfer import DeviceTransfer
from kerastorch.callbacks.functions import LambdaCallback
from kerastorch.hooks import Callback

if TYPE_CHECKING:
    from kerastorch.callbacks.backup import BackupAndRestore
    from kerastorch.callbacks.batch_transform import BatchTransform
    from kerastorch.callbacks.checkpoint import ModelCheckpoint
    from kerastorch.callbacks.csv_logger import CSVLogger
    from kerastorch.callbacks.early_stopping import EarlyStopping
    from kerastorch.callbacks.ema import ExponentialMovingAverage, SwapEMAWeights
    from kerastorch.callbacks.freeze import Freeze
    from kerastorch.callbacks.gradients import GradientLogger
    from kerastorch.callbacks.json_logger import JSONLogger
    from kerastorch.callbacks.logger import Logger
    from kerastorch.callbacks.lr_monitor import LearningRateMonitor
    from kerastorch.callbacks.mixing import CutMix, MixUp
    from kerastorch.callbacks.mlflow import MLflow
    from kerastorch.callbacks.nan import TerminateOnNaN
    from kerastorch.callbacks.notify import Notify
    from kerastorch.callbacks.one_cycle import OneCycle, WarmupCosine
    from kerastorch.callbacks.optuna import OptunaPruning
    from kerastorch.callbacks.plateau import ReduceLROnPlateau
    from kerastorch.callbacks.profiler import Profiler
    from kerastorch.callbacks.remote_monitor import RemoteMonitor
    from kerastorch.callbacks.schedule import LearningRateScheduler
    from kerastorch.callbacks.swa import StochasticWeightAveraging
    from kerastorch.callbacks.tensorboard import TensorBoard
    from kerastorch.callbacks.timer import Timer
    from kerastorch.callbacks.wandb import WandB
    from kerastorch.display.bar import ProgbarLogger
    from kerastorch.display.live import LivePlot

__all__ = [
    "BackupAndRestore",
    "BatchTransform",
    "CSVLogger",
    "Callback",
    "CutMix",
    "DeviceTransfer",
    "EarlyStopping",
    "ExponentialMovingAverage",
    "Freeze",
    "GradientLogger",
    "JSONLogger",
    "LambdaCallback",
    "LearningRateMonitor",
    "LearningRateScheduler",
    "LivePlot",
    "Logger",
    "MLflow",
    "MixUp",
    "ModelCheckpoint",
    "Notify",
    "OneCycle",
    "OptunaPruning",
    "Profiler",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "StochasticWeightAveraging",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "Timer",
    "WandB",
    "WarmupCosine",
]

__getattr__ = lazy.attributes(
    __name__,
    {
        "BackupAndRestore": ".backup",
        "BatchTransform": ".batch_transform",
        "CSVLogger": ".csv_logger",
        "CutMix": ".mixing",
        "EarlyStopping": ".early_stopping",
        "ExponentialMovingAverage": ".ema",
        "Freeze": ".freeze",
        "GradientLogger": ".gradients",
        "JSONLogger": ".json_logger",
        "LearningRateMonitor": ".lr_monitor",
        "LearningRateScheduler": ".schedule",
        "LivePlot": "..display.live",
        "Logger": ".logger",
        "MLflow": ".mlflow",
        "MixUp": ".mixing",
        "ModelCheckpoint": ".checkpoint",
        "Notify": ".notify",
        "OneCycle": ".one_cycle",
        "OptunaPruning": ".optuna",
        "Profiler": ".profiler",
        "ProgbarLogger": "..display.bar",
        "ReduceLROnPlateau": ".plateau",
        "RemoteMonitor": ".remote_monitor",
        "StochasticWeightAveraging": ".swa",
        "SwapEMAWeights": ".ema",
        "TensorBoard": ".tensorboard",
        "TerminateOnNaN": ".nan",
        "Timer": ".timer",
        "WandB": ".wandb",
        "WarmupCosine": ".one_cycle",
    },
)
