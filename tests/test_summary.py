import contextlib
import copy
import io
import itertools
import random
import re
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules import module as hook_registry

from kerastorch.summary import summary

TORCHKERAS = """\
----------------------------------------------------------------
        Layer (type)               Output Shape         Param #
================================================================
            Conv2d-1           [-1, 32, 30, 30]             320
         MaxPool2d-2           [-1, 32, 15, 15]               0
            Conv2d-3           [-1, 64, 11, 11]          51,264
         MaxPool2d-4             [-1, 64, 5, 5]               0
         Dropout2d-5             [-1, 64, 5, 5]               0
 AdaptiveMaxPool2d-6             [-1, 64, 1, 1]               0
           Flatten-7                   [-1, 64]               0
            Linear-8                   [-1, 32]           2,080
              ReLU-9                   [-1, 32]               0
           Linear-10                   [-1, 10]             330
================================================================
Total params: 53,994
Trainable params: 53,994
Non-trainable params: 0
----------------------------------------------------------------
Input size (MB): 0.003906
Forward/backward pass size (MB): 0.359695
Params size (MB): 0.205971
Estimated Total Size (MB): 0.569572
----------------------------------------------------------------"""


def summarize(net, *args, **kwargs):
    printed = []
    assert summary(net, *args, print_fn=printed.append, **kwargs) is None
    assert len(printed) == 1
    return printed[0]


def rows(text):
    lines = text.splitlines()
    first, last = (index for index, line in enumerate(lines) if line.startswith("===="))
    return [re.split(r" {2,}|(?<=[\].]) (?=\()|(?<=--) ", line.strip()) for line in lines[first + 1 : last]]


def figures(text):
    """The eight lines below the rows, as numbers."""
    return {
        name: float(number.replace(",", "")) for name, number in re.findall(r"^(\S.*): ([\d.,]+)$", text, re.MULTILINE)
    }


def tree_rows(text):
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [re.split(r" {2,}", line.lstrip("│├└─ ")) for line in lines]


def tree_totals(text):
    return dict(re.split(r" {2,}", line.strip())[:2] for line in text.partition("\n\n")[2].splitlines())


def cnn_layers():
    return [
        nn.Conv2d(1, 32, kernel_size=3),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(32, 64, kernel_size=5),
        nn.MaxPool2d(2, 2),
        nn.Dropout2d(0.1),
        nn.AdaptiveMaxPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    ]


class CnnModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(cnn_layers())

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


