import numpy as np
import pytest
import torch

from kerastorch.facts import Facts, as_texts, dtype_of, form_of, from_texts, names_in


def test_the_form_of_inputs():
    x = torch.zeros(5, 2, 3)
    assert form_of(x) == ["float32", [2, 3]]
    assert form_of({"a": x, "b": (x.long(), x.bool())}) == {
        "a": ["float32", [2, 3]],
        "b": [["int64", [2, 3]], ["bool", [2, 3]]],
    }
    for strange in (torch.tensor(1.0), "text", {"a": x, "b": None}, {1: x}, [], {}, (x, "text")):
        assert form_of(strange) is None


def test_told_is_learned_and_travels_as_text():
    facts = Facts(["a", "b"], ["float32", [3]])
    texts = as_texts(facts.told())
    other = Facts()
    other.learn(from_texts(texts))
    assert (other.classes, other.inputs) == (("a", "b"), ["float32", [3]])
    other.learn({})
    assert other.classes == ("a", "b")
    assert Facts().told() == {}
    assert from_texts({"inputs": "[" * 100_000}) == {}
    assert from_texts({"classes": "no JSON", "else": "1"}) == from_texts(None) == {}


def test_names_and_dtypes():
    assert names_in(["a"]) == names_in(np.array(["a"])) == ("a",)
    assert names_in([0, 1]) == ("0", "1")
    assert [names_in(value) for value in ("ab", [], [None], None, 3)] == [None] * 5
    assert dtype_of(["int64", []]) is torch.int64


@pytest.mark.parametrize(
    "form",
    [3, ["float32"], ["evil", [3]], ["nn", [3]], ["float32", [10**12]], ["float32", [-1]], ["float32", 3], [], {}],
)
def test_nonsense_in_a_file_is_not_believed(form):
    facts = Facts(None, ["float32", [4]])
    facts.learn({"inputs": form, "classes": 3})
    facts.learn({"inputs": torch.ones(2), "classes": torch.ones(2)})
    assert facts == Facts(None, ["float32", [4]])


def test_nested_tensors_have_no_form():
    parts = [torch.rand(3, 4), torch.rand(2, 4)]
    assert form_of(torch.nested.nested_tensor(parts, layout=torch.jagged)) is None
