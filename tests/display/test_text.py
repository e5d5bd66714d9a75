from hypothesis import given
from hypothesis import strategies as st

from kerastorch.display.text import columns_of, cut, fitting, flowing, right, shortened, width


def test_the_width_is_that_of_a_terminal():
    assert width("loss") == 4
    assert width("损失") == 4
    assert width("é") == width("e\u0301") == 1


@given(st.text(max_size=40), st.integers(1, 40))
def test_what_is_cut_is_not_too_wide(text, columns):
    assert width(fitting(text, columns)) <= columns
    assert width(shortened(text, columns)) <= columns
    assert text.startswith(fitting(text, columns))


def test_a_long_name_is_cut_in_its_middle():
    assert shortened("val_accuracy_of_the_rare_classes", 14) == "val_acc…lasses"
    assert shortened("accuracy", 8) == "accuracy"
    assert shortened("损失损失", 4) == "损…"


def test_a_line_is_cut_across_its_pieces():
    assert cut([("abc", "bold"), ("def", "")], 4) == [("abc", "bold"), ("d", "")]
    assert cut([("abc", ""), ("def", "")], 2) == [("ab", ""), ("", "")]


def test_items_flow():
    lines = flowing([[("a 1", "")], [("b 2", "")], [("c 3", "")]], 9)
    assert ["".join(text for text, _ in line) for line in lines] == ["a 1  b 2", "c 3"]
    assert flowing([[("abcdef", "")]], 3) == [[("abc", "")]]
    assert flowing([], 9) == []


def test_right():
    assert right("损", 4) == "  损"
    assert columns_of([("损", ""), ("a", "dim")]) == 3
