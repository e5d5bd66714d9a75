"""Callbacks to pick from."""

from kerastorch.callbacks.checkpoint import ModelCheckpoint
from kerastorch.callbacks.csv_logger import CSVLogger
from kerastorch.callbacks.device_transfer import DeviceTransfer
from kerastorch.callbacks.early_stopping import EarlyStopping
from kerastorch.callbacks.functions import LambdaCallback
from kerastorch.callbacks.nan import TerminateOnNaN
from kerastorch.callbacks.plateau import ReduceLROnPlateau
from kerastorch.callbacks.schedule import LearningRateScheduler
from kerastorch.callbacks.tensorboard import TensorBoard
from kerastorch.hooks import Callback

__all__ = [
    "CSVLogger",
    "Callback",
    "DeviceTransfer",
    "EarlyStopping",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
]
