import pytest
import torch

from kerastorch import health

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_what_is_not_finite_on_the_gpu_is_named():
    tensors = {name: torch.ones(100_000, dtype=torch.float16, device="cuda") for name in "abc"}
    assert health.first_nonfinite(tensors) is None
    tensors["b"][5] = torch.inf
    tensors["c"][5] = torch.nan
    assert health.first_nonfinite(tensors) == "b"
