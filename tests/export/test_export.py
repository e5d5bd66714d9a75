import contextlib
import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

import kerastorch as kt
from kerastorch.errors import CheckpointError, ExportError

HAS_ONNX = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)  # torch 2.6 and today's onnxscript disagree
SUFFIXES = [pytest.param(".onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="ONNX needs torch 2.7")), ".pt2"]
onnx_only = pytest.mark.skipif(not HAS_ONNX, reason="ONNX needs torch 2.7")
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    if request.param == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    return request.param


def net_of(forward, **parts):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
            for name, part in parts.items():
                setattr(self, name, part)

    Net.forward = forward
    torch.manual_seed(0)
    return Net()


def cnn():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*layers)


def whole_dict(self, batch):
    return {"scores": self.linear(batch["p"] + batch["q"]), "rest": (batch["p"].sum(1), batch["q"].argmax(1))}


def two(self, p, q=None):
    y = self.linear(p)
    return (y,) if q is None else (y, [y + self.linear(q)])


def pair(self, both):
    return self.linear(both[0] - both[1])


def star(self, *xs):
    return self.linear(xs[0] - xs[1])


def named(self, **xs):
    return self.linear(xs["a"] - xs["b"])


def names(ports):
    return [port.name for port in ports]


@pytest.mark.parametrize(
    ("forward", "data", "inputs", "outputs"),
    [
        pytest.param(whole_dict, {"p": X, "q": X}, ["p", "q"], ["scores", "rest_0", "rest_1"], id="whole dict"),
        pytest.param(two, {"q": X, "p": X + 1}, ["q", "p"], ["output_0", "output_1_0"], id="dict"),
        pytest.param(two, ((X, X + 1),), ["p", "q"], ["output_0", "output_1_0"], id="tuple"),
        pytest.param(two, X, ["p"], ["output_0"], id="one of two"),
        pytest.param(pair, ((X, X + 1),), ["both_0", "both_1"], ["output"], id="whole tuple"),
        pytest.param(star, ((X, X + 1),), ["xs_0", "xs_1"], ["output"], id="any number"),
        pytest.param(named, {"a": X, "b": X + 1}, ["a", "b"], ["output"], id="any names"),
    ],
)
def test_any_form_goes_in_and_out_as_of_the_net(suffix, tmp_path, forward, data, inputs, outputs):
    model = kt.Model(net_of(forward))
    told = model.export(tmp_path / f"net{suffix}", data)
    assert (names(told.inputs), names(told.outputs), told.samples) == (inputs, outputs, 20)
    loaded = kt.load_model(tmp_path / f"net{suffix}")
    for batch_size in (1, 7, 20):
        wanted, got = model.predict(data, batch_size=batch_size), loaded.predict(data, batch_size=batch_size)
        assert type(got) is type(wanted)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_a_trained_net_with_what_it_has_seen(suffix, tmp_path):
    x, y = torch.rand(50, 1, 8, 8), torch.arange(50) % 3
    model = kt.Model(cnn())
    model.compile("cross_entropy", "adam", ["accuracy"])
    model.fit(1, (x, y), verbose=0)
    model.classes = ["cat", "dog", "bird"]
    before = copy.deepcopy(model.state_dict())
    flags, randomness = [part.training for part in model.modules()], torch.get_rng_state()
    told = model.export(tmp_path / f"a/net{suffix}")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [part.training for part in model.modules()]
    assert torch.equal(randomness, torch.get_rng_state())
    assert (told.samples, told.on_given, told.path) == (0, None, tmp_path / f"a/net{suffix}")
    assert told.largest_difference == told.on_random < 1e-5
    assert str(told).startswith(
        f"net{suffix}: input float32 (batch, 1, 8, 8) -> output float32 (batch, 3); largest difference to the net: "
    )
    assert str(told).endswith(" on random inputs.")
    loaded = kt.load_model(tmp_path / f"a/net{suffix}")
    assert loaded.classes == ("cat", "dog", "bird")
    loaded.compile("cross_entropy", metrics=["accuracy"])
    assert loaded.evaluate((x, y)) == pytest.approx(model.evaluate((x, y)), abs=1e-5)
    again = copy.deepcopy(loaded)
    assert torch.equal(again.predict(x), loaded.predict(x))
    assert [file.name for file in (tmp_path / "a").iterdir()] == [f"net{suffix}"]


def test_given_data_are_compared(suffix, tmp_path):
    x, y = torch.rand(300, 1, 8, 8), torch.arange(300) % 3
    told = kt.Model(cnn()).export(tmp_path / f"net{suffix}", DataLoader(TensorDataset(x, y), 40, shuffle=True))
    assert told.samples == 256
    assert told.largest_difference == max(told.on_given, told.on_random)
    assert " on 256 given samples, " in str(told)


def test_a_shape_is_enough(suffix, tmp_path):
    told = kt.Model(net_of(two)).export(tmp_path / f"net{suffix}", input_shape=[(4,), (4,)], classes=["a", "b", "c"])
    assert [str(port) for port in told.inputs] == ["p float32 (batch, 4)", "q float32 (batch, 4)"]
    assert kt.load_model(tmp_path / f"net{suffix}").classes == ("a", "b", "c")


def test_shapes_by_name(tmp_path):
    told = kt.Model(net_of(whole_dict)).export(tmp_path / "net.pt2", input_shape={"p": (4,), "q": (4,)})
    assert names(told.inputs) == ["p", "q"]


def test_a_net_in_parts_is_gathered_first(tmp_path, monkeypatch):
    monkeypatch.setattr(kt.checkpoint, "is_sharded", lambda value: True)
    with pytest.raises(ExportError, match=r"in parts on several processes\. Type model.save"):
        kt.Model(nn.Linear(4, 3)).export(tmp_path / "net.pt2", X)


def test_whole_numbers_are_those_given_or_zeros(suffix, tmp_path):
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 2))
    ids = torch.randint(0, 9, (5, 6))
    model = kt.Model(net)
    assert model.export(tmp_path / f"net{suffix}", ids).notes == ()
    model.predict(ids)
    told = model.export(tmp_path / f"net{suffix}")
    assert told.inputs[0].dtype == "int64"
    assert "were zeros" in str(told)
    with pytest.raises(ExportError, match=r"fails with the inputs that were asked for.*give input_data"):
        model.export(tmp_path / f"net{suffix}", input_shape=(6,))


