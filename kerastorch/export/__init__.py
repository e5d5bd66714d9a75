"""A net as a file that runs without its code: ONNX, and the exported programs of torch."""

from kerastorch.export.result import Exported, Tensors

__all__ = ["Exported", "Tensors"]
