import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerastorch.callbacks.values import as_array, drawn, finite, grid, images, kind, number, numbers_in, plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "number"),
        (True, "number"),
        (np.float32(0.5), "number"),
        (torch.tensor([0.5]), "number"),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), "number"),
        ("text", "text"),
        (torch.rand(3, 8, 8), "images"),
        (torch.rand(5, 1, 28, 28), "images"),
        (np.zeros((28, 28, 3), np.uint8), "images"),
        (np.zeros((2, 28, 28, 4)), "images"),
        (torch.rand(3, 3, 3), "array"),
        (torch.rand(8, 8), "array"),
        (torch.rand(2, 8, 8), "array"),
        ([0.5, 1.0], "array"),
        (torch.zeros(0, 3, 8, 8), "array"),
        ([[1], [1, 2]], "unknown"),
        (["a", "b"], "unknown"),
        (None, "unknown"),
        (object(), "unknown"),
        (torch.zeros(2, dtype=torch.complex64), "unknown"),
    ],
)
def test_kinds(value, expected):
    assert kind(value) == expected


def test_a_figure_is_one():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    assert kind(figure) == "figure"
    assert as_array(figure) is None
    figure.subplots().plot([1, 2])
    assert drawn(figure).shape == (480, 640, 4)
    assert drawn(figure)[..., :3].min() < 50


def test_images_are_bytes_with_the_channels_last():
    picture = torch.zeros(3, 8, 9)
    picture[0], picture[1], picture[2] = 1.0, 0.5, math.nan
    made = images(picture)
    assert made.shape == (1, 8, 9, 3)
    assert made[0, 0, 0].tolist() == [255, 128, 0]
    assert images(np.full((8, 8, 1), 300))[0, 0, 0, 0] == 255
    assert images(torch.ones(2, 1, 8, 8, dtype=torch.bool)).max() == 255
    with pytest.raises(ValueError, match="no images"):
        images([1, 2])


def test_a_grid_holds_every_image_at_its_place():
    pictures = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(8, 1).repeat(8, 2)
    made = grid(pictures)
    assert made.shape == (16, 24, 1)
    assert made[::8, ::8, 0].tolist() == [[0, 1, 2], [3, 4, 0]]


def test_numbers():
    assert number(torch.tensor([2.0])) == 2.0
    assert numbers_in({"a": 1, "b": "x", "c": np.array([[3]]), "d": [1, 2]}) == {"a": 1.0, "c": 3.0}


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda inner: st.dictionaries(st.text(), inner) | st.lists(st.floats(), max_size=5),
)


@given(anything)
def test_whatever_is_plain_is_strict_json(value):
    try:
        made = plain(value)
    except TypeError:
        return
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_plain_values():
    assert plain({"a": torch.tensor([1.0, math.nan]), 2: np.int64(3)}) == {"a": [1.0, None], "2": 3}
    assert plain(math.inf) is None
    assert plain(np.float32(0.5)) == 0.5
    with pytest.raises(TypeError, match="20000 numbers are too many"):
        plain(torch.zeros(20_000))
    with pytest.raises(TypeError, match="object is no number"):
        plain(object())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_that_numpy_does_not_know_are_read(dtype):
    assert as_array(torch.tensor([0.5, 2.0]).to(dtype)).tolist() == [0.5, 2.0]


def test_sparse_tensors_are_read():
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert as_array(dense.to_sparse()).tolist() == dense.tolist()


def test_the_finite_numbers_of_a_value():
    assert finite(torch.tensor([[1.0, math.nan], [math.inf, -2.0]])).tolist() == [1.0, -2.0]
    assert finite([True, False]).tolist() == [1.0, 0.0]
