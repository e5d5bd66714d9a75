import pytest
import torch

from kerastorch.strategy.group import Group
from kerastorch.strategy.processes import join
from tests.distributed.together import Failed, together

CPU = torch.device("cpu")


def say():
    group = join(CPU)
    tensor = torch.full((2,), float(group.rank))
    group.align([tensor])
    return {
        "place": (group.rank, group.size, group.is_main),
        "total": group.total([1.0, float(group.rank)]),
        "rows": [part.tolist() for part in group.gather(torch.full((group.rank,), group.rank))],
        "everyone": group.everyone({"rank": group.rank}),
        "main": group.of_main(f"from {group.rank}"),
        "any": (group.any(group.rank == 2), group.any(False)),
        "aligned": tensor.tolist(),
    }


def test_processes_know_of_each_other():
    found = together(3, say)
    assert [answer.pop("place") for answer in found] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert found[0] == found[1] == found[2]
    assert found[0] == {
        "total": [3.0, 3.0],
        "rows": [[], [1], [2, 2]],
        "everyone": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
        "main": "from 0",
        "any": (True, False),
        "aligned": [0.0, 0.0],
    }


def test_one_process_is_a_group_of_its_own():
    group = join(CPU)
    assert type(group) is Group
    assert group.everyone(7) == [7]
    assert group.of_main(7) == 7
    assert group.total([1.0]) == [1.0]
    assert not group.any(False)
    assert group.is_main


def fail():
    if join(CPU).rank == 1:
        raise ValueError("this one")
    return True


def test_the_harness_tells_who_failed():
    with pytest.raises(Failed, match="this one") as caught:
        together(2, fail)
    assert list(caught.value.errors) == [1]
