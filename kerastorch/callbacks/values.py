"""What the values are that users log: numbers, text, figures, images or other arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch

from kerastorch.errors import needs

Array = np.ndarray[Any, Any]
Kind = Literal["number", "text", "figure", "images", "array", "unknown"]

_CHANNELS = (1, 3, 4)
_SIDE = 8  # the least height and width of an image: (3, 3) for each of three classes is no picture
_FLOATS = (torch.float16, torch.float32, torch.float64)  # those that NumPy knows
_LARGEST = 10_000  # numbers in one value of a text file


def kind(value: Any) -> Kind:
    """Tell what a value is.

    Arrays and tensors `(C, H, W)`, `(N, C, H, W)` or with the channels last are images, where C is 1, 3 or 4 and sides
    are 8 or more; one number in any shape is a number.
    """
    if isinstance(value, str):
        return "text"
    if isinstance(value, Real):
        return "number"
    if hasattr(value, "savefig"):
        return "figure"
    array = as_array(value)
    if array is None:
        return "unknown"
    if array.size == 1:
        return "number"
    return "array" if _layout(array) is None else "images"


def as_array(value: Any) -> Array | None:
    """Return a tensor, an array or a list of numbers as an array; None where it is none of them."""
    if isinstance(value, torch.Tensor):
        value = value.detach() if value.layout == torch.strided else value.detach().to_dense()
        unknown = value.is_floating_point() and value.dtype not in _FLOATS
        array = (value.float() if unknown else value).numpy(force=True)
    elif isinstance(value, (np.ndarray, np.generic, list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            return None
    else:
        return None
    return array if array.dtype.kind in "fiub" else None


def number(value: Any) -> float:
    """Return a number, or the one number of an array."""
    array = as_array(value)
    return float(value if array is None else array.item())


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are one number."""
    return {name: number(value) for name, value in values.items() if kind(value) == "number"}


def finite(value: Any) -> Array:
    """Return the finite numbers of a value, float64 `(N,)`."""
    array = np.asarray(as_array(value), np.float64)
    numbers: Array = array[np.isfinite(array)]
    return numbers


def images(value: Any) -> Array:
    """Return images `(N, H, W, C)` as bytes; floats are brightness from 0 to 1."""
    array = as_array(value)
    layout = None if array is None else _layout(array)
    if array is None or layout is None:
        raise ValueError("no images")
    array = array if layout.startswith("N") else array[None]
    array = array if layout.endswith("C") else np.moveaxis(array, 1, 3)
    if array.dtype.kind in "fb":
        array = np.nan_to_num(array.astype(np.float64)).clip(0, 1) * 255
    pictures: Array = array.clip(0, 255).round().astype(np.uint8)
    return pictures


def grid(value: Any) -> Array:
    """Return images as one image `(H, W, C)`, side by side, as square as may be."""
    pictures = images(value)
    count, height, width, channels = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    filled = np.zeros((rows * columns, height, width, channels), np.uint8)
    filled[:count] = pictures
    whole: Array = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return whole.reshape(rows * height, columns * width, channels)


def drawn(figure: Any) -> Array:
    """Return a matplotlib figure as an image `(H, W, 4)`, without pyplot and its windows."""
    canvas = needs("matplotlib.backends.backend_agg", purpose="A figure").FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def plain(value: Any) -> Any:
    """Return what JSON can hold: NaN and infinity as None, arrays as lists.

    Raises:
        TypeError: JSON cannot hold it, or it is a very large array.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else _finite(float(value))
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    array = as_array(value)
    if array is None:
        raise TypeError(f"{type(value).__name__} is no number, text, list or array")
    if array.size > _LARGEST:
        raise TypeError(f"{array.size} numbers are too many for a text")
    return _listed(array.tolist())


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [_listed(part) for part in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _layout(array: Array) -> Literal["CHW", "HWC", "NCHW", "NHWC"] | None:
    shape = array.shape[-3:]
    if array.ndim not in (3, 4) or array.size == 0:
        return None
    if shape[0] in _CHANNELS and min(shape[1:]) >= _SIDE:
        return "CHW" if array.ndim == 3 else "NCHW"
    if shape[2] in _CHANNELS and min(shape[:2]) >= _SIDE:
        return "HWC" if array.ndim == 3 else "NHWC"
    return None
