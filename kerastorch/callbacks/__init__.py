"""Callbacks to pick from."""

from kerastorch.callbacks.checkpoint import ModelCheckpoint
from kerastorch.callbacks.device_transfer import DeviceTransfer
from kerastorch.callbacks.functions import LambdaCallback
from kerastorch.callbacks.tensorboard import TensorBoard
from kerastorch.hooks import Callback

__all__ = ["Callback", "DeviceTransfer", "LambdaCallback", "ModelCheckpoint", "TensorBoard"]