class Function(nn.Module):
    """A net from a function and its parts."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_state(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def hook_counts(net):
    local = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()]
    return [*local, len(hook_registry._global_forward_hooks), len(hook_registry._global_forward_pre_hooks)]


@pytest.mark.parametrize(
    "net", [nn.Sequential(*cnn_layers()), CnnModel(), Wrapper(CnnModel())], ids=["sequential", "subclass", "wrapped"]
)
def test_the_table_of_torchkeras_byte_for_byte(net):
    assert summarize(net, input_shape=(1, 32, 32)) == TORCHKERAS


def test_the_table_is_printed_by_default(capsys):
    summary(CnnModel(), (1, 32, 32))
    assert capsys.readouterr().out == TORCHKERAS + "\n"


def test_the_example_of_the_docstring(capsys):
    summary(nn.Linear(8, 4), input_shape=(8,))
    example = summary.__doc__.partition(">>> summary(nn.Linear(8, 4), input_shape=(8,))\n")[2]
    assert capsys.readouterr().out.split() == example.split()


def test_batch_size_is_shown_and_sizes_are_for_that_many_samples():
    text = summarize(CnnModel(), (1, 32, 32), batch_size=32)
    assert rows(text)[0] == ["Conv2d-1", "[32, 32, 30, 30]", "320"]
    assert figures(text)["Input size (MB)"] == 0.125
    assert figures(text)["Forward/backward pass size (MB)"] == round(32 * 2 * 47146 * 4 / 1024**2, 6)


def test_a_frozen_layer_is_not_trainable():
    net = CnnModel()
    net.layers[2].requires_grad_(False)
    found = figures(summarize(net, (1, 32, 32)))
    assert (found["Trainable params"], found["Non-trainable params"]) == (2730, 51264)


def test_a_long_name_makes_the_table_wider_and_is_not_cut():
    name = "AnEncoderWithAVeryLongClassNameIndeed"
    text = summarize(type(name, (nn.Linear,), {})(2, 3), (2,))
    assert rows(text) == [[f"{name}-1", "[-1, 3]", "9"]]
    lines = text.splitlines()
    assert len(lines[0]) == len(lines[2]) == 64 - 20 + len(name) + 2
    assert len(lines[1]) == len(lines[3]) == len(lines[0]) - 1


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6), bias=st.booleans(), frozen=st.booleans())
def test_totals_of_any_mlp(sizes, bias, frozen):
    layers = [nn.Linear(width, height, bias=bias) for width, height in itertools.pairwise(sizes)]
    layers[0].requires_grad_(not frozen)
    net = nn.Sequential(*layers)
    before = torch.get_rng_state()
    text = summarize(net, (sizes[0],))
    total = sum(parameter.numel() for parameter in net.parameters())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert torch.equal(before, torch.get_rng_state())
    assert [int(row[2].replace(",", "")) for row in rows(text)] == [
        sum(parameter.numel() for parameter in layer.parameters()) for layer in layers
    ]
    sizes_in_mb = [sizes[0] * 4 / 1024**2, 2 * sum(sizes[1:]) * 4 / 1024**2, total * 4 / 1024**2]
    assert list(figures(text).values()) == [
        total,
        trainable,
        total - trainable,
        *(float(f"{size:.6f}") for size in [*sizes_in_mb, sum(sizes_in_mb)]),
    ]


def noisy(net, x):
    x = net.norm(nn.functional.dropout(net.fc(x), training=True) + random.random() + float(np.random.rand()))
    return x + torch.rand(3)


def unload(package):
    names = [name for name in sys.modules if name.split(".")[0] == package]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def rich_not_imported():
    kept = unload("rich")
    yield
    unload("rich")
    sys.modules.update(kept)


@pytest.mark.usefixtures("rich_not_imported")  # its first import draws a random number
@pytest.mark.parametrize("style", ["table", "rich"])
def test_random_numbers_are_untouched(style):
    net = Function(noisy, fc=nn.Linear(4, 3), norm=nn.BatchNorm1d(3))
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    summarize(net, (4,), style=style)
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(), numpy)
    assert torch.equal(torch.get_rng_state(), pytorch)


@pytest.mark.parametrize("style", ["table", "rich"])
@pytest.mark.parametrize("fails", [False, True])
def test_flags_state_hooks_and_gradients_are_untouched(style, fails):
    def forward(net, x):
        x = net.drop(net.frozen(net.norm(net.fc(x))))
        if fails:
            raise RuntimeError("no")
        return x

    net = Function(forward, fc=nn.Linear(4, 3), norm=nn.BatchNorm1d(3), frozen=nn.BatchNorm1d(3), drop=nn.Dropout())
    net.frozen.eval()
    called = []
    net.fc.register_forward_hook(lambda *_: called.append(1))
    flags, before, hooks = [part.training for part in net.modules()], state(net), hook_counts(net)
    with pytest.raises(RuntimeError, match="no") if fails else contextlib.nullcontext():
        summarize(net, (4,), style=style)
    assert [part.training for part in net.modules()] == flags == [True, True, True, False, True]
    assert same_state(before, net.state_dict())
    assert hook_counts(net) == hooks
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert called  # the user's own hooks run as always


@pytest.mark.parametrize("fails", [False, True])
def test_what_forward_changes_in_the_net_is_put_back(fails):
    def forward(net, x):
        net.seen += 1
        net.total = net.total + x.sum()
        net.register_buffer("cache", x)
        net.scale = nn.Parameter(torch.zeros(1))
        if not hasattr(net, "fc"):
            net.fc = nn.Linear(4, 3)
        if fails:
            raise RuntimeError("no")
        return net.fc(x)

    net = Function(forward, scale=nn.Parameter(torch.ones(1)))
    net.register_buffer("seen", torch.zeros(()))
    net.register_buffer("total", torch.zeros(()))
    net.register_buffer("constant", torch.ones(2))
    seen, total, scale, version = net.seen, net.total, net.scale, net.constant._version
    with pytest.raises(RuntimeError, match="no") if fails else contextlib.nullcontext():
        assert rows(summarize(net, (4,))) == [["Linear-1", "[-1, 3]", "15"], ["Function-2", "[-1, 3]", "1"]]
    assert list(net.state_dict()) == ["scale", "seen", "total", "constant"]
    assert net.seen is seen
    assert net.total is total
    assert net.scale is scale
    assert seen == total == 0
    assert net.constant._version == version  # graphs that hold it stay valid


def test_a_buffer_made_in_inference_mode():
    net = nn.Linear(2, 2)
    with torch.inference_mode():
        net.register_buffer("constant", torch.ones(2))
    assert rows(summarize(net, (2,))) == [["Linear-1", "[-1, 2]", "6"]]


def test_an_in_place_layer_leaves_the_users_batch_alone():
    batch = -torch.ones(4, 3)
    summarize(nn.ReLU(inplace=True), input_data=batch)
    assert torch.equal(batch, -torch.ones(4, 3))


def test_the_inputs_are_the_same_every_time():
    seen = []
    net = Function(lambda _, a, b: seen.append((a, b)))
    summarize(net, [(3,), (3,)])
    summarize(net, [(3,), (3,)])
    (a, b), (again, _) = seen
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert a.min() >= 0
    assert a.max() < 1


def test_a_leaf_net_has_one_row():
    assert rows(summarize(nn.Linear(8, 4), (8,))) == [["Linear-1", "[-1, 4]", "36"]]


def test_a_net_without_parameters_or_submodules():
    text = summarize(Function(lambda _, x: x.flatten(1)), (2, 3))
    assert rows(text) == [["Function-1", "[-1, 6]", "0"]]
    assert figures(text)["Total params"] == 0


def test_a_shared_layer_is_listed_at_each_call_and_counted_once():
    net = Function(lambda net, x: net.act(net.fc(net.act(net.fc(x)))), fc=nn.Linear(4, 4), act=nn.ReLU())
    text = summarize(net, (4,))
    assert rows(text) == [
        ["Linear-1", "[-1, 4]", "20"],
        ["ReLU-2", "[-1, 4]", "0"],
        ["Linear-3", "[-1, 4]", "(recursive)"],
        ["ReLU-4", "[-1, 4]", "0"],
    ]
    assert "            Linear-3                    [-1, 4]     (recursive)\n" in text
    assert figures(text)["Total params"] == 20
    assert figures(text)["Forward/backward pass size (MB)"] == round(2 * 4 * 4 * 4 / 1024**2, 6)
    assert tree_rows(summarize(net, (4,), style="rich")) == [
        ["Function", "[-1, 4]", "20", "yes", "32", "16 B"],
        ["fc Linear", "[-1, 4]", "20", "yes", "16", "16 B"],
        ["act ReLU", "[-1, 4]", "0", "-", "0", "16 B"],
        ["fc Linear", "[-1, 4]", "(recursive)", "yes", "16", "16 B"],
        ["act ReLU", "[-1, 4]", "0", "-", "0", "16 B"],
    ]


def test_tied_weights_are_counted_once():
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False), nn.Linear(20, 8))
    net[1].weight = net[0].weight
    text = summarize(net, (7,), torch.long)
    assert rows(text) == [
        ["Embedding-1", "[-1, 7, 8]", "160"],
        ["Linear-2", "[-1, 7, 20]", "(tied)"],
        ["Linear-3", "[-1, 7, 8]", "168"],
    ]
    assert figures(text)["Total params"] == 328


def test_a_shared_block():
    net = Function(lambda net, x: net.block(net.block(x)), block=nn.Sequential(nn.Linear(4, 4)))
    found = tree_rows(summarize(net, (4,), style="rich"))
    assert [row[:3] for row in found] == [
        ["Function", "[-1, 4]", "20"],
        ["block Sequential", "[-1, 4]", "20"],
        ["0 Linear", "[-1, 4]", "20"],
        ["block Sequential", "[-1, 4]", "(recursive)"],
        ["0 Linear", "[-1, 4]", "(recursive)"],
    ]


def test_a_parameter_held_by_a_container_has_a_row():
    block = Function(lambda net, x: net.fc(x) * net.scale, fc=nn.Linear(4, 3), scale=nn.Parameter(torch.ones(3)))
    parts = nn.ParameterList([torch.ones(5), torch.ones(2)])
    text = summarize(Function(lambda net, x: net.block(x) + net.parts[0].sum(), block=block, parts=parts), (4,))
    assert rows(text) == [
        ["Linear-1", "[-1, 3]", "15"],
        ["Function-2", "[-1, 3]", "3"],
        ["ParameterList-3", "--", "7"],
    ]
    assert figures(text)["Total params"] == 25
    assert figures(text)["Forward/backward pass size (MB)"] == round(2 * 3 * 4 / 1024**2, 6)  # containers do not count


def test_layers_that_are_never_called_are_shown_where_they_belong():
    net = Function(
        lambda net, x: net.body.used(x),  # the container itself is not called
        body=Function(None, used=nn.Linear(4, 4), bias=nn.Parameter(torch.zeros(4)), other=nn.Linear(2, 2)),
        head=nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
        act=nn.ReLU(),
    )
    text = summarize(net, (4,))
    assert rows(text) == [
        ["Linear-1", "[-1, 4]", "20"],
        ["Function-2", "--", "4"],
        ["Linear-3", "--", "6"],
        ["Sequential-4", "--", "15"],
    ]
    assert figures(text)["Total params"] == 45
    assert [row[:3] for row in tree_rows(summarize(net, (4,), style="rich"))] == [
        ["Function", "[-1, 4]", "45"],
        ["body.used Linear", "[-1, 4]", "20"],
        ["body Function", "not called", "4"],
        ["body.other Linear", "not called", "6"],
        ["head Sequential", "not called", "15"],
    ]


def test_never_called_below_a_called_block_and_in_two_places():
    spare = nn.Linear(2, 2)
    block = Function(lambda net, x: net.fc(x), fc=nn.Linear(4, 4), spare=spare)
    net = Function(lambda net, x: net.block(x), block=block, again=spare)
    found = tree_rows(summarize(net, (4,), style="rich"))
    assert [row[:3] for row in found] == [
        ["Function", "[-1, 4]", "26"],
        ["block Function", "[-1, 4]", "26"],
        ["fc Linear", "[-1, 4]", "20"],
        ["spare Linear", "not called", "6"],
    ]


def test_a_call_that_raises_inside_forward_and_is_caught():
    def forward(net, x):
        try:
            net.block(x)
        except RuntimeError:
            return net.good(x)

    block = Function(lambda net, x: net.bad(x), bad=nn.Linear(9, 9))
    net = Function(forward, block=block, good=nn.Linear(4, 2))
    assert rows(summarize(net, (4,))) == [
        ["Linear-1", "[-1, 2]", "10"],
        ["Linear-2", "--", "90"],
    ]


def test_layers_in_a_plain_list_are_no_part_of_the_net():
    hidden = [nn.Linear(4, 2)]
    assert rows(summarize(Function(lambda _, x: hidden[0](x)), (4,))) == [["Function-1", "[-1, 2]", "0"]]


def test_a_parametrized_layer_is_one_layer():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)))
    assert rows(summarize(net, (8,))) == [["ParametrizedLinear-1", "[-1, 4]", "40"]]


def test_a_compiled_net_shows_its_layers():
    net = nn.Sequential(nn.Linear(3, 4), torch.compile(nn.Linear(4, 5), backend="eager"))
    for style in ("table", "rich"):
        text = summarize(net, (3,), style=style)
        assert "Total params: 41" in text or tree_totals(text)["Parameters"] == "41"
    assert rows(summarize(torch.compile(net), (3,))) == [["Linear-1", "[-1, 4]", "16"], ["Linear-2", "[-1, 5]", "25"]]


@pytest.mark.filterwarnings("ignore:`torch.jit:")
def test_a_scripted_net():
    net = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    assert rows(summarize(net, (3,))) == [["RecursiveScriptModule-1", "[-1, 4]", "16"]]


Pair = namedtuple("Pair", "first second")


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class ModelOutput(OrderedDict):
    """As model libraries return it: a dict that takes its fields as keywords."""


@pytest.mark.parametrize(
    ("make", "shown", "tensors"),
    [
        (lambda x: (x, x), "[-1, 4], ...", 2),
        (lambda x: [x], "[-1, 4]", 1),
        (lambda x: {"a": x, "b": [x, None]}, "[-1, 4], ...", 2),
        (lambda x: Pair(x, 1), "[-1, 4]", 1),
        (Output, "[-1, 4]", 1),
        (lambda x: [Output(x, x)], "[-1, 4], ...", 2),
        (lambda x: ModelOutput(logits=x), "[-1, 4]", 1),
        (lambda x: None, "--", 0),
        (lambda x: "text", "--", 0),
        (lambda x: torch.nested.nested_tensor([x[0]], layout=torch.jagged), "--", 0),
        (lambda x: x.mean(), "[]", 0.125),
        (lambda x: x.mean(0), "[-1]", 0.5),
    ],
)
def test_outputs_of_any_kind(make, shown, tensors):
    text = summarize(Function(lambda _, x: make(x)), (4,))
    assert rows(text) == [["Function-1", shown, "0"]]
    assert figures(text)["Forward/backward pass size (MB)"] == float(f"{2 * tensors * 4 * 4 / 1024**2:.6f}")


def test_a_dict_that_moves_itself():
    class Encoding(dict):
        def to(self, device):
            raise AssertionError

    assert rows(summarize(Function(lambda _, x: Encoding(ids=x)), (4,))) == [["Function-1", "[-1, 4]", "0"]]


def test_an_lstm_in_a_net():
    net = Function(
        lambda net, x: net.fc(net.rnn(net.embed(x))[0][:, -1]),
        embed=nn.Embedding(30, 8),
        rnn=nn.LSTM(8, 16, num_layers=2, batch_first=True),
        fc=nn.Linear(16, 2),
    )
    assert rows(summarize(net, (5,), torch.int64)) == [
        ["Embedding-1", "[-1, 5, 8]", "240"],
        ["LSTM-2", "[-1, 5, 16], ...", "3,840"],
        ["Linear-3", "[-1, 2]", "34"],
    ]
    multiply_adds = {row[0]: row[4] for row in tree_rows(summarize(net, (5,), torch.int64, style="rich"))}
    # 5 steps of two layers with 4 gates: inputs of 8 and 16 numbers, a state of 16
    assert multiply_adds["rnn LSTM"] == f"{5 * 4 * 16 * (8 + 16 + 16 + 16) / 1000:.2f} K"
    assert multiply_adds["fc Linear"] == "32"


def test_a_packed_sequence():
    packed = nn.utils.rnn.pack_sequence([torch.rand(5, 8), torch.rand(3, 8)])
    text = summarize(nn.GRU(8, 16), input_data=packed)
    assert rows(text) == [["GRU-1", "[-1, 16], ...", "1,248"]]
    assert figures(text)["Input size (MB)"] == round(8 * 8 * 4 / 2 / 1024**2, 6)  # of two samples


def test_multihead_attention_answers_for_its_output_projection():
    net = Function(lambda net, x: net.attention(x, x, x), attention=nn.MultiheadAttention(16, 2, batch_first=True))
    text = summarize(net, (5, 16))
    assert rows(text) == [["MultiheadAttention-1", "[-1, 5, 16], ...", "1,088"]]
    assert figures(text)["Total params"] == 1088


def test_a_transformer_encoder_layer_shows_all_its_layers():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    text = summarize(net, (5, 16))
    assert [row[0] for row in rows(text)[:8]] == [
        "MultiheadAttention-1",
        "Dropout-2",
        "LayerNorm-3",
        "Linear-4",
        "Dropout-5",
        "Linear-6",
        "Dropout-7",
        "LayerNorm-8",
    ]
    assert rows(text)[3] == ["Linear-4", "[-1, 5, 32]", "544"]
    assert len(rows(text)) == 16
    assert sum(int(row[2].replace(",", "")) for row in rows(text)) == figures(text)["Total params"] == 4448
    assert tree_rows(summarize(net, (5, 16), style="rich"))[1][0] == "layers.0 TransformerEncoderLayer"


def test_resnet34_has_the_known_figures():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        net = models.resnet34()
    text = summarize(net, (3, 224, 224), style="rich")
    found = tree_rows(text)
    assert tree_totals(text)["Parameters"] == "21,797,672"
    assert tree_totals(text)["Multiply-adds"] == "3.66 G"
    assert found[0][:5] == ["ResNet", "[-1, 1000]", "21,797,672", "yes", "3.66 G"]
    assert found[1] == ["conv1 Conv2d", "[-1, 64, 112, 112]", "9,408", "yes", "118.01 M", "3.06 MB"]
    assert found[-1] == ["fc Linear", "[-1, 1000]", "513,000", "yes", "512.00 K", "3.91 KB"]
    assert sum(row[0].endswith("Conv2d") for row in found) == 36
    assert figures(summarize(net, (3, 224, 224)))["Total params"] == 21_797_672


def add(net, a, b):
    return net.fc(torch.cat([a, b.float()], dim=1))


def test_several_inputs():
    net = Function(add, fc=nn.Linear(7, 2))
    for shapes in ([(4,), (3,)], ((4,), [3]), [torch.Size([4]), (3,)]):
        text = summarize(net, shapes)
        assert rows(text) == [["Linear-1", "[-1, 2]", "16"]]
        assert figures(text)["Input size (MB)"] == round((4 + 3) * 4 / 1024**2, 6)  # the sum, not the product


def test_inputs_by_name_with_dtypes_of_their_own():
    seen = {}

    def forward(net, *, input_ids, mask):
        seen.update(input_ids=input_ids, mask=mask)
        return net.embed(input_ids)

    net = Function(forward, embed=nn.Embedding(9, 4))
    shapes = {"input_ids": (6,), "mask": (6,)}
    text = summarize(net, shapes, {"mask": torch.bool, "input_ids": torch.LongTensor})
    assert rows(text) == [["Embedding-1", "[-1, 6, 4]", "36"]]
    assert figures(text)["Input size (MB)"] == round((6 * 8 + 6) / 1024**2, 6)
    assert torch.equal(seen["input_ids"], torch.zeros(2, 6, dtype=torch.int64))
    assert torch.equal(seen["mask"], torch.zeros(2, 6, dtype=torch.bool))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.FloatTensor, torch.float32),
        (torch.LongTensor, torch.int64),
        (torch.uint8, torch.uint8),
        (torch.complex64, torch.complex64),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes_old_and_new(given, expected):
    seen = []
    summarize(Function(lambda _, x: seen.append(x)), (3,), given)
    assert (seen[0].dtype, seen[0].shape) == (expected, (2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_floats_take_the_dtype_of_the_net(dtype):
    text = summarize(nn.Linear(4, 3).to(dtype), (4,))
    size = torch.empty((), dtype=dtype).element_size()
    assert figures(text)["Input size (MB)"] == round(4 * size / 1024**2, 6)
    assert figures(text)["Forward/backward pass size (MB)"] == round(2 * 3 * size / 1024**2, 6)
    assert figures(text)["Params size (MB)"] == round(15 * size / 1024**2, 6)


def test_one_dtype_for_each_input():
    seen = []
    summarize(Function(lambda _, *inputs: seen.extend(inputs)), [(3,), ()], [torch.float32, torch.int32])
    assert [(x.dtype, tuple(x.shape)) for x in seen] == [(torch.float32, (2, 3)), (torch.int32, (2,))]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (torch.ones(5, 4), [(5, 4)]),
        ((torch.ones(5, 4), torch.ones(5, 3)), [(5, 4), (5, 3)]),
        ({"x": torch.ones(5, 4)}, [(5, 4)]),
        ([torch.ones(5, 4), "text", 3], [(5, 4), None, None]),
        ("text", [None]),
        (torch.ones(()), [()]),
        (torch.ones(0, 4), [(0, 4)]),
    ],
)
def test_a_real_batch(data, expected):
    seen = []

    def forward(_, *args, **kwargs):
        seen.extend([*args, *kwargs.values()])
        return next((x for x in seen if isinstance(x, torch.Tensor)), None)

    text = summarize(Function(forward), input_data=data)
    assert [tuple(x.shape) if isinstance(x, torch.Tensor) else None for x in seen] == expected
    shape = next((shape for shape in expected if shape is not None), None)
    assert rows(text)[0][1] == ("--" if shape is None else str([-1, *shape[1:]] if shape else []))


def test_sizes_of_a_real_batch_are_for_one_sample():
    net = nn.Linear(4, 3)
    assert summarize(net, input_data=torch.ones(5, 4)) == summarize(net, (4,))
    assert summarize(net, input_data=torch.ones(5, 4), style="rich") == summarize(net, (4,), style="rich")


def test_a_net_on_the_meta_device():
    with torch.device("meta"):
        net = CnnModel()
    assert summarize(net, (1, 32, 32)) == TORCHKERAS
    assert summarize(net, input_data=torch.ones(3, 1, 32, 32)) == TORCHKERAS


def test_inputs_live_where_the_buffers_are():
    seen = []
    net = Function(lambda _, x: seen.append(x))
    net.register_buffer("table", torch.ones(3, device="meta"))
    summarize(net, (3,))
    assert seen[0].device.type == "meta"


def test_another_default_device_and_dtype():
    net = nn.Linear(4, 3)
    expected = summarize(net, (4,))
    with torch.device("meta"):
        assert summarize(net, (4,)) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert summarize(net, (4,)) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_net_for_one_sample_at_a_time():
    net = Function(lambda net, x: net.fc(x.view(1, 4)), fc=nn.Linear(4, 3))
    assert summarize(net, (4,)) == summarize(Function(lambda net, x: net.fc(x), fc=nn.Linear(4, 3)), (4,))


def lazy_net():
    return nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU())


def test_a_lazy_net_is_shown_but_not_initialised():
    net = lazy_net()
    before = torch.get_rng_state()
    assert rows(summarize(net, (7,))) == [
        ["LazyLinear-1", "[-1, 5]", "40"],
        ["LazyBatchNorm1d-2", "[-1, 5]", "10"],
        ["ReLU-3", "[-1, 5]", "0"],
    ]
    assert net[0].has_uninitialized_params()
    assert net[1].has_uninitialized_params()
    assert net.training
    assert torch.equal(before, torch.get_rng_state())
    assert net(torch.rand(4, 9)).shape == (4, 5)  # other than the summary's input


def test_a_lazy_layer_that_is_never_called():
    net = Function(lambda net, x: net.used(x), used=nn.Linear(4, 3), unused=nn.LazyLinear(3))
    text = summarize(net, (4,))
    assert rows(text) == [["Linear-1", "[-1, 3]", "15"], ["LazyLinear-2", "--", "(uninitialized)"]]
    assert figures(text)["Total params"] == 15


def test_a_lazy_net_that_cannot_be_copied():
    net = lazy_net()
    net.lock = (value for value in ())
    with pytest.raises(TypeError) as caught:
        summarize(net, (7,))
    assert "Call the net on a batch first." in notes(caught)


def notes(caught):
    return "\n".join(getattr(caught.value, "__notes__", []))


def test_no_input_and_both_inputs():
    with pytest.raises(ValueError, match="neither of input_shape and input_data: give one"):
        summarize(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="both of input_shape and input_data: give one"):
        summarize(nn.Linear(4, 3), (4,), input_data=torch.ones(2, 4))


@pytest.mark.parametrize(
    "shape",
    [4, "4", ("4",), (-1, 4), (0,), (None, 4), (4.0,), (True,), [(4,), 3], [(4,), "b"], {"x": 4}, {"x": (4, -1)}],
)
def test_what_is_no_shape(shape):
    with pytest.raises(ValueError, match="is no input_shape: give whole numbers above 0 without the batch dimension"):
        summarize(nn.Linear(4, 3), shape)


def test_numpy_integers_are_sizes():
    assert rows(summarize(nn.Linear(4, 3), (np.int64(4),))) == [["Linear-1", "[-1, 3]", "15"]]


@pytest.mark.parametrize("dtype", ["float32", None, np.float32, float, torch.Tensor])
def test_what_is_no_dtype(dtype):
    with pytest.raises(ValueError, match="is no input_dtype: give a dtype of torch"):
        summarize(nn.Linear(4, 3), (4,), dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ([(4,), (3,)], [torch.float32]),
        ({"a": (4,), "b": (3,)}, {"a": torch.float32}),
        ({"a": (4,)}, [torch.float32]),
    ],
)
def test_dtypes_that_do_not_match_the_shapes(shape, dtype):
    with pytest.raises(ValueError, match="give one dtype for all, or one for each"):
        summarize(nn.Linear(4, 3), shape, dtype)


def test_a_misspelt_style():
    with pytest.raises(ValueError, match=r"Unknown style 'tabel'. Did you mean 'table'\? Known: rich, table\."):
        summarize(nn.Linear(4, 3), (4,), style="tabel")
    with pytest.raises(ValueError, match=r"Unknown style None. Known: rich, table\."):
        summarize(nn.Linear(4, 3), (4,), style=None)


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_wrong_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}: give -1"):
        summarize(nn.Linear(4, 3), (4,), batch_size=batch_size)


def test_forward_raises_with_the_batch_dimension_in_the_shape():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        summarize(net, (32, 1, 28, 28))
    assert caught.value.__notes__ == [
        "summary called the net with (float32 (2, 32, 1, 28, 28) cpu). input_shape=(32, 1, 28, 28) is the shape of "
        "one sample, without the batch dimension. The dtype is input_dtype=torch.float32."
    ]


def test_forward_raises_with_named_inputs():
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'") as caught:
        summarize(nn.Linear(4, 3), {"y": (4,)})
    assert "summary called the net with {'y': float32 (2, 4) cpu}." in notes(caught)


def test_forward_raises_on_a_batch_with_targets():
    with pytest.raises(TypeError, match="positional argument") as caught:
        summarize(nn.Linear(4, 3), input_data=(torch.ones(5, 4), torch.ones(5)))
    assert caught.value.__notes__ == [
        "summary called the net with (float32 (5, 4) cpu, float32 (5,) cpu). "
        "input_data is what forward takes, without targets; a tuple is unpacked."
    ]


def test_the_users_traceback_stays():
    def forward(_, x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        summarize(Function(forward), (4,))
    assert caught.traceback[-1].name == "forward"
    assert caught.traceback[-1].path.name == "test_summary.py"
    assert caught.value.__cause__ is None


def partly_frozen():
    net = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(8, 4), nn.ReLU()), head=nn.Linear(4, 2)))
    net.body.requires_grad_(False)
    return net


PARTLY_FROZEN = """\
Layer               Output shape  Parameters  Trainable  Multiply-adds  Memory
──────────────────────────────────────────────────────────────────────────────
Sequential          [-1, 2]               46     partly             40     8 B
├─ body Sequential  [-1, 4]               36         no             32    16 B
│  ├─ 0 Linear      [-1, 4]               36         no             32    16 B
│  └─ 1 ReLU        [-1, 4]                0          -              0    16 B
└─ head Linear      [-1, 2]               10        yes              8     8 B

