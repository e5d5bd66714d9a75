from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses import OutputLoss


class Net(nn.Module):
    """Computes its loss as language models do."""

    def __init__(self, form="dict"):
        super().__init__()
        self.layer, self.form = nn.Linear(3, 4), form

    def forward(self, values, labels=None):
        logits = self.layer(values)
        classes = logits.movedim(-1, 1)
        loss = None if labels is None else functional.cross_entropy(classes, labels)
        if self.form == "tuple":
            return (loss, logits) if loss is not None else (logits,)
        return {"dict": dict, "object": SimpleNamespace}[self.form](loss=loss, logits=logits)


def data(count=10, *shape):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, 3, generator=random)
    return x, torch.randint(4, (count, *shape), generator=random)


@pytest.mark.parametrize("form", ["dict", "object", "tuple"])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_net_may_bring_its_loss(form, shape):
    x, labels = data(10, *shape)
    torch.manual_seed(0)
    net, by_hand = Net(form), nn.Linear(3, 4)
    by_hand.load_state_dict(net.layer.state_dict())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    for start in range(0, 10, 4):
        part = slice(start, start + 4)
        loss = functional.cross_entropy(by_hand(x[part]).movedim(-1, 1), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = kt.Model(net)
    model.compile(optimizer=torch.optim.SGD(net.parameters(), lr=0.5), metrics=["accuracy"])
    rows = {"values": x, "labels": labels}
    model.fit(1, rows, batch_size=4, shuffle=False, verbose=0)
    assert torch.equal(net.layer.weight, by_hand.weight)
    outputs = by_hand(x).movedim(-1, 1).detach()
    values = model.evaluate(rows, batch_size=4)
    assert values["loss"] == pytest.approx(float(functional.cross_entropy(outputs, labels)), rel=1e-6)
    assert values["accuracy"] == pytest.approx(float((outputs.argmax(1) == labels).float().mean()))


def test_labels_that_do_not_count_do_not_weigh():
    x, labels = data(10, 6)
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = -100
    net = Net()
    model = kt.Model(net)
    model.compile(optimizer="sgd")
    expected = functional.cross_entropy(net.layer(x).movedim(-1, 1), labels).detach()
    for size in (1, 3, 10):
        value = model.evaluate({"values": x, "labels": labels}, batch_size=size)["loss"]
        assert value == pytest.approx(float(expected), rel=1e-6)


def test_predict_gives_no_labels_to_the_net():
    x, labels = data()
    model = kt.Model(Net())
    model.compile(optimizer="sgd")
    assert model.predict({"values": x, "labels": labels}, batch_size=4)["loss"] is None


def test_labels_may_be_needed_for_another_loss():
    x, labels = data()
    net = nn.Linear(3, 4)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = net

        def forward(self, values):
            return self.layer(values)

    model = kt.Model(Plain())
    model.compile("cross_entropy", "sgd")
    value = model.evaluate({"values": x, "labels": labels})["loss"]
    assert value == pytest.approx(functional.cross_entropy(net(x), labels).item())


def test_a_single_number_is_a_loss():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x):
            return self.layer(x).square().mean()

    model = kt.Model(Energy())
    model.compile(optimizer="sgd")
    x, _ = data()
    history = model.fit(3, (x,), verbose=0)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (torch.zeros(2, 3), r"must return one, as output.loss or output\['loss'\]; the net gave float32 \(2, 3\)"),
        ({"logits": torch.zeros(2, 3)}, r"model.compile\(loss='cross_entropy'\)"),
        ({"loss": None, "logits": torch.zeros(2)}, "Such nets compute it from labels: a batch is a dict with 'labels'"),
        ((torch.zeros(2),), "must return one"),
    ],
)
def test_a_net_without_a_loss_is_told_what_to_do(output, text):
    with pytest.raises(MismatchError, match=text):
        OutputLoss().terms(output, Batch(0, torch.zeros(2)))


class Distilled(kt.Model):
    """Learns from labels and from another net."""

    def __init__(self, net, teacher, form):
        super().__init__(net)
        object.__setattr__(self, "teacher", teacher)
        self.form = form

    def compute_loss(self, batch, output):
        with torch.no_grad():
            wanted = self.teacher(batch.x)
        distance = functional.mse_loss(output, wanted)
        loss = super().compute_loss(batch, output) + 3 * distance
        return {"distance": distance, "loss": loss} if self.form == "dict" else loss


@pytest.mark.parametrize("form", ["dict", "tensor"])
def test_a_loss_of_the_users_own_sees_batch_and_output(form):
    x, labels = data()
    torch.manual_seed(0)
    net, teacher, by_hand = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
    by_hand.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    model = Distilled(net, teacher, form)
    model.compile("cross_entropy", torch.optim.SGD(net.parameters(), lr=0.1), ["accuracy"])
    history = model.fit(2, (x, labels), (x, labels), batch_size=4, shuffle=False, verbose=0)
    for _ in range(2):
        for start in range(0, 10, 4):
            part = slice(start, start + 4)
            output = by_hand(x[part])
            loss = functional.cross_entropy(output, labels[part]) + 3 * functional.mse_loss(
                output, teacher(x[part]).detach()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert torch.equal(net.weight, by_hand.weight)
    output = by_hand(x).detach()
    distance = functional.mse_loss(output, teacher(x).detach())
    assert history["val_loss"][-1] == pytest.approx(float(functional.cross_entropy(output, labels) + 3 * distance))
    assert history["val_accuracy"][-1] == pytest.approx(float((output.argmax(1) == labels).float().mean()))
    if form == "dict":
        assert history["val_distance"][-1] == pytest.approx(float(distance))
        assert list(history)[:3] == ["loss", "distance", "accuracy"]


def test_a_loss_of_the_users_own_may_need_no_other():
    class Contrastive(kt.Model):
        def compute_loss(self, batch, output):
            return (output[0] - output[1]).square().mean()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.layer(a), self.layer(b)

    x, _ = data()
    model = Contrastive(Two())
    model.compile(optimizer="sgd")
    history = model.fit(3, ((x, x + 1),), verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    assert model.evaluate(((x, x + 1),))["loss"] < history["loss"][0]


def test_a_dict_without_a_loss_is_named():
    class Wrong(kt.Model):
        def compute_loss(self, batch, output):
            return {"a": output.mean()}

    model = Wrong(nn.Linear(3, 4))
    model.compile(optimizer="sgd")
    with pytest.raises(MismatchError, match="must return a loss, or a dict with 'loss'; got a dict of 'a'"):
        model.fit(1, data(), verbose=0)


def test_metrics_of_one_output_see_what_is_beside_the_loss():
    x, labels = data()
    net = Net()
    model = kt.Model(net)
    model.compile(optimizer="sgd", metrics={"logits": ["accuracy"], "same": "accuracy"})
    values = model.evaluate({"values": x, "labels": labels}, batch_size=4)
    assert values["logits_accuracy"] == values["same"]


def test_a_net_that_cannot_do_without_labels_is_given_them():
    class Needs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, values, labels):
            return self.layer(values) + labels[:, None]

    x, labels = data()
    model = kt.Model(Needs())
    assert model.predict({"values": x, "labels": labels}, batch_size=4).shape == (10, 4)
