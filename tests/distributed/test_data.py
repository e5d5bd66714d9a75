"""Real processes read the same data."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import kerastorch as kt
from kerastorch import feed
from kerastorch.data import Share, adapt
from kerastorch.gathered import Gathered
from kerastorch.strategy import processes
from tests.distributed.together import Failed, together


def share_of():
    group = processes.join(torch.device("cpu"), 60)
    return Share(group.rank, group.size, group.everyone)


class Noisy(Dataset):
    """Digits with an augmentation, by their numbers."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index].float() + torch.rand(()), index


def read_digits(path, count, workers):
    images = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8, offset=16)
    images = images.view(-1, 28, 28)[:count]
    loader = DataLoader(Noisy(images), 32, shuffle=True, num_workers=workers)
    source = adapt(loader, name="dl_train", training=True, seed=0, share=share_of())
    found = {}
    for batch in source.batches(0):
        if not batch.is_filler:
            found |= dict(zip(batch.y.tolist(), batch.x.sum((1, 2)).tolist(), strict=True))
    source.close()
    return source.steps, found


@pytest.mark.skipif("KERASTORCH_DATA" not in os.environ, reason="KERASTORCH_DATA is not set")
def test_mnist_by_workers_is_augmented_as_in_one_process():
    path = next(Path(os.environ["KERASTORCH_DATA"]).rglob("train-images*ubyte"))
    steps, expected = read_digits(path, 501, 0)
    ranks = together(2, read_digits, str(path), 501, 1)
    assert (steps, [found[0] for found in ranks]) == (16, [8, 8])
    assert not ranks[0][1].keys() & ranks[1][1].keys()
    assert ranks[0][1] | ranks[1][1] == expected


def predict(samples, nested):
    data = torch.arange(float(samples))[:, None]
    source = feed.for_prediction(nn.Linear(1, 1), data, batch_size=32, steps=None, share=(share := share_of()))
    outputs = Gathered(source.val_sets[""].samples)
    for batch in source.val_sets[""].batches(0):
        output = {"a": batch.x * 2, "b": (batch.x,)} if nested else batch.x * 2
        outputs.add(output, is_filler=batch.is_filler)
    result = outputs.result(share.everyone)  # as lists: a tensor would be gone with the process that made it
    return [result["a"].tolist(), result["b"][0].tolist()] if nested else result.tolist()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("samples", [1001, 20])
def test_predictions_come_in_order_on_all_processes(size, samples):
    inputs = torch.arange(float(samples))[:, None]
    for found in together(size, predict, samples, False):
        assert found == (inputs * 2).tolist()
    for found in together(size, predict, samples, True):
        assert found == [(inputs * 2).tolist(), inputs.tolist()]


class Stream(IterableDataset):
    def __init__(self, rank, length):
        self.rank, self.length = rank, length

    def __iter__(self):
        return iter([100 * self.rank + number for number in range(self.length)])


def read_stream(lengths, is_own):
    share = share_of()
    data = DataLoader(Stream(share.rank if is_own is not None else 0, lengths[share.rank]), 2)
    source = adapt(kt.Sharded(data) if is_own else data, name="dl_train", training=True, share=share)
    return [(batch.is_filler, batch.x.tolist()) for batch in source.batches(0)]


def test_streams():
    first, second = together(2, read_stream, (5, 5), None)
    assert first == [(False, [0, 1]), (False, [4])]
    assert second == [(False, [2, 3]), (True, [2, 3])]
    first, second = together(2, read_stream, (3, 5), True)
    assert first == [(False, [0, 1]), (False, [2]), (True, [2])]
    assert second == [(False, [100, 101]), (False, [102, 103]), (False, [104])]
    with pytest.raises(Failed, match=r"kt\.Sharded"):
        together(2, read_stream, (5, 5), False)
