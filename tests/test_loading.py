import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import kerastorch as kt
from kerastorch.data import class_names
from kerastorch.errors import CheckpointError

X, Y = torch.rand(12, 4), torch.arange(12) % 3
CLASSES = ("cat", "dog", "bird")


def make():
    return nn.Linear(4, 3)


class Named(TensorDataset):
    classes = ("cat", "dog", "bird")


def trained(callbacks=()):
    model = kt.Model(make())
    model.compile("cross_entropy", "adam")
    model.fit(1, Named(X, Y), verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("net", [make, make(), kt.Model(make())])
def test_what_is_saved_is_loaded(tmp_path, name, net):
    model = trained()
    model.save(tmp_path / name)
    loaded = kt.load_model(tmp_path / name, net)
    assert torch.equal(loaded.predict(X), model.predict(X))
    assert loaded.classes == model.classes == CLASSES
    loaded.export(tmp_path / "net.pt2")  # the form of the inputs is in the file
    assert kt.load_model(tmp_path / "net.pt2").classes == CLASSES


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_load_weights_reads_files_of_save(tmp_path, name):
    model = kt.Model(make())
    model.save(tmp_path / name, classes=["a", "b", "c"])
    other = kt.Model(make())
    other.load_weights(tmp_path / name)
    assert torch.equal(other.net.weight, model.net.weight)
    assert other.classes == ("a", "b", "c")


@pytest.mark.parametrize("options", [{}, {"save_weights_only": True}])
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_files_of_checkpoints(tmp_path, name, options):
    model = trained([kt.callbacks.ModelCheckpoint(tmp_path / name, **options)])
    loaded = kt.load_model(tmp_path / name, make)
    assert torch.equal(loaded.predict(X), model.predict(X))
    assert loaded.classes == (None if options and name == "net.pt" else CLASSES)  # plain weights of torch


def test_weights_of_torch_and_their_header(tmp_path):
    from safetensors import safe_open

    net = make()
    torch.save(net.state_dict(), tmp_path / "plain.pt")
    loaded = kt.load_model(tmp_path / "plain.pt", make)
    assert (loaded.classes, torch.equal(loaded.net.weight, net.weight)) == (None, True)
    model = trained()
    model.save_weights(tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        header = file.metadata()
    assert header == {
        "format": "pt",
        "kerastorch": kt.__version__,
        "classes": '["cat", "dog", "bird"]',
        "inputs": '["float32", [4]]',
    }


def test_what_load_model_cannot_do(tmp_path):
    trained().save(tmp_path / "net.pt")
    with pytest.raises(TypeError, match=r"holds weights and not the net; got net=None\. Type kt.load_model\("):
        kt.load_model(tmp_path / "net.pt")
    with pytest.raises(TypeError, match="got net=3"):
        kt.load_model(tmp_path / "net.pt", 3)
    with pytest.raises(CheckpointError, match="does not fit"):
        kt.load_model(tmp_path / "net.pt", nn.Linear(5, 3))
    with pytest.raises(FileNotFoundError):
        kt.load_model(tmp_path / "none.pt", make)
    with pytest.raises(FileNotFoundError):
        kt.load_model(tmp_path / "none.pt2")
    with pytest.raises(TypeError, match="holds its net"):
        kt.load_model(tmp_path / "net.pt2", make)
    with pytest.raises(CheckpointError, match=r"the name of an exported program\. Type model.export"):
        trained().save(tmp_path / "net.onnx")


def test_classes_are_those_of_the_dataset():
    data = Named(X, Y)
    assert class_names(DataLoader(Subset(Subset(data, range(6)), range(3)))) == CLASSES
    assert class_names(kt.Sharded(data)) == CLASSES
    assert class_names(ConcatDataset([data, Subset(data, [0])])) == CLASSES
    assert class_names(ConcatDataset([data, TensorDataset(X, Y)])) is None
    assert class_names((X, Y)) is None
    data.classes = 3
    assert class_names(data) is None


def test_classes_can_be_set_and_are_the_nets_own_where_it_has_them():
    model = kt.Model(make())
    assert model.classes is None
    model.compile("cross_entropy", "adam")
    model.fit(1, Named(X, Y), verbose=0)
    assert model.classes == CLASSES
    model.fit(1, (X, Y), verbose=0)
    assert model.classes == CLASSES  # these data tell nothing else
    model.classes = np.array(["a", "b", "c"])
    model.fit(1, Named(X, Y), verbose=0)
    assert model._told()["classes"] == ["a", "b", "c"]  # what was set is not written over

    class Own(kt.Model):
        def __init__(self):
            super().__init__()
            self.classes = 3
            self.layer = make()

    assert Own().classes == 3
    assert Own()._told() == {}

    class Layer(kt.Model):
        def __init__(self):
            super().__init__()
            self.classes = make()

        def forward(self, x):
            return self.classes(x)

    model = Layer()
    model.compile("cross_entropy", "adam")
    model.fit(1, Named(X, Y), verbose=0)  # their names do not take the layer's place
    assert model._told()["classes"] == list(CLASSES)
    assert isinstance(model.classes, nn.Linear)


def test_classes_of_another_task_are_not_learned(tmp_path):
    trained().save(tmp_path / "net.pt")
    net = make()
    net.more = nn.Linear(3, 2)
    model = kt.Model(net)
    model.load_weights(tmp_path / "net.pt", strict=False)
    assert model.classes is None


def test_a_dataset_that_cannot_tell_its_classes_is_trained_on():
    class Late(TensorDataset):
        @property
        def classes(self):
            raise RuntimeError("not downloaded")

    model = kt.Model(make())
    model.compile("cross_entropy", "adam")
    model.fit(1, Late(X, Y), verbose=0)
    assert model.classes is None


@pytest.mark.parametrize("name", ["save", "save_weights"])
def test_weights_are_not_written_under_the_name_of_a_program(tmp_path, name):
    for suffix in (".onnx", ".PT2"):
        with pytest.raises(CheckpointError, match="the name of an exported program"):
            getattr(trained(), name)(tmp_path / f"net{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_complete_training_knows_what_it_has_seen(tmp_path):
    for _ in range(2):
        model = trained([kt.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)])
    assert model._facts.inputs == ["float32", [4]]
    assert model.classes == CLASSES


def test_facts_cost_nothing_for_each_step():
    model = kt.Model(make())
    model.compile("cross_entropy", "adam")
    seen = []
    see = model._facts.see
    model._facts.see = lambda x: (seen.append(x.shape), see(x))
    model.fit(2, (X, Y), (X, Y), batch_size=3, verbose=0)
    assert len(seen) == 4  # once for each reading of the data