Parameters               46  184 B
  trainable              10
  frozen                 36
Multiply-adds            40  for one sample
Input                  32 B  for one sample
Outputs of the layers  40 B  for one sample"""


def test_the_tree():
    assert summarize(partly_frozen(), (8,), style="rich") == PARTLY_FROZEN


def test_no_control_codes_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    summary(partly_frozen(), (8,), style="rich")
    assert capsys.readouterr().out == PARTLY_FROZEN + "\n"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def shown_in_a_terminal(monkeypatch, columns, *, net=None):
    terminal = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", terminal)
    summary(net or partly_frozen(), (8,), style="rich")
    return terminal.getvalue()


def without_codes(text):
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()]


def test_a_terminal_gets_colours(monkeypatch):
    text = shown_in_a_terminal(monkeypatch, 100)
    assert "\x1b[36mSequential\x1b[0m" in text
    assert without_codes(text) == PARTLY_FROZEN.splitlines()


def test_a_terminal_does_not_change_what_print_fn_gets(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert summarize(partly_frozen(), (8,), style="rich") == PARTLY_FROZEN
    assert sys.stdout.getvalue() == ""


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        (78, "Layer               Output shape  Parameters  Trainable  Multiply-adds  Memory"),
        (77, "Layer               Output shape  Parameters  Trainable  Multiply-adds"),
        (60, "Layer               Output shape  Parameters  Multiply-adds"),
        (58, "Layer               Output shape  Parameters"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(monkeypatch, columns, header):
    lines = without_codes(shown_in_a_terminal(monkeypatch, columns))
    assert lines[0] == header
    assert any("A wider terminal" in line for line in lines) == (columns < 78)
    assert max(map(len, lines)) <= columns


def test_a_name_in_a_very_narrow_terminal_is_not_cut(monkeypatch):
    net = type("AVeryLongName" * 5, (nn.Linear,), {})(8, 2)
    lines = without_codes(shown_in_a_terminal(monkeypatch, 50, net=net))
    assert "AVeryLongName" * 5 in "".join(line.partition(" ")[0] for line in lines[2:-8])


def test_an_output_that_knows_ascii_only(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    summary(partly_frozen(), (8,), style="rich")
    sys.stdout.flush()
    table = str.maketrans("│├└─", "||`-")
    assert raw.getvalue().decode("ascii").splitlines() == PARTLY_FROZEN.translate(table).splitlines()


def test_large_numbers_have_units():
    with torch.device("meta"):
        net = nn.Linear(2**20, 2**21, bias=False)
    totals = tree_totals(summarize(net, (2**10, 2**20), style="rich"))
    assert totals["Multiply-adds"] == "2251.80 T"
    assert totals["Input"] == "4.00 GB"
    assert totals["Outputs of the layers"] == "8.00 GB"


def test_a_name_with_brackets_is_no_markup():
    net = nn.Sequential(OrderedDict([("[bold]", nn.ReLU())]))
    assert tree_rows(summarize(net, (4,), style="rich"))[1][0] == "[bold] ReLU"


def test_multiply_adds_do_not_depend_on_the_batch():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    for count in (1, 4):
        text = summarize(net, input_data=torch.ones(count, 3, 8, 8), style="rich")
        assert [row[4] for row in tree_rows(text)] == ["9.22 K", "7.78 K", "0", "1.44 K"]


@pytest.mark.parametrize("fused", [True, False])
def test_fused_recurrent_layers_are_counted(fused):
    # The CPU has a kernel of its own for a whole LSTM layer, the meta device has none
    net = nn.LSTM(8, 16, num_layers=2, bidirectional=True, device=None if fused else "meta")
    text = summarize(net, (5, 8), style="rich")
    per_step = 2 * 4 * 16 * ((8 + 16) + (32 + 16))
    assert tree_totals(text)["Multiply-adds"] == f"{5 * per_step / 1000:.2f} K"


def test_the_fused_stack_of_cuda_is_counted():
    from kerastorch.summary.trace import _fused_stack_flops

    shapes = [(64, 8), (64, 16), (64,), (64,)]
    assert _fused_stack_flops((5, 2, 8), shapes, 4, None) == 2 * 10 * 64 * (8 + 16)


def test_a_deep_copy_of_the_net_summarizes_alike():
    net = CnnModel()
    assert summarize(copy.deepcopy(net), (1, 32, 32)) == TORCHKERAS
