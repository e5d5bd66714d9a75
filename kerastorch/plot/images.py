"""Any kind of image -> numbers from 0 to 1 that can be seen, and a grid of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kerastorch.errors import DataError, needs

_CHANNELS = (1, 3, 4)
RIGHT, WRONG = "#00704F", "#C62828"


def is_image(value: Any) -> bool:
    """Whether it is a picture of PIL, or a tensor or an array that may be one."""
    return _is_pil(value) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim >= 2)


def _is_pil(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "convert")


def visible(images: Sequence[Any]) -> list[Any]:
    """Return arrays `(H, W, C)` with values from 0 to 1.

    Bytes and values from 0 to 1 are shown as they are. Normalised images are scaled back, each channel by its smallest
    and its largest value among all these images together, which comes close to what they were.

    Args:
        images: Tensors or arrays `(H, W)`, `(C, H, W)` or `(H, W, C)` with 1, 3 or 4 channels, or pictures of PIL.

    Raises:
        DataError: One of them has another shape.
    """
    arrays = [_array(image) for image in images]
    for channels in {array.shape[2] for array in arrays}:
        alike = [place for place, array in enumerate(arrays) if array.shape[2] == channels]
        for place, array in zip(alike, _scaled([arrays[place] for place in alike]), strict=True):
            arrays[place] = array
    return arrays


def _array(image: Any) -> Any:
    if _is_pil(image):
        image = np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB", "PA") else image)
    array = image.detach().cpu().float().numpy() if _is_float(image) else np.asarray(image)
    squeezed = array[None] if array.ndim == 2 else array
    while squeezed.ndim > 3 and 1 in squeezed.shape:
        squeezed = squeezed.squeeze(squeezed.shape.index(1))
    if squeezed.ndim == 3 and squeezed.shape[0] in _CHANNELS:
        squeezed = squeezed.transpose(1, 2, 0)
    if squeezed.ndim != 3 or squeezed.shape[2] not in _CHANNELS:
        raise DataError(
            "An image is (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels; "
            f"got the shape {tuple(array.shape)}. Reshape it, or choose channels: image[:3]."
        )
    if squeezed.dtype == np.uint8:
        return squeezed / np.float32(255)
    return np.nan_to_num(squeezed.astype(np.float32), posinf=0, neginf=0)


def _is_float(image: Any) -> bool:
    return isinstance(image, Tensor) and image.is_floating_point()  # NumPy knows no bfloat16


def _scaled(arrays: list[Any]) -> list[Any]:
    flat = np.concatenate([array.reshape(-1, array.shape[2]) for array in arrays])
    low, high = flat.min(0), flat.max(0)
    if low.min() >= 0:  # black stays black
        low, high = np.zeros_like(low), np.full_like(high, high.max())
        if high.max() <= 1:
            return arrays
    return [(array - low) / np.maximum(high - low, 1e-12) for array in arrays]


def grid(images: Sequence[Any], titles: Sequence[str], right: Sequence[bool | None], *, purpose: str) -> Any:
    """Draw images in rows.

    Args:
        images: As for `visible`.
        titles: What is written above each.
        right: False for a frame that catches the eye.
        purpose: Who draws, for the message where matplotlib is missing.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    needs("matplotlib", purpose=purpose)
    from kerastorch.curves import picture

    columns = _columns(len(images))
    rows = math.ceil(len(images) / columns)
    size = 1.9 if columns <= 4 else max(9 / columns, 1.2)
    lines = max(title.count("\n") + 1 for title in titles)
    figure = picture.new(size * columns, (size + 0.18 * lines) * rows)
    for place, (array, title, is_right) in enumerate(zip(visible(images), titles, right, strict=True), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(array, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        style: dict[str, Any] = {} if is_right is None else {"color": RIGHT if is_right else WRONG}
        weight = "bold" if is_right is False else "normal"
        axes.set_title(title, fontsize=10 if columns <= 5 else 8, pad=4, parse_math=False, fontweight=weight, **style)
        axes.spines[:].set(visible=is_right is False, color=WRONG, linewidth=3)
    return figure


def _columns(count: int) -> int:
    """Return how many columns are nearly square, and leave no gap in the last row if that is possible."""
    least = math.ceil(math.sqrt(count))
    return next((columns for columns in range(least, 2 * least) if count % columns == 0), least)
