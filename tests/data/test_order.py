import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from kerastorch.data.loader import LoaderSource
from kerastorch.data.order import SeededOrder, check_rows, seeded
from kerastorch.errors import DataError


@settings(max_examples=50)
@given(st.integers(-(2**65), 2**65), st.integers(0, 1000))
def test_random_numbers_follow_seed_and_epoch(seed, epoch):
    before = torch.get_rng_state()
    first, again, next_epoch, next_seed = (
        torch.rand(4, generator=seeded(*numbers))
        for numbers in ((seed, epoch), (seed, epoch), (seed, epoch + 1), (seed + 1, epoch))
    )
    assert torch.equal(first, again)
    assert not torch.equal(next_epoch, next_seed)  # as seed + epoch would have it
    assert not torch.equal(first, next_epoch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_order_has_every_sample_once_and_stays_until_the_next_epoch(shuffle):
    order = SeededOrder(9, 3, shuffle=shuffle)
    found = []
    for epoch in range(3):
        order.set_epoch(epoch)
        found += [tuple(order), tuple(order)]
    assert len(order) == 9
    assert all(sorted(one) == list(range(9)) for one in found)
    assert found[::2] == found[1::2]
    assert len(set(found)) == (3 if shuffle else 1)
    assert type(found[0][0]) is int


class Draws(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor(torch.initial_seed() % 2**31)


def test_the_workers_of_a_seeded_loader_are_seeded_anew_each_epoch():
    order = SeededOrder(4, 0, shuffle=False)
    loader = DataLoader(Draws(), 4, sampler=order, num_workers=1, generator=order.generator)
    source = LoaderSource(loader, float_dtype=torch.float32, name="dl_train")
    first, second, again = (next(source.batches(epoch)).x[0].item() for epoch in (0, 1, 0))
    assert first == again != second


def test_rows_are_counted():
    assert check_rows(torch.tensor([2, 0, 2]), 3, "dl") == 3


@pytest.mark.parametrize("rows", [[3], [-1], []])
def test_rows_that_are_not_there_are_refused(rows):
    with pytest.raises(DataError, match=r"^The rows of dl "):
        check_rows(torch.tensor(rows, dtype=torch.int64), 3, "dl")
