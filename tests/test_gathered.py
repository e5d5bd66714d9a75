import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerastorch.errors import DataError
from kerastorch.gathered import Gathered
from kerastorch.tree import concatenate

SHAPES = st.sampled_from([(), (3,), (2, 2)])


def joined(outputs, samples):
    gathered = Gathered(samples)
    for output in outputs:
        gathered.add(output)
    return gathered.result()


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(0, 30), st.just("right")),
    st.lists(st.sampled_from([torch.float32, torch.float64, torch.int64]), min_size=1, max_size=2),
    SHAPES,
)
def test_it_equals_to_join_at_the_end(sizes, samples, dtypes, shape):
    outputs = [torch.randint(100, (size, *shape)).to(dtypes[place % len(dtypes)]) for place, size in enumerate(sizes)]
    found = joined(outputs, sum(sizes) if samples == "right" else samples)
    expected = concatenate(outputs)
    assert torch.equal(found, expected)
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    assert found.untyped_storage().nbytes() == expected.untyped_storage().nbytes()


@pytest.mark.parametrize(
    "outputs",
    [
        [{"a": torch.ones(2, 3), "b": torch.zeros(2)}, {"a": torch.ones(1, 3), "b": torch.zeros(1)}],
        [(torch.ones(2), None), (torch.ones(2), None)],
        [None, None],
    ],
)
def test_nested_outputs(outputs):
    assert str(joined(outputs, 4)) == str(concatenate(outputs))


def test_numbers_are_stacked():
    assert torch.equal(joined([torch.tensor(1.0), torch.tensor(2.0)], 2), torch.tensor([1.0, 2.0]))


def test_the_layout_is_that_of_the_outputs():
    outputs = [torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last) for _ in range(3)]
    assert joined(outputs, 6).stride() == concatenate(outputs).stride()


def test_gradients_go_on():
    first = torch.ones(2, requires_grad=True)
    for outputs in ([first * 1, torch.ones(2)], [torch.ones(2), first * 1]):
        assert joined(outputs, 4).requires_grad


def test_one_batch_is_not_copied():
    output = torch.ones(4, 2)
    assert joined([output], 4) is output


def test_each_batch_is_let_go_of():
    gathered = Gathered(6)
    output = torch.ones(2, 2)
    gathered.add(output)
    output.zero_()  # a net may write into the same memory again
    gathered.add(output)
    assert torch.equal(gathered.result(), torch.tensor([[1.0, 1], [1, 1], [0, 0], [0, 0]]))


@pytest.mark.parametrize("samples", [None, 6])
@pytest.mark.parametrize(
    ("last", "text"),
    [
        (torch.ones(2, 5), r"shapes after the first dimension differ \(\(3,\), \(5,\)\)"),
        (torch.tensor(1.0), "some have no dimension"),
        ({"a": torch.ones(2, 3)}, "one is float32 .2, 3. cpu, another"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused_as_ever(samples, last, text):
    with pytest.raises(DataError, match=text):
        joined([torch.ones(2, 3), last], samples)


@pytest.mark.parametrize("samples", [None, 3])
def test_its_length_tells_whether_there_is_anything(samples):
    gathered = Gathered(samples)
    assert not gathered
    gathered.add(torch.ones(2))
    assert gathered
