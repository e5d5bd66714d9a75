from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch.data import Batch
from kerastorch.errors import MismatchError
from kerastorch.losses import Loss, SeveralLosses
from kerastorch.metrics import MetricSet

CLASS, AGE = Loss(nn.CrossEntropyLoss(ignore_index=1)), Loss(nn.MSELoss())


class Outputs(NamedTuple):
    kind: torch.Tensor
    age: torch.Tensor


class TwoHeads(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.kind, self.age, self.form = nn.Linear(3, 4), nn.Linear(3, 1), form

    def forward(self, x):
        kind, age = self.kind(x), self.age(x)
        return {"dict": {"kind": kind, "age": age}, "tuple": (kind, age), "list": [kind, age]}.get(
            self.form, Outputs(kind, age)
        )


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 9), size=st.integers(1, 5), weighted=st.booleans())
def test_the_sum_over_an_epoch_is_that_of_the_losses_over_all_data(*, seed, count, size, weighted):
    random = torch.Generator().manual_seed(seed)
    kind = torch.randn(count, 4, generator=random, dtype=torch.float64)
    age, years = torch.randn(2, count, 1, generator=random, dtype=torch.float64)
    labels = torch.randint(4, (count,), generator=random).clamp(min=0)
    labels[0] = 0  # one at least is not ignored
    weights = torch.rand(count, generator=random, dtype=torch.float64) + 0.1
    objective = SeveralLosses({"kind": CLASS, "age": AGE}, {"kind": 2.0, "age": 0.5})
    metrics = MetricSet({}, objective.factors)
    for index, start in enumerate(range(0, count, size)):
        part = slice(start, start + size)
        target = {"kind": labels[part], "age": years[part]}
        batch = Batch(index, None, target, {"age": weights[part]} if weighted else None, len(labels[part]))
        output = {"kind": kind[part], "age": age[part]}
        metrics.update(objective.terms(output, batch)[1], output, batch)
    by_kind = functional.cross_entropy(kind, labels, ignore_index=1)
    errors = (age - years).square()[:, 0]
    by_age = (errors * weights).sum() / weights.sum() if weighted else errors.mean()
    values = metrics.result()
    assert list(values) == ["loss", "kind_loss", "age_loss"]
    assert values["kind_loss"] == pytest.approx(float(by_kind), rel=1e-12)
    assert values["age_loss"] == pytest.approx(float(by_age), rel=1e-12)
    assert values["loss"] == pytest.approx(float(2 * by_kind + 0.5 * by_age), rel=1e-12)


def data():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(21, 3, generator=random)
    return x, torch.randint(4, (21,), generator=random), torch.randn(21, 1, generator=random)


