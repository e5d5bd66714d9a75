import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kerastorch as kt
from kerastorch.errors import DataError, MismatchError


def data(count=40, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=random)
    return x, (x[:, 0] > 0.8).long()


def compiled(net=None, **options):
    model = kt.Model(net or nn.Linear(3, 2))
    model.compile(
        **{"loss": "cross_entropy", "optimizer": lambda p: torch.optim.SGD(p, 0.1), "metrics": ["accuracy"], **options}
    )
    return model


def columns(history):
    return [name for name in history if name not in ("lr", "seconds", "samples_per_second")]


def test_several_validation_sets_are_named_in_the_logs():
    model, easy, hard = compiled(), data(seed=1), data(13, seed=2)
    history = model.fit(2, data(), {"easy": easy, "hard": DataLoader(TensorDataset(*hard), 4)}, batch_size=7, verbose=0)
    expected = ["loss", "accuracy", "val_easy_loss", "val_easy_accuracy", "val_hard_loss", "val_hard_accuracy"]
    assert columns(history) == expected
    values = model.evaluate({"easy": easy, "hard": hard})
    assert list(values) == ["easy_loss", "easy_accuracy", "hard_loss", "hard_accuracy"]
    for name, part in (("easy", easy), ("hard", hard)):
        alone = model.evaluate(part)
        assert values[f"{name}_loss"] == pytest.approx(alone["loss"])
        assert values[f"{name}_accuracy"] == alone["accuracy"]
        assert history[f"val_{name}_loss"][-1] == pytest.approx(alone["loss"])


def test_callbacks_hear_of_every_validation_set():
    heard = []
    listener = kt.callbacks.LambdaCallback(
        on_test_begin=lambda logs: heard.append("begin"), on_test_end=lambda logs: heard.append(sorted(logs))
    )
    compiled().fit(1, data(), {"a": data(), "b": data()}, callbacks=[listener], verbose=0)
    assert heard == ["begin", ["accuracy", "loss"]] * 2


def test_an_empty_or_wrong_validation_set_is_named():
    with pytest.raises(DataError, match=r"dl_val\['hard'\]"):
        compiled().fit(1, data(), {"easy": data(), "hard": (torch.zeros(0, 3), torch.zeros(0))}, verbose=0)


def test_a_validation_set_that_runs_dry_does_not_take_the_others_with_it():
    class Once:
        left = 1

        def __iter__(self):
            self.left -= 1
            return iter([data()] if self.left >= 0 else [])

    with pytest.warns(UserWarning, match=r"dl_val\['short'\] has no more batches; training goes on without it"):
        history = compiled().fit(2, data(), {"short": Once(), "long": data()}, verbose=0)
    assert len(history["val_long_loss"]) == 2
    assert history["val_long_loss"][1] == history["val_long_loss"][1]
    assert history["val_short_loss"][1] != history["val_short_loss"][1]


def test_the_bar_has_a_column_for_each_set(monkeypatch, capsys):
    from kerastorch.display import ProgressBar

    model = compiled()
    model.fit(1, data(), {"a": data(), "b": data()}, callbacks=[ProgressBar()], verbose=0)
    assert "val_a_loss" in capsys.readouterr().out


@pytest.mark.parametrize("stratify", [False, True])
def test_a_split_trains_on_one_part_and_validates_on_the_other(stratify, capsys):
    x, y = data()
    seen = {"train": [], "val": []}

    class Watch(kt.Model):
        def compute_loss(self, batch, output):
            seen["train" if output.requires_grad else "val"].extend(batch.x[:, 0].tolist())
            return super().compute_loss(batch, output)

    model = Watch(nn.Linear(3, 2))
    model.compile("cross_entropy", "sgd", ["accuracy"])
    for _ in range(2):  # a second call splits alike, or it would validate on what was trained on
        history = model.fit(2, (x, y), validation_split=0.25, stratify=stratify, verbose=2)
        assert "val_accuracy" in history
    assert capsys.readouterr().out.count("30 samples of dl_train to train on, 10 to validate on.") == 2
    assert len(set(seen["train"])) == 30
    assert len(set(seen["val"])) == 10
    assert not set(seen["train"]) & set(seen["val"])


def test_a_split_says_nothing_where_nothing_is_to_be_shown(capsys):
    compiled().fit(1, data(), validation_split=0.25, verbose=0)
    assert capsys.readouterr().out == ""


