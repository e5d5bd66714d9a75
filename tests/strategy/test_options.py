"""What `compile(strategy=...)` takes."""

import pytest
import torch
from torch import nn

from kerastorch.strategy.options import DDP, FSDP, of, wanted


def test_names_and_options():
    assert of(None) is None
    assert of("ddp") == of("DDP") == DDP()
    assert of("fsdp") == FSDP()
    given = FSDP("blocks.*", offload=True)
    assert of(given) is given


def test_repr_is_the_call():
    for options in (DDP(compression="bf16", bucket_cap_mb=5), FSDP(["blocks.*", "head"], reduce_dtype=torch.float32)):
        assert eval(repr(options)) == options


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("fdsp", ValueError, r"Unknown strategy 'fdsp'\. Did you mean 'fsdp'\? Known are 'ddp' and 'fsdp'\."),
        (DDP, TypeError, r"got <class .*DDP'>\. Type kt\.DDP\(\)\."),
        (2, TypeError, r"strategy is 'ddp', 'fsdp', kt\.DDP\(\.\.\.\) or kt\.FSDP\(\.\.\.\); got 2\."),
    ],
)
def test_what_is_no_strategy(spec, kind, message):
    with pytest.raises(kind, match=message):
        of(spec)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: DDP(static_graph=1), TypeError, "static_graph is True or False; got 1"),
        (lambda: DDP(timeout=0), ValueError, "timeout is a number of seconds above 0; got 0"),
        (lambda: DDP(timeout=True), ValueError, "timeout is a number of seconds above 0; got True"),
        (lambda: DDP(bucket_cap_mb=-1), ValueError, "bucket_cap_mb is a size above 0, such as 25; got -1"),
        (lambda: DDP(compression="fp8"), ValueError, "compression is 'bf16' or None; got 'fp8'"),
        (lambda: FSDP(offload="cpu"), TypeError, "offload is True or False; got 'cpu'"),
        (lambda: FSDP(timeout="1"), ValueError, "timeout is a number of seconds above 0; got '1'"),
        (lambda: FSDP(wrap=[]), TypeError, r"wrap is a name, a class of modules, or a list of them: .* got \[\]"),
        (lambda: FSDP(wrap=nn.Linear(1, 1)), TypeError, "wrap is a name"),
        (lambda: FSDP(wrap=["a", dict]), TypeError, "wrap is a name"),
        (lambda: FSDP(reduce_dtype="bf16"), TypeError, "reduce_dtype is a floating dtype, .* got 'bf16'"),
        (lambda: FSDP(reduce_dtype=torch.int8), TypeError, "reduce_dtype is a floating dtype"),
    ],
)
def test_values_out_of_range(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_what_is_wrapped_is_a_list():
    assert wanted(None) == []
    assert wanted("blocks.*") == ["blocks.*"]
    assert wanted(nn.Linear) == [nn.Linear]
    assert wanted(("a", nn.Linear)) == ["a", nn.Linear]
