import pytest
import torch

from kerastorch.data import Batch
from kerastorch.errors import DataError
from kerastorch.memory import cut


def test_sizes_differ_by_one_at_most_and_nothing_is_copied():
    x, y = torch.arange(9.0), torch.arange(9)
    parts = cut(Batch(3, x, y, None, 9), 4)
    assert [part.size for part in parts] == [3, 3, 3]
    assert [part.index for part in parts] == [3, 3, 3]
    assert torch.equal(torch.cat([part.x for part in parts]), x)
    assert torch.equal(torch.cat([part.y for part in parts]), y)
    assert parts[1].x.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_a_small_batch_is_its_own_part():
    batch = Batch(0, torch.zeros(4), None, None, 4)
    assert cut(batch, 4) == [batch]


def test_nested_inputs_weights_and_truth_are_cut_and_what_all_samples_share_is_not():
    shared = torch.eye(7)
    x = {"a": torch.arange(4.0), "b": [torch.zeros(4, 2), shared], "scale": 2.0, "none": None}
    batch = Batch(0, x, (torch.arange(4), None), {"y": torch.ones(4)}, 4, torch.arange(4))
    first, second = cut(batch, 2)
    assert second.x["a"].tolist() == [2, 3]
    assert second.x["b"][0].shape == (2, 2)
    assert second.x["b"][1] is shared
    assert (second.x["scale"], second.x["none"]) == (2.0, None)
    assert second.y[0].tolist() == [2, 3]
    assert second.y[1] is None
    assert first.weight["y"].shape == (2,)
    assert first.truth.tolist() == [0, 1]


class Encoding(dict):
    def to(self, device):
        return self


def test_what_a_tokenizer_gives_keeps_its_kind():
    batch = Batch(0, Encoding(ids=torch.arange(4), labels=torch.arange(4)), torch.arange(4), None, 4)
    parts = cut(batch, 2)
    assert type(parts[1].x) is Encoding
    assert parts[1].x["ids"].tolist() == [2, 3]
    assert batch.x["ids"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (torch.zeros(3, 4), torch.zeros(4), "no input has the samples in dimension 0: x is Tensor"),
        ((torch.zeros(4), ["a", "b", "c", "d"]), None, "holds a str"),
        ((torch.zeros(4), torch.zeros(4, 2).to_sparse()), None, "holds a torch.sparse_coo tensor"),
        (torch.zeros(4), torch.zeros(5), r"shape \(5,\) have no samples"),
        (torch.zeros(4), [{"boxes": torch.zeros(2, 4)}] * 4, r"shape \(2, 4\) have no samples"),
        (torch.zeros(4), 3, "holds a int"),
    ],
)
def test_what_cannot_be_cut(x, y, text):
    with pytest.raises(DataError, match=text):
        cut(Batch(0, x, y, None, 4), 2)
