import pytest
import torch
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch.callbacks import BatchTransform
from kerastorch.errors import DataError

v2 = pytest.importorskip("torchvision.transforms.v2")


class Seen(kt.Callback):
    def __init__(self):
        self.batches = []

    def prepare_batch(self, batch):
        self.batches.append((self.run.phase, batch))
        return batch

    def of(self, phase):
        return [batch for seen, batch in self.batches if seen == phase]


def images(samples=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 1, 4, 4, generator=generator), torch.arange(samples) % 3


def compiled(net=None, loss="cross_entropy", metrics=None):
    torch.manual_seed(0)
    model = kt.Model(net or nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3)))
    model.compile(loss, lambda parameters: torch.optim.SGD(parameters, lr=0.1), metrics)
    return model


def add_one(x):
    return x + 1


@pytest.mark.parametrize(
    ("phase", "transformed"), [("train", {"train"}), ("val", {"val", "predict"}), ("both", {"train", "val", "predict"})]
)
def test_it_works_in_its_phase_only(phase, transformed):
    x, y = images()
    before, seen, add = x.clone(), Seen(), BatchTransform(add_one, phase=phase)
    model = compiled()
    model.fit(2, (x, y), (x, y), callbacks=[add, seen], shuffle=False, verbose=0)
    model.evaluate((x, y), callbacks=[add, seen], verbose=0)
    model.predict(x, callbacks=[add, seen])
    assert [phase for phase, _ in seen.batches] == ["train", "val", "train", "val", "val", "predict"]
    for name, batch in seen.batches:
        assert torch.equal(batch.x, x + 1 if name in transformed else x)
        assert batch.y is None or torch.equal(batch.y, y)
    assert torch.equal(x, before)


def test_fit_is_a_loop_written_by_hand_with_the_transform():
    x, y = images()
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing(p=0.5), v2.Normalize([0.1], [2.0])])
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    twin.load_state_dict(net.state_dict())
    batches = list(zip(x.split(4), y.split(4), strict=True))
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        for features, labels in batches:
            optimizer.zero_grad()
            functional.cross_entropy(twin(transform(features)), labels).backward()
            optimizer.step()
    model = compiled(net)
    torch.manual_seed(1)
    model.fit(3, batches, callbacks=[BatchTransform(transform)], verbose=0)
    for value, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(value, other)


def test_chance_in_a_validation_does_not_change_training():
    def train(*callbacks):
        model = compiled()
        torch.manual_seed(1)
        model.fit(3, images(), images(), callbacks=list(callbacks), batch_size=4, verbose=0)
        return list(model.parameters())

    noisy = BatchTransform(lambda x: x + torch.randn_like(x), phase="val")
    for value, other in zip(train(noisy), train(), strict=True):
        assert torch.equal(value, other)


def test_one_of_several_mixes_makes_probabilities_and_metrics_see_labels():
    either = v2.RandomChoice([v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)])
    seen = Seen()

    def right(output, target):
        return (output.argmax(1) == target).float().mean()

    model = compiled(metrics={"accuracy": "accuracy", "right": right})
    history = model.fit(
        3, images(), images(), callbacks=[BatchTransform(either, targets=True), seen], batch_size=4, verbose=0
    )
    assert history["accuracy"] == pytest.approx(history["right"])
    for batch in seen.of("train"):
        assert batch.y.shape == (4, 3)
        assert torch.equal(batch.truth, batch.y.argmax(1))
    assert all(batch.truth is None and batch.y.ndim == 1 for batch in seen.of("val"))


def test_several_inputs_come_as_they_are():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, a, b):
            return self.layer(torch.cat([a, b], 1))

    def swap(x, y):
        return {"a": x["b"], "b": x["a"]}, y * 2

    x, y, seen = {"a": torch.randn(6, 2), "b": torch.randn(6, 2)}, torch.randn(6, 1), Seen()
    model = compiled(Net(), "mse")
    swapping = BatchTransform(swap, targets=True)
    model.fit(1, (x, y, torch.rand(6)), callbacks=[swapping, seen], shuffle=False, verbose=0)
    batch = seen.of("train")[0]
    assert torch.equal(batch.x["a"], x["b"])
    assert torch.equal(batch.y, y * 2)
    assert batch.weight is not None


def test_targets_may_be_none_in_a_prediction():
    seen = []
    look = BatchTransform(lambda x, y: (x, seen.append(y)), targets=True, phase="val")
    compiled().predict(images()[0], callbacks=[look])
    assert seen == [None]


def test_where_it_changes_the_number_of_samples_means_are_those_of_what_is_there():
    def first_of_each(x, y):
        return x[::2], y[::2]

    def mean_target(output, target):
        return target.float().mean()

    x, y = images(11)
    model = compiled(metrics={"target": mean_target})
    history = model.fit(
        1, (x, y), callbacks=[BatchTransform(first_of_each, targets=True)], batch_size=8, shuffle=False, verbose=0
    )
    assert history["target"][0] == pytest.approx(torch.cat([y[:8:2], y[8::2]]).float().mean().item())


def test_a_module_is_moved_to_the_device():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("by", torch.ones(1))

        def forward(self, x):
            return x + self.by

    for call in ("fit", "evaluate", "predict"):
        shift = Shift()
        arguments = {"fit": (1, images()), "evaluate": (images(),), "predict": (images()[0],)}[call]
        model = compiled(metrics=["accuracy"])
        with pytest.raises((RuntimeError, NotImplementedError)):  # a meta tensor holds no numbers
            transform = BatchTransform(shift, phase="both")
            getattr(model, call)(*arguments, callbacks=[kt.callbacks.DeviceTransfer("meta"), transform])
        assert shift.by.device.type == "meta"


@pytest.mark.parametrize(
    ("transform", "targets", "text"),
    [
        (lambda x: None, False, r"must return the inputs to use instead; it returned None"),
        (lambda x, y: x, True, r"must return \(x, y\); it returned Tensor"),
        (lambda x, y: None, True, r"must return \(x, y\); it returned None"),
        (lambda x, y: (x, y, 1), True, r"must return \(x, y\); it returned tuple"),
    ],
)
def test_what_it_returns_is_looked_at(transform, targets, text):
    with pytest.raises(DataError, match=text):
        compiled().fit(1, images(), callbacks=[BatchTransform(transform, targets=targets)], verbose=0)


def test_arguments_are_looked_at_in_the_constructor():
    with pytest.raises(TypeError, match=r"transform is the class RandomHorizontalFlip; pass an object"):
        BatchTransform(v2.RandomHorizontalFlip)
    with pytest.raises(TypeError, match=r"For several: v2\.Compose"):
        BatchTransform([v2.RandomHorizontalFlip()])
    with pytest.raises(ValueError, match=r"phase is 'train', 'val' or 'both'; got 'trian'\. Did you mean 'train'"):
        BatchTransform(add_one, phase="trian")


def test_repr_is_the_call():
    transform = v2.RandomHorizontalFlip(p=0.5)
    assert repr(BatchTransform(transform, phase="both", targets=True)) == (
        "BatchTransform(RandomHorizontalFlip(p=0.5), phase='both', targets=True)"
    )
