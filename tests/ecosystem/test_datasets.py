"""Data sets of Hugging Face, with tokenizers and collators of transformers; no download."""

import os

import pytest
import torch
from torch.utils.data import DataLoader

import kerastorch as kt

os.environ.setdefault("HF_HUB_OFFLINE", "1")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["good", "bad", "film", "a", "very", "long", "and", "so"]
TEXTS = [f"{'a very ' * (number % 3)}{WORDS[number % 2]} film" for number in range(40)]
LABELS = [number % 2 for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")


def classifier():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return transformers.BertForSequenceClassification(config)


def compiled():
    model = kt.Model(classifier())
    model.compile(optimizer=lambda parameters: torch.optim.Adam(parameters, 0.01), metrics=["accuracy"])
    return model


def texts():
    return datasets.Dataset.from_dict({"text": TEXTS, "labels": LABELS})


def test_texts_of_one_length_are_read_as_they_are(tokenizer):
    rows = texts().map(lambda row: tokenizer(row["text"], padding="max_length", max_length=8), batched=True)
    rows = rows.remove_columns("text").with_format("torch")
    model = compiled()
    history = model.fit(6, rows, rows, batch_size=8, seed=0, verbose=0)
    assert history["val_accuracy"][-1] == 1
    assert model.predict(rows)["logits"].shape == (40, 2)


def test_a_collator_pads_each_batch_and_means_stay_exact(tokenizer):
    rows = texts().map(lambda row: tokenizer(row["text"]), batched=True).remove_columns("text")
    collate = transformers.DataCollatorWithPadding(tokenizer)
    model = compiled()
    history = model.fit(6, DataLoader(rows, 8, shuffle=True, collate_fn=collate), verbose=0)
    assert history["accuracy"][-1] > 0.9
    one, other = (model.evaluate(DataLoader(rows, size, collate_fn=collate)) for size in (7, 40))
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["accuracy"] == other["accuracy"]


def test_a_stream_is_trained_on(tokenizer):
    rows = texts().map(lambda row: tokenizer(row["text"]), batched=True).remove_columns("text")
    stream = rows.to_iterable_dataset().shuffle(seed=0, buffer_size=40)
    collate = transformers.DataCollatorWithPadding(tokenizer)
    history = compiled().fit(2, DataLoader(stream, 8, collate_fn=collate), steps_per_epoch=5, verbose=0)
    assert len(history) == 2


def test_features_of_tables_are_inputs_by_name():
    rows = datasets.Dataset.from_dict({"age": [[float(number)] for number in range(20)], "labels": [0.0, 1.0] * 10})

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, age):
            return self.layer(age).squeeze(-1)

    model = kt.Model(Net())
    model.compile("mse", "sgd")
    found = model.evaluate(rows.with_format("torch"))
    assert found["loss"] == pytest.approx(model.evaluate(rows.with_format("torch"), batch_size=3)["loss"])
