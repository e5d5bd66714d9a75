"""Nets of the transformers library, built from a configuration, without a download."""

import os

import pytest
import torch
from torch.utils.data import DataLoader

import kerastorch as kt

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "num_labels": 3,
}


def rows(count=48, length=8):
    """Tokens; the label is what the first one is modulo three."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (count, length), generator=random)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens[:, 0] % 3}


def classifier():
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))


def as_list(data):
    return [{name: value[index] for name, value in data.items()} for index in range(len(data["labels"]))]


def test_a_classifier_trains_with_its_own_loss():
    model, data = kt.Model(classifier()), rows()
    model.compile(optimizer=lambda p: torch.optim.Adam(p, 1e-2), metrics=["accuracy", "f1"])
    history = model.fit(10, DataLoader(as_list(data), 16, shuffle=True), data, verbose=0)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.9
    assert history["val_f1"][-1] > 0.9
    net = model.net.eval()
    with torch.no_grad():
        output = net(**data)
    assert history["val_loss"][-1] == pytest.approx(float(output.loss), rel=1e-5)
    assert torch.equal(model.predict(data)["logits"].argmax(1), output.logits.argmax(1))


def test_training_equals_a_loop_by_hand():
    data, net, by_hand = rows(), classifier(), classifier()
    model = kt.Model(net)
    model.compile(optimizer=torch.optim.SGD(net.parameters(), 0.1))
    torch.manual_seed(1)
    model.fit(2, data, batch_size=16, shuffle=False, verbose=0)
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    torch.manual_seed(1)
    by_hand.train()
    for _ in range(2):
        for start in range(0, 48, 16):
            batch = {name: value[start : start + 16] for name, value in data.items()}
            optimizer.zero_grad()
            by_hand(**batch).loss.backward()
            optimizer.step()
    for (name, value), other in zip(net.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_tokens_with_labels_that_do_not_count_are_averaged_exactly():
    data = rows()
    labels = data["input_ids"].clone()
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.7] = -100
    data["labels"] = labels
    model = kt.Model(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    model.compile(metrics=["accuracy"])
    whole = model.evaluate(data, batch_size=48)
    for size in (5, 16):
        parts = model.evaluate(data, batch_size=size)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert parts["accuracy"] == whole["accuracy"]
    with torch.no_grad():
        output = model.net.eval()(**data)
    assert whole["loss"] == pytest.approx(float(output.loss), rel=1e-5)
    counted = labels != -100
    right = (output.logits.argmax(-1) == labels)[counted]
    assert whole["accuracy"] == pytest.approx(float(right.float().mean()))


def test_a_language_model_trains():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_positions=12, n_embd=16, n_layer=1, n_head=2)
    model = kt.Model(transformers.GPT2LMHeadModel(config))
    model.compile(optimizer=lambda p: torch.optim.Adam(p, 1e-2))
    tokens = (torch.arange(8) + torch.arange(40)[:, None]) % 20
    history = model.fit(15, {"input_ids": tokens, "labels": tokens}, batch_size=8, verbose=0)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_another_loss_may_take_the_place_of_its_own():
    model, data = kt.Model(classifier()), rows()
    model.compile({"logits": "cross_entropy"}, "adam", {"logits": ["accuracy"]})
    history = model.fit(1, data, verbose=0)
    assert history["loss"][0] == pytest.approx(history["logits_loss"][0])
    assert "logits_accuracy" in history
