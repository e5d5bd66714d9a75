import pytest
import torch
from torch import nn

import kerastorch as kt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
MEGABYTE = 2**20


class Wide(nn.Module):
    """Holds 8 MB of activations for each sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x):
        wide = self.first(x).expand(-1, MEGABYTE).sin()
        return self.last(x) + wide.exp().mean(1, keepdim=True)


@pytest.fixture
def little_memory():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    used = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 512 * MEGABYTE) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def data(samples=256):
    x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


def fit(microbatch, batches):
    model = kt.Model(Wide())
    model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, lr=0.1), ["accuracy"], "cuda")
    history = model.fit(2, batches, verbose=0, microbatch=microbatch)
    return model, history


def test_a_batch_that_does_not_fit_is_split(little_memory):
    batches = [data()]
    with pytest.raises(torch.OutOfMemoryError):
        fit(None, batches)
    torch.cuda.empty_cache()
    (model, history), (twin, expected) = fit("auto", batches), fit(8, batches)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for value, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(value, other, atol=1e-4)
    assert len(model.predict(batches)) == 256
    assert model.evaluate(batches)["loss"] > 0


def test_the_largest_batch_that_fits_is_found(little_memory):
    model = kt.Model(Wide())
    model.compile("cross_entropy", "adam", device="cuda")
    sizes = []
    model.net.register_forward_pre_hook(lambda net, inputs: sizes.append(len(inputs[0])))
    model.fit(1, data(), batch_size="auto", verbose=0)
    assert 1 <= sizes[-1] <= 32