def test_batches_of_other_shapes_are_left_out(tmp_path):
    batches = [torch.rand(5, 6, 4), torch.rand(5, 7, 4)]
    told = kt.Model(nn.Linear(4, 2)).export(tmp_path / "net.pt2", batches)
    assert told.samples == 5
    assert "other shapes" in str(told)


def test_a_net_in_half_precision_is_written_in_float32(tmp_path):
    net = nn.Linear(4, 3).bfloat16()
    told = kt.Model(net).export(tmp_path / "net.pt2", X.bfloat16())
    assert (told.inputs[0].dtype, net.weight.dtype) == ("float32", torch.bfloat16)


def test_a_compiled_net_is_the_net_inside(tmp_path):
    net = nn.Linear(4, 3)
    model = kt.Model(torch.compile(net, backend="eager"))
    told = model.export(tmp_path / "net.pt2", X)
    assert names(told.inputs) == ["input"]
    assert torch.equal(kt.load_model(tmp_path / "net.pt2").predict(X), kt.Model(net).predict(X))


def test_a_model_of_ones_own_and_one_with_hooks(suffix, tmp_path):
    class Own(kt.Model):
        def forward(self, x):
            return self.net(x).relu()

    hooked = kt.Model(nn.Linear(4, 3))
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    for model in (Own(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))), hooked):
        model.export(tmp_path / f"net{suffix}", X)
        torch.testing.assert_close(kt.load_model(tmp_path / f"net{suffix}").predict(X), model.predict(X))


def test_buffers_and_inputs_that_forward_changes_are_as_before(tmp_path):
    def forward(self, x):
        self.count += 1
        x.mul_(2)
        return self.linear(x)

    net = net_of(forward)
    net.register_buffer("count", torch.zeros(()))
    x = X.clone()
    kt.Model(net).export(tmp_path / "net.pt2", x)
    assert net.count == 0
    assert torch.equal(x, X)


def test_what_a_step_of_ones_own_has_seen(tmp_path):
    class Own(kt.Model):
        def train_step(self, batch):
            loss = self(batch.x).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    model = Own(nn.Linear(4, 3))
    model.compile(optimizer="sgd")
    model.fit(1, (X, torch.zeros(20)), verbose=0)
    assert model.export(tmp_path / "net.pt2").inputs[0].shape == ("batch", 4)