def test_a_split_beside_validation_data_is_refused():
    with pytest.raises(ValueError, match="dl_val and validation_split are two things to validate on"):
        compiled().fit(1, data(), data(), validation_split=0.25)
    with pytest.raises(ValueError, match=r"stratify says how to split; say validation_split=0.2 as well"):
        compiled().fit(1, data(), stratify=True)
    with pytest.raises(DataError, match="random_split"):
        compiled().fit(1, DataLoader(TensorDataset(*data()), 4), validation_split=0.25)


def trained(form, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    model = compiled(net, loss=options.pop("loss", "cross_entropy"))
    x, y = data()
    forms = {
        "tensors": (x, y),
        "arrays": (x.numpy(), y.numpy()),
        "loader": DataLoader(TensorDataset(x, y), 8),
        "list": [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)],
    }
    arguments = {"batch_size": 8, "shuffle": False} if form in ("tensors", "arrays") else {}
    history = model.fit(3, forms[form], (x, y), verbose=0, **arguments, **options)
    return net, history


@pytest.mark.parametrize("form", ["tensors", "arrays", "loader", "list"])
@pytest.mark.parametrize("weights", [{1: 4.0}, torch.tensor([1.0, 4.0]), "balanced"])
def test_weights_of_classes_train_as_those_of_the_loss_do(form, weights):
    counts = torch.bincount(data()[1])
    by_loss = 40 / (2 * counts) if isinstance(weights, str) else torch.tensor([1.0, 4.0])
    net, history = trained(form, class_weight=weights)
    expected, other = trained(form, loss=nn.CrossEntropyLoss(by_loss))
    torch.testing.assert_close(net.weight, expected.weight)
    assert history["loss"] == pytest.approx(other["loss"])
    plain = compiled(net).evaluate(data())
    assert history["val_loss"][-1] == pytest.approx(plain["loss"])  # validation is not weighted
    assert history["accuracy"] == other["accuracy"]


def test_balanced_weights_are_shown(capsys):
    x, y = data()
    compiled().fit(1, (x, y), class_weight="balanced", verbose=2)
    counts = torch.bincount(y)
    shown = ", ".join(f"{label}: {20 / count:.4g}" for label, count in enumerate(counts.tolist()))
    assert f"Weights of the classes: {shown}." in capsys.readouterr().out


def test_weights_of_classes_are_for_a_compiled_loss():
    class OwnStep(kt.Model):
        def train_step(self, batch):
            return {"loss": 0.0}

    class OwnLoss(kt.Model):
        def compute_loss(self, batch, output):
            return output.mean()

    for kind, text in (
        (OwnStep, "train_step is overridden. Weigh there."),
        (OwnLoss, "here the loss is of compute_loss"),
    ):
        model = kind(nn.Linear(3, 2))
        model.compile("cross_entropy", "sgd")
        with pytest.raises(MismatchError, match=text):
            model.fit(1, data(), class_weight="balanced", verbose=0)


def test_a_seed_gives_the_same_order_whatever_else_is_drawn():
    def order(**options):
        seen = []

        class Watch(kt.Model):
            def compute_loss(self, batch, output):
                seen.append(batch.x[:, 0].tolist())
                return super().compute_loss(batch, output)

        model = Watch(nn.Linear(3, 2))
        model.compile("cross_entropy", "sgd")
        model.fit(2, data(), batch_size=8, verbose=0, **options)
        return seen

    torch.manual_seed(0)
    first = order(seed=3)
    torch.manual_seed(1)
    assert order(seed=3) == first
    assert order(seed=4) != first
    assert first[:5] != first[5:]  # every epoch has an order of its own
    torch.manual_seed(0)
    by_torch = order()
    torch.manual_seed(0)
    assert order() == by_torch


def test_a_last_batch_that_is_not_full_can_be_left_out():
    model = compiled(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    model.fit(1, data(9), batch_size=4, drop_last=True, verbose=0)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model.fit(1, data(9), batch_size=4, verbose=0)


def test_the_first_batch_of_every_validation_set_is_checked():
    model = kt.Model(nn.Linear(3, 1))
    model.compile("mse", "sgd")
    column = torch.randn(40, 1)
    with pytest.raises(MismatchError, match="MSELoss compares element by element"):
        model.fit(1, (data()[0], column), {"a": (data()[0], column), "b": (data()[0], column[:, 0])}, verbose=0)


def test_validation_data_may_have_another_form_than_training_data():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.layer(a + b)

    x, y = data()
    model = compiled(Sum())
    pairs, named = ((x, x), y), ({"a": x, "b": x}, y)
    history = model.fit(2, pairs, {"pairs": pairs, "named": named}, verbose=0)
    assert history["val_pairs_loss"] == history["val_named_loss"]