@pytest.mark.parametrize("form", ["dict", "namedtuple", "tuple", "list"])
def test_fit_equals_a_loop_by_hand(form):
    x, labels, years = data()
    by_name = form in ("dict", "namedtuple")
    torch.manual_seed(1)
    net, by_hand = TwoHeads(form), TwoHeads("tuple")
    by_hand.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for start in range(0, 21, 4):
            part = slice(start, start + 4)
            kind, age = by_hand(x[part])
            loss = functional.cross_entropy(kind, labels[part]) + 0.5 * functional.mse_loss(age, years[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model = kt.Model(net)
    losses = {"kind": "cross_entropy", "age": "mse"} if by_name else ["cross_entropy", "mse"]
    weights = {"age": 0.5} if by_name else [1, 0.5]
    metrics = {"kind": ["accuracy"], "age": {"error": "mae"}} if by_name else [["accuracy"], {"error": "mae"}]
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    model.compile(losses, sgd, metrics, loss_weights=weights)
    targets = {"kind": labels, "age": years} if form == "dict" else (labels, years)
    if form == "namedtuple":
        targets = Outputs(labels, years)
    history = model.fit(2, (x, targets), batch_size=4, shuffle=False, verbose=0)
    for name, value in by_hand.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name
    kind, age = ("kind", "age") if by_name else ("output_0", "output_1")
    shown = [name for name in history if name not in ("lr", "seconds", "samples_per_second")]
    assert shown == ["loss", f"{kind}_loss", f"{age}_loss", f"{kind}_accuracy", f"{age}_error"]
    values = model.evaluate((x, targets), batch_size=5)
    outputs = [part.detach() for part in by_hand(x)]
    assert values[f"{kind}_accuracy"] == pytest.approx(float((outputs[0].argmax(1) == labels).float().mean()))
    assert values[f"{age}_error"] == pytest.approx(float((outputs[1] - years).abs().mean()))


def test_one_target_is_for_all_outputs():
    x, labels, _ = data()

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.near, self.far = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return {"near": self.near(x), "far": self.far(x)}

    model = kt.Model(Deep())
    model.compile({"near": "cross_entropy", "far": "cross_entropy"}, "sgd", loss_weights={"near": 0.3})
    values = model.evaluate((x, labels))
    assert values["loss"] == pytest.approx(0.3 * values["near_loss"] + values["far_loss"])


def test_an_output_without_a_loss_is_left_alone():
    x, labels, _ = data()
    model = kt.Model(TwoHeads("dict"))
    model.compile({"kind": "cross_entropy", "age": None}, "sgd")
    history = model.fit(1, (x, {"kind": labels}), verbose=0)
    assert history["loss"] == history["kind_loss"]
    assert "age_loss" not in history


@pytest.mark.parametrize(
    ("loss", "targets", "text"),
    [
        ({"kind": "cross_entropy", "years": "mse"}, "dict", "There is no output 'years': .* There are 'kind', 'age'"),
        (["cross_entropy", "mse"], "dict", "There is no output 0"),
        ({"kind": "cross_entropy", "age": "mse"}, "tuple", "There is no target 'kind'"),
        ("cross_entropy", "dict", r"Say which loss is for which output: loss=\{'kind': 'CrossEntropyLoss'\}"),
    ],
)
def test_what_does_not_fit_is_named(loss, targets, text):
    x, labels, years = data()
    model = kt.Model(TwoHeads("dict"))
    model.compile(loss, "sgd")
    given = {"kind": labels, "age": years} if targets == "dict" else (labels, years)
    with pytest.raises(MismatchError, match=text):
        model.fit(1, (x, given), verbose=0)


def test_a_list_of_losses_needs_no_dict_of_targets():
    x, labels, years = data()
    model = kt.Model(TwoHeads("tuple"))
    model.compile(["cross_entropy", "mse"], "sgd")
    with pytest.raises(
        MismatchError, match=r"losses are a list, but the targets are a dict.*Type loss=\{name: \.\.\.\}"
    ):
        model.fit(1, (x, {"kind": labels, "age": years}), verbose=0)


def test_the_first_batch_of_every_output_is_checked():
    x, labels, years = data()
    model = kt.Model(TwoHeads("dict"))
    model.compile({"kind": "cross_entropy", "age": "mse"}, "sgd")
    with pytest.raises(MismatchError, match=r"MSELoss compares element by element"):
        model.fit(1, (x, {"kind": labels, "age": years[:, 0]}), verbose=0)


def test_sample_weights_of_no_output_are_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return {"a": self.layer(x), "b": self.layer(x)}

    x, y = torch.randn(8, 3), torch.arange(8) % 2
    model = kt.Model(Two())
    model.compile({"a": "cross_entropy"}, "adam")
    with pytest.raises(
        MismatchError, match=r"weights for 'A', which is no output\. Did you mean 'a'\? There are 'a', 'b'"
    ):
        model.fit(1, (x, {"a": y, "b": y}, {"A": torch.ones(8)}), verbose=0)
    model.fit(1, (x, {"a": y, "b": y}, {"a": torch.ones(8), "b": torch.ones(8)}), verbose=0)
