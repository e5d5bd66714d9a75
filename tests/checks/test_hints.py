import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import kerastorch as kt
from kerastorch.checks import hint
from kerastorch.data import Batch


class Two(nn.Module):
    def forward(self, a, b):
        return a + b


class Remembers(nn.Module):
    """An RNN that carries its state from batch to batch, with its graph."""

    def __init__(self):
        super().__init__()
        self.rnn, self.state = nn.RNN(3, 1, batch_first=True), None

    def forward(self, x):
        output, self.state = self.rnn(x, self.state)
        return output[:, -1]


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype)


def grown(module, count):
    """Batch normalization before a last layer."""
    return nn.Sequential(module, nn.BatchNorm1d(count), nn.Linear(count, 1))


MISTAKES = {
    "bytes for a linear layer": (
        nn.Linear(4, 1),
        zeros(6, 4, dtype=torch.uint8),
        "The weights of the net are float32, the inputs uint8. Type x.float() / 255 for pixels, or",
    ),
    "whole numbers for a linear layer": (
        nn.Linear(4, 1),
        zeros(6, 4, dtype=torch.long),
        "The weights of the net are float32, the inputs int64. Type x.float(), or x.astype('float32') for arrays.",
    ),
    "bytes for a convolution": (
        nn.Conv2d(1, 2, 3),
        zeros(6, 1, 8, 8, dtype=torch.uint8),
        "The weights of the net are float32, the inputs uint8.",
    ),
    "channels at the end": (
        nn.Conv2d(3, 2, 3),
        zeros(6, 8, 8, 3),
        "takes 3 channels, in dimension 1; the inputs are float32 (2, 8, 8, 3) cpu. They end with the channels: type "
        "x.permute(0, 3, 1, 2).",
    ),
    "no channels": (nn.Conv2d(1, 2, 3), zeros(6, 8, 8), "They have no dimension for it: type x[:, None]."),
    "flat images": (nn.Conv2d(1, 2, 3), zeros(6, 64), "Type x.reshape(-1, 1, 28, 28), with the height and width"),
    "other channels": (nn.Conv2d(3, 2, 3), zeros(6, 4, 8, 8), "The first convolution takes 3 channels"),
    "images for a linear layer": (nn.Linear(64, 1), zeros(6, 1, 8, 8), "Put nn.Flatten() before it."),
    "other features": (
        nn.Linear(10, 1),
        zeros(6, 8),
        "nn.Linear(10, ...) was given 8 features. Type nn.Linear(8, ...)",
    ),
    "one input for two": (Two(), zeros(6, 1), "several inputs are ((a, b), y) or ({'a': a, 'b': b}, y)"),
    "a dict for a layer": (nn.Linear(3, 1), {"a": zeros(6, 3)}, "a dict over its names"),
    "small images": (nn.Conv2d(1, 1, 5), zeros(6, 1, 3, 3), "The images are smaller than the layers need."),
    "fractions for an embedding": (nn.Embedding(4, 1), zeros(6), "nn.Embedding takes whole numbers. Type x.long()."),
    "an index too large": (nn.Embedding(4, 1), zeros(6, dtype=torch.long) + 4, "not below the num_embeddings"),
    "a last batch of one": (grown(nn.Linear(3, 2), 2), zeros(5, 3), "Leave out a last batch of one"),
    "a state with its graph": (Remembers(), zeros(4, 2, 3), "Type state.detach() where it is kept."),
}


def notes(error):
    return "\n".join(getattr(error.value, "__notes__", []))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_that_torch_finds_comes_with_what_to_type(name, capfd):
    net, x, text = MISTAKES[name]
    net.spare = nn.Parameter(torch.zeros(1))  # something to train
    y = torch.zeros(6 if isinstance(x, dict) else len(x), 1)
    model = kt.Model(net)
    model.compile("mse", "sgd")
    with pytest.raises(Exception) as error:
        model.fit(1, (x, y), batch_size=2, verbose=0)
    assert text in (notes(error) or capfd.readouterr().err)


def test_labels_of_later_batches_that_are_out_of_range_are_explained(capfd):
    model = kt.Model(nn.Linear(3, 4))
    model.compile("cross_entropy", "sgd")
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    with pytest.raises(IndexError) as error:
        model.fit(1, (torch.zeros(6, 3), labels), batch_size=2, shuffle=False, verbose=0)
    told = notes(error) or capfd.readouterr().err
    assert "batch 3 of its data" in told
    assert "The last layer needs the largest label + 1." in told


def test_samples_of_different_shapes_are_explained(capfd):
    model = kt.Model(nn.Linear(3, 4))
    model.compile("cross_entropy", "sgd")
    with pytest.raises(RuntimeError) as error:
        model.fit(1, DataLoader([(torch.zeros(3), 0), (torch.zeros(4), 1)], 2), verbose=0)
    assert "transforms.Resize((32, 32))" in (notes(error) or capfd.readouterr().err)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: device-side assert triggered", "model.compile(..., device='cpu') in a new process"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "Use a smaller batch_size"),
        ("default_collate: batch must contain tensors; found <class 'PIL.Image.Image'>", "transforms.ToTensor()"),
        ("default_collate: batch must contain tensors; found <class 'NoneType'>", "gives None for some sample"),
    ],
)
def test_what_needs_another_machine_is_known_by_its_text(text, expected):
    assert expected in str(hint(RuntimeError(text), None, nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("text", "x"),
    [
        ("something that nobody knows", torch.zeros(2)),
        ("mat1 and mat2 must have the same dtype", torch.zeros(2)),  # not of the inputs
        ("expected input[2, 3] to have 3 channels", {"a": torch.zeros(2)}),
        ("Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [1]", None),
        ("f() missing 1 required positional argument: 'x'", None),
    ],
)
def test_there_is_no_hint_where_nothing_is_known(text, x):
    batch = None if x is None else Batch(0, x)
    assert hint(RuntimeError(text), batch, nn.Linear(1, 1)) is None


def test_an_error_of_our_own_needs_no_hint():
    assert hint(kt.errors.DataError("out of memory"), None, nn.Linear(1, 1)) is None


@pytest.mark.parametrize("place", ["metric", "loss"])
def test_a_function_of_the_users_own_with_other_arguments_is_no_matter_of_inputs(place, capfd):
    model = kt.Model(nn.Linear(3, 1))
    if place == "metric":
        model.compile("mse", "sgd", {"wrong": lambda output: 0.0})
    else:
        model.compile(lambda output: output.mean(), "sgd")
    with pytest.raises(TypeError) as error:
        model.fit(1, (torch.zeros(4, 3), torch.zeros(4, 1)), verbose=0)
    assert "A tuple is spread" not in (notes(error) or capfd.readouterr().err)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("Parameter indices which did not receive grad for rank 1: 2 3", "on 2.weight, 2.bias."),
        ("Parameters which did not receive grad for rank 0: 2.bias, 2.weight", "on 2.bias, 2.weight."),
        (
            "Parameter indices which did not receive grad for rank 0: 0 1 2 3 4 5",
            "on 0.weight, 0.bias, 2.weight, 2.bias and 2 others.",
        ),
        ("", "on all parameters of the net."),
    ],
)
def test_parameters_that_ddp_misses_are_named(told, named):
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False), nn.Linear(1, 1), nn.Linear(1, 1))
    text = (
        f"Expected to have finished reduction in the prior iteration before starting a new one.\n{told}\n In addition"
    )
    said = hint(RuntimeError(text), None, net)
    assert f"The loss did not depend {named} Use them in forward" in said
    assert "strategy=kt.DDP(find_unused_parameters=True))" in said
