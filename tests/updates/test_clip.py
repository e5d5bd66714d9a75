import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from kerastorch.updates import clip_norm, clip_value

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(), (0,), (3,), (5, 7), (2, 3, 4, 5), (100, 30)]


def pair(gradients):
    """Return parameters with copies of the gradients, and the gradients."""
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        made.append(parameter)
    return made, gradients


def check(parameters, gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(parameter.grad.nan_to_num(7.0), gradient.nan_to_num(7.0))


def drawn(dtypes, shapes, scale, seed):
    torch.manual_seed(seed)
    pairs = zip(shapes, (dtypes * len(shapes))[: len(shapes)], strict=True)
    return [(torch.randn(shape) * scale).to(dtype) for shape, dtype in pairs]


@settings(max_examples=150, deadline=None)
@given(
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=2),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e3, math.inf, math.nan]),
    limit=st.sampled_from([1e-3, 1, 1.0, 5.0, 0.1, math.inf]),
    seed=st.integers(0, 1000),
)
def test_clipping_is_that_of_torch(dtypes, shapes, scale, limit, seed):
    parameters, gradients = pair(drawn(dtypes, shapes, scale, seed))
    expected, norm = clip_grad_norm_(parameters, limit), clip_norm(gradients, limit)
    assert norm.dtype == expected.dtype and norm.shape == ()
    assert torch.equal(norm, expected) or (norm.isnan() and expected.isnan())
    check(parameters, gradients)
    parameters, gradients = pair(drawn(dtypes, shapes, scale, seed))
    clip_grad_value_(parameters, limit)
    clip_value(gradients, limit)
    check(parameters, gradients)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_gradients_of_a_layout_or_a_class_of_their_own(limit):
    class Own(torch.Tensor):
        pass

    for gradients in ([torch.ones(3, 4).t(), torch.ones(2, 2).as_subclass(Own)], [torch.ones(4, 4)[::2, ::2]]):
        parameters = [nn.Parameter(torch.zeros(gradient.shape)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        assert torch.equal(clip_norm(gradients, limit), clip_grad_norm_(parameters, limit))
        check(parameters, gradients)
        clip_value(gradients, limit / 100)
        clip_grad_value_(parameters, limit / 100)
        check(parameters, gradients)


def test_gradients_that_have_a_graph_are_clipped_outside_of_it():
    weight = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
    clip_norm([gradient], 1.0)
    assert torch.is_grad_enabled()


def test_no_gradients_at_all():
    assert clip_norm([], 1.0).item() == clip_grad_norm_([], 1.0).item() == 0
    clip_value([], 1.0)