@onnx_only
def test_an_onnx_file_for_any_reader(tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = kt.Model(cnn())
    model.export(tmp_path / "net.onnx", input_shape=(1, 8, 8), classes=["cat", "dog", "bird"])
    proto = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(proto)
    header = {entry.key: entry.value for entry in proto.metadata_props}
    assert header["kerastorch"] == kt.__version__
    assert json.loads(header["classes"]) == ["cat", "dog", "bird"]
    assert json.loads(header["inputs"]) == ["float32", [1, 8, 8]]
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert batch == proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 8, 8)
    (got,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(got, model.predict(x, as_numpy=True), atol=1e-5)


@onnx_only
def test_an_onnx_file_of_somebody_else(tmp_path):
    pytest.importorskip("onnxscript")
    net = net_of(two).eval()
    program = torch.onnx.export(net, (X, X), dynamo=True, output_names=["first", "second"], verbose=False)
    (tmp_path / "net.onnx").write_bytes(program.model_proto.SerializeToString())
    assert set(kt.load_model(tmp_path / "net.onnx").predict([((X, X),)])) == {"first", "second"}


def test_a_pt2_file_for_torch_alone(tmp_path):
    model = kt.Model(cnn())
    model.export(tmp_path / "net.pt2", input_shape=(1, 8, 8))
    header = {"kerastorch.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=header)
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(program.module()(x), model.predict(x))
    assert json.loads(header["kerastorch.json"])["kerastorch"] == kt.__version__


def test_a_pt2_file_of_somebody_else(tmp_path):
    net = nn.Linear(4, 3)
    torch.export.save(torch.export.export(net, (X,)), tmp_path / "net.pt2")
    loaded = kt.load_model(tmp_path / "net.pt2")
    assert loaded.classes is None
    assert torch.equal(loaded.predict([(X,)]), kt.Model(net).predict(X))


def branch(self, x):
    if x.sum() > 0:
        return self.linear(x)
    return self.linear(-x)


def by_numpy(self, x):
    return self.linear(torch.from_numpy(x.detach().numpy()))


def fixed(self, x):
    return self.linear(x).reshape(3, 3)


def noise(self, x):
    return self.linear(x + torch.randn_like(x))


def nothing(self, x):
    return {"scores": self.linear(x), "loss": None}


def odd(self, x):
    if torch.compiler.is_compiling():
        raise RuntimeError("an odd thing that nobody knows")
    return self.linear(x)


def wrong(self, x):
    raise KeyError("a fault of its own")


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (
            branch,
            r"depends on the values of a tensor here[\s\S]*test_export.py:\d+: if x.sum\(\) > 0[\s\S]*torch.where",
        ),
        (by_numpy, r"leaves torch here[\s\S]*test_export.py:\d+: return self.linear\(torch.from_numpy"),
        (fixed, r"the size of the batch is fixed somewhere in the net"),
        (noise, r"draws random numbers in evaluation mode.*No file was written"),
        (nothing, r"The outputs of a program are tensors; this net returns \{'scores'"),
        (
            odd,
            r"Net cannot be exported\.[\s\S]*test_export.py:\d+: raise[\s\S]*: an odd thing that nobody knows$",
        ),
        (wrong, r"fails with the inputs that were asked for.*a fault of its own"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_no_file(tmp_path, capfd, forward, text):
    with pytest.raises(ExportError, match=text):
        kt.Model(net_of(forward)).export(tmp_path / "net.pt2", input_shape=(4,))
    assert not any(tmp_path.iterdir())
    out, error = capfd.readouterr()
    assert (out, error) == ("", "")


@onnx_only
def test_an_operation_that_onnx_does_not_have(tmp_path):
    pytest.importorskip("onnxscript")
    net = net_of(lambda self, x: torch.linalg.svd(self.linear(x)[:, :, None])[1])
    with pytest.raises(ExportError, match=r"to ONNX: there is no operation for aten._linalg_svd.*\.pt2"):
        kt.Model(net).export(tmp_path / "net.onnx", input_shape=(4,))
    assert kt.Model(net).export(tmp_path / "net.pt2", input_shape=(4,)).largest_difference < 1e-6


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net.pt", r"is a file of weights: type model.save\("),
        ("net.safetensors", r"is a file of weights"),
        ("net.onxn", r"Unknown kind of file '\.onxn'\. Did you mean '\.onnx'\? model.export writes \.onnx"),
        ("net", r"Unknown kind of file ''"),
    ],
)
def test_the_suffix_decides(name, text):
    with pytest.raises(ExportError, match=text):
        kt.Model(nn.Linear(4, 3)).export(name, input_shape=(4,))


def test_what_must_be_known(tmp_path):
    model = kt.Model(nn.Linear(4, 3))
    with pytest.raises(ExportError, match=r"not known what goes into the net.*input_shape=\(1, 28, 28\)"):
        model.export(tmp_path / "net.pt2")
    with pytest.raises(ExportError, match="got both"):
        model.export(tmp_path / "net.pt2", X, input_shape=(4,))
    with pytest.raises(ExportError, match="gave no batch"):
        model.export(tmp_path / "net.pt2", iter(()))
    with pytest.raises(ExportError, match="tensors with a batch dimension"):
        model.export(tmp_path / "net.pt2", [(["a", "b"],)])
    with pytest.raises(TypeError, match="classes is a list of names"):
        model.export(tmp_path / "net.pt2", X, classes="cat")
    model.predict(torch.rand(5, 4))
    model.net = nn.Linear(7, 3)
    with pytest.raises(ExportError, match="that the last call of the model had"):
        model.export(tmp_path / "net.pt2")


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    from kerastorch.export import writing

    class Other(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.change = change

        def forward(self, x):
            return self.change(net(x))

    net = nn.Linear(4, 3)
    for change, text in [
        (lambda y: y + 1, "differs from the net's by 1, "),
        (lambda y: y[:, :1], r"its shape is \(\d+, 1\), and"),
        (lambda y: y.double(), "its dtype is torch.float64"),
        (lambda y: (y, y), "gives 2 outputs and the net 1"),
        (lambda y: y / torch.zeros(4), "the program fails with a batch of "),
        (lambda y: y * float("nan"), "differs from the net's by inf"),
    ]:
        monkeypatch.setattr(writing, "program_in", lambda suffix, data, change=change: Other(change))
        with pytest.raises(ExportError, match=text):
            kt.Model(net).export(tmp_path / "net.pt2", X)
    assert not any(tmp_path.iterdir())


def test_not_a_number_and_infinity_may_be_right(tmp_path):
    net = net_of(lambda self, x: torch.cat([x.log(), 1 / (x * 0)], 1))
    assert kt.Model(net).export(tmp_path / "net.pt2", X).largest_difference == 0


def test_an_exported_file_is_not_trained(suffix, tmp_path):
    kt.Model(nn.Linear(4, 3)).export(tmp_path / f"net{suffix}", X)
    model = kt.load_model(tmp_path / f"net{suffix}")
    model.compile("mse", "sgd")
    for call in (
        lambda: model.fit(1, (X, X[:, :3]), verbose=0),
        lambda: model.train_on_batch(X, X[:, :3]),
        model.train,
    ):
        with pytest.raises(ExportError, match="An exported file is not trained"):
            call()
    with pytest.raises(ExportError, match=r"takes 'input'; got 2 inputs"):
        model(X, X)
    with pytest.raises(ExportError, match="got 'other'"):
        model(other=X)
    with pytest.raises(ExportError, match="'input' is a int"):
        model(3)


def test_a_package_that_is_missing_is_told_before_anything(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(kt.errors.MissingPackageError, match=r"pip install kerastorch\[onnx\]"):
        kt.Model(nn.Linear(4, 3)).export(tmp_path / "net.onnx", X)


@onnx_only
def test_what_is_too_large_for_one_file(tmp_path, monkeypatch):
    from kerastorch.export import onnx

    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx, "LARGEST", 10)
    with pytest.raises(ExportError, match=r"have 60 bytes, and one ONNX file holds at most 10\. Export to a \.pt2"):
        kt.Model(nn.Linear(4, 3)).export(tmp_path / "net.onnx", X)


def test_leaves_in_a_saved_program_are_read_in_their_order():
    from kerastorch.export.naming import form_of_output, rebuilt

    tree = {"a": (X, [X + 1]), "": X + 2}
    form = json.loads(json.dumps(form_of_output(tree)))
    assert all(map(torch.equal, tree_leaves(rebuilt(form, tree_leaves(tree))), tree_leaves(tree)))


def test_a_damaged_file(suffix, tmp_path):
    (tmp_path / f"net{suffix}").write_bytes(io.BytesIO(b"nothing").read())
    with pytest.raises(ExportError, match=rf"net{suffix}: .* cannot read the file"):
        kt.load_model(tmp_path / f"net{suffix}")


def test_outputs_that_are_true_or_false(suffix, tmp_path):
    told = kt.Model(net_of(lambda self, x: self.linear(x) > 0.5)).export(tmp_path / f"net{suffix}", X)
    assert told.outputs[0].dtype == "bool"


def test_a_program_takes_what_its_net_took(suffix, tmp_path):
    double = kt.Model(nn.Linear(4, 3).double())
    double.export(tmp_path / f"double{suffix}", X.double())
    found = kt.load_model(tmp_path / f"double{suffix}").predict(X.double())
    assert torch.allclose(found, double.predict(X.double()), rtol=1e-12)

    half = kt.Model(nn.Linear(4, 3).bfloat16())
    half.predict(X.bfloat16())
    half.export(tmp_path / f"half{suffix}")
    assert kt.load_model(tmp_path / f"half{suffix}").predict(X.bfloat16()).dtype == torch.float32


def test_inputs_of_a_dict_go_by_their_names_also_in_a_call(suffix, tmp_path):
    net = net_of(lambda self, batch: self.linear(batch["p"] - 2 * batch["q"]))
    kt.Model(net).export(tmp_path / f"net{suffix}", {"p": X, "q": X + 1})
    program = kt.load_model(tmp_path / f"net{suffix}")
    with torch.no_grad():
        wanted = net({"p": X, "q": X + 1})
    for model in (program, pickle.loads(pickle.dumps(program))):
        assert torch.allclose(model({"q": X + 1, "p": X}), wanted, atol=1e-6)


def test_a_model_of_ones_own_around_a_net_with_parameters_at_its_top(suffix, tmp_path):
    class Own(kt.Model):
        def forward(self, x):
            return super().forward(x).softmax(1)

    model = Own(nn.Linear(4, 3))
    model.export(tmp_path / f"net{suffix}", X)
    assert list(model.state_dict()) == ["weight", "bias"]
    found = kt.load_model(tmp_path / f"net{suffix}").predict(X)
    assert torch.allclose(found, model.predict(X), atol=1e-6)


def test_a_program_has_no_weights_to_save(suffix, tmp_path):
    kt.Model(nn.Linear(4, 3)).export(tmp_path / f"net{suffix}", X)
    program = kt.load_model(tmp_path / f"net{suffix}")
    for call in (program.save, program.save_weights):
        with pytest.raises(ExportError, match="copy that file"):
            call(tmp_path / "a.pt")
    with pytest.raises(ExportError, match="an exported file already"):
        program.export(tmp_path / f"b{suffix}")
    kt.Model(nn.Linear(4, 3)).save_weights(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="2 not in the net"):
        program.load_weights(tmp_path / "w.pt")


def fixed(self, x):
    return self.linear(x).view(20, 3)


@pytest.mark.parametrize(
    ("net", "data", "text"),
    [
        (net_of(fixed), X, r"Net computes a batch of 20, but none of 3: .*fixed somewhere in the net"),
        (net_of(two), [(X[:, :3],)], r"Net fails with input_data, .*Several inputs go into a tuple"),
        (nn.LazyLinear(3), X, "learn their shapes from the first batch. Call predict once before"),
    ],
)
def test_what_a_net_cannot_compute_is_told_apart(tmp_path, net, data, text):
    with pytest.raises(ExportError, match=text):
        kt.Model(net).export(tmp_path / "net.pt2", data)


def test_a_net_is_run_once_for_each_comparison(tmp_path):
    calls = []
    net = nn.Linear(4, 3)
    net.register_forward_hook(lambda *arguments: calls.append(1))
    kt.Model(net).export(tmp_path / "net.pt2", X)
    assert len(calls) <= 2 + 1 + 3  # to trace, on what was given, on three made-up batches


def test_a_buffer_that_is_replaced_is_put_back(tmp_path):
    def forward(self, x):
        self.seen = x
        return self.linear(x)

    net = net_of(forward)
    net.register_buffer("seen", torch.zeros(1))
    before = net.seen
    with contextlib.suppress(ExportError):
        kt.Model(net).export(tmp_path / "net.pt2", X)
    assert net.seen is before


def test_a_path_of_the_home_is_told_in_full(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kt.Model(nn.Linear(4, 3)).export("~/net.pt2", X).path == tmp_path / "net.pt2"
