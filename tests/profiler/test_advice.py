import pytest
import torch
from torch.optim import SGD, Adam, Rprop
from torch.utils.data import DataLoader

from kerastorch.profiler import Circumstances, Part, advice, advise, usable_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    monkeypatch.setattr(advice, "usable_cpus", lambda: 8)


class Options(dict):
    """Of a DataLoader, which is made in the test: it warns where there are fewer CPUs than workers."""


def loader(**options):
    return Options(options)


def told(name, detail="", *, share=0.82, **circumstances):
    read = circumstances.get("loader")
    if isinstance(read, Options):
        circumstances["loader"] = DataLoader(list(range(10)), **read)
    parts = {Part(name, detail): share, Part("forward"): 1 - share}
    return advise(parts, Circumstances(**circumstances))


PIPED = {"num_workers": 4, "persistent_workers": True}


@pytest.mark.parametrize(
    ("read", "remedy"),
    [
        (None, "they are in memory already, so it is the cutting; a larger batch_size makes fewer cuts."),
        ([1, 2], "read them by a DataLoader with num_workers, or pass tensors if they fit into memory."),
        (loader(), "raise num_workers from 0 (usable CPUs: 8), or pass tensors if the data fit into memory."),
        (
            loader(num_workers=4),
            "raise num_workers from 4 (usable CPUs: 8), set persistent_workers=True, or make the transforms cheaper.",
        ),
        (loader(**PIPED), "raise num_workers from 4 (usable CPUs: 8), or make the transforms cheaper."),
        (loader(num_workers=8), "set persistent_workers=True, or make the transforms cheaper."),
        (loader(num_workers=8, persistent_workers=True), "make the transforms cheaper."),
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_data(read, remedy):
    assert told("waiting for data", loader=read) == f"82 % of the time was spent waiting for data: {remedy}"


@pytest.mark.parametrize(
    ("read", "remedy"),
    [
        (None, "if the data fit there, put them on the device before fit: x.to(device)."),
        (loader(), "set pin_memory=True on the DataLoader."),
        (loader(pin_memory=True), "send less: images as uint8, numbers in half precision."),
        ([1, 2], "send less: images as uint8, numbers in half precision."),
    ],
)
def test_transfer(read, remedy):
    assert told("transfer", loader=read) == f"82 % of the time was spent moving data to the device: {remedy}"


def parameters(count=1):
    return [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(count)]


class Own(SGD):
    pass


@pytest.mark.parametrize(
    ("optimizer", "on_accelerator", "remedy"),
    [
        (Adam(parameters()), False, "Adam(..., fused=True) does it in one operation."),
        (SGD(parameters(), fused=False), True, "SGD(..., fused=True) does it in one operation."),
        (Adam(parameters(), fused=True), False, "a larger batch_size makes fewer steps."),
        (Rprop(parameters(), foreach=False), True, "Rprop(..., foreach=True) takes all parameters at once."),
        (Rprop(parameters(), foreach=False), False, "a larger batch_size makes fewer steps."),
        (Rprop(parameters(3)), True, "make its 3 groups of parameters fewer, or batch_size larger."),
        (Own(parameters()), False, "take one of torch.optim in place of Own, or a larger batch_size for fewer steps."),
    ],
)
def test_optimizer(optimizer, on_accelerator, remedy):
    text = told("optimizer", optimizer=optimizer, on_accelerator=on_accelerator)
    assert text == f"82 % of the time was spent in optimizer.step(): {remedy}"


def test_metrics_name_the_slowest():
    parts = {Part("metrics", "fast"): 1.0, Part("metrics", "slow"): 3.0, Part("forward"): 4.0}
    assert advise(parts, Circumstances()) == (
        "50 % of the time was spent on the metric 'slow': leave it to the validation with on=\"val\", or take a "
        "cheaper one."
    )


def test_validation():
    assert told("validation") == (
        "82 % of the time was spent on validation: validate less often, validation_freq=5, or on less, "
        "validation_steps=100."
    )


@pytest.mark.parametrize(
    ("hook", "remedy"),
    [
        (
            "on_train_batch_end",
            "do less there, or only every 100th batch; reading a value of logs there waits for the device.",
        ),
        ("on_epoch_end", "do less there, or only every few epochs."),
        ("on_train_begin", "do less there."),
    ],
)
def test_callback(hook, remedy):
    assert told("callback Slow", hook) == f"82 % of the time was spent in Slow.{hook}: {remedy}"


def test_the_slowest_hook_of_a_callback_is_named():
    parts = {Part("callback A", "on_epoch_end"): 1.0, Part("callback A", "on_train_end"): 2.0, Part("forward"): 3.0}
    assert "in A.on_train_end" in advise(parts, Circumstances())


def test_a_display():
    text = told("callback TableLog", "on_train_batch_end", displays=frozenset({"callback TableLog"}))
    assert text == "82 % of the time was spent in TableLog.on_train_batch_end: verbose=2 shows less."


def test_the_trace_itself():
    assert told("trace").endswith("look at the trace now, and at these shares without it.")


@pytest.mark.parametrize(
    ("name", "share", "is_in_the_way"),
    [
        ("waiting for data", 0.24, False),
        ("waiting for data", 0.26, True),
        ("validation", 0.39, False),
        ("validation", 0.41, True),
        ("optimizer", 0.39, False),
        ("optimizer", 0.41, True),
        ("train_step", 0.99, False),
        ("other", 0.49, False),
    ],
)
def test_from_which_share_on_a_part_is_in_the_way(name, share, is_in_the_way):
    assert ("nothing stands in its way" in told(name, share=share)) != is_in_the_way


def test_nothing_is_in_the_way():
    parts = {Part("forward"): 0.4, Part("backward"): 0.3, Part("optimizer"): 0.18, Part("other"): 0.12}
    assert advise(parts, Circumstances(steps=10)) == "The net itself takes 88 %: nothing stands in its way."


def test_many_small_things_are_in_the_way():
    names = ("forward", "waiting for data", "metrics", "callback A", "other")
    text = advise({Part(name): 0.2 for name in names}, Circumstances())
    assert text == ("Nothing stands out: the net itself takes 20 %, waiting for data 20 % and metrics 20 %.")


def test_short_steps_do_too_little_at_once_and_the_optimizer_is_not_to_blame():
    parts = {Part("forward"): 0.1, Part("backward"): 0.1, Part("optimizer"): 0.2}
    assert advise(parts, Circumstances(steps=1000)) == (
        "A step takes 0.40 ms, most of it the cost of starting many small operations: a larger batch_size does more in "
        "each."
    )
    assert "optimizer.step()" in advise(parts, Circumstances(steps=100))
    assert "waiting for data" in advise({**parts, Part("waiting for data"): 1.0}, Circumstances(steps=1000))


def test_no_time_at_all():
    assert advise({}, Circumstances()) == "Nothing stands out: the net itself takes 0 %."


def test_usable_cpus():
    assert usable_cpus() >= 1
