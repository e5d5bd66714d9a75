import copy
import pickle
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerastorch.profiler import Clock, Part, clock, stand_in


@pytest.fixture
def ticking(monkeypatch):
    """A second passes each time the clock is looked at."""
    seconds = count()
    monkeypatch.setattr(clock, "perf_counter_ns", lambda: next(seconds) * 10**9)


def test_what_a_part_calls_is_charged_to_that_alone(ticking):
    watch = Clock(Part("other"))
    inner = watch.timed(Part("inner"), lambda: "result")
    outer = watch.timed(Part("outer"), lambda: inner() + inner())
    assert outer() == "resultresult"
    assert watch.seconds() == {Part("other"): 2, Part("inner"): 2, Part("outer"): 3}


def test_arguments_go_through():
    call = Clock(Part("other")).timed(Part("a"), lambda *arguments, **options: (arguments, options))
    assert call(1, 2, key=3) == ((1, 2), {"key": 3})


def test_an_error_ends_its_part(ticking):
    watch = Clock(Part("other"))

    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        watch.timed(Part("a"), watch.timed(Part("b"), fail))()
    assert watch.seconds() == {Part("other"): 2, Part("b"): 1, Part("a"): 2}


def test_a_switch_lasts_and_a_part_inside_comes_back_to_it(ticking):
    watch = Clock(Part("other"))
    watch.switch(Part("validation"))
    watch.timed(Part("a"), lambda: None)()
    watch.switch(Part("other"))
    assert watch.seconds() == {Part("other"): 2, Part("validation"): 2, Part("a"): 1}


@given(st.recursive(st.just([]), lambda children: st.lists(children, max_size=4), max_leaves=20))
def test_the_parts_add_up_to_the_whole(tree):
    watch = Clock(Part("other"))
    began = watch._since

    def visit(children, depth=0):
        for child in children:
            watch.timed(Part("depth", str(depth)), visit)(child, depth + 1)

    visit(tree)
    seconds = watch.seconds()
    assert sum(seconds.values()) == pytest.approx((watch._since - began) / 1e9)


def test_work_that_was_handed_over_is_waited_for_where_a_part_begins_and_ends():
    events = []
    watch = Clock(Part("other"), wait=lambda: events.append(f"wait in {part_of(watch)}"))
    watch.timed(Part("forward"), lambda: events.append("work"))()
    assert events == ["wait in other", "work", "wait in forward"]


def part_of(watch):
    return next(part.name for part, cell in watch._cells.items() if cell is watch._current)


class Thing:
    def __init__(self):
        self.values = [1]

    def verb(self):
        return "plain"

    def other(self):
        return "other"


def test_a_stand_in_has_things_of_its_own_and_all_else_of_the_original():
    thing = Thing()
    double = stand_in(thing, {"verb": lambda: "timed"})
    assert (double.verb(), double.other(), thing.verb()) == ("timed", "other", "plain")
    thing.values = [2]
    assert double.values == [2]
    with pytest.raises(AttributeError, match="'Thing' object has no attribute 'nothing'"):
        double.nothing  # noqa: B018


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_of_a_stand_in_is_a_copy_of_the_original(copied):
    found = copied(stand_in(Thing(), {"verb": lambda: "timed"}))
    assert type(found) is Thing
    assert (found.verb(), found.values) == ("plain", [1])
