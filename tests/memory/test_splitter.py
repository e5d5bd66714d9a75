import copy
import gc
import random
import re
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import kerastorch as kt
from kerastorch import memory
from kerastorch.errors import DataError

SAMPLES, FEATURES, CLASSES = 24, 5, 3


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """It takes half a second here; that nothing is left without it is more than what is promised."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(context, x, limit):
        context.limit = limit
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        if len(gradient) > context.limit:
            raise torch.OutOfMemoryError("out of memory in backward")
        return gradient, None


class Short(nn.Module):
    """Has memory for so many samples only."""

    def __init__(self, limit, where="forward", extra=None):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(FEATURES, 8)
        self.extra = extra or nn.Identity()
        self.last = nn.Linear(8, CLASSES)
        self.limit = limit
        self.where = where
        self.sizes = []
        self.live = []
        self.fault = torch.OutOfMemoryError("out of memory in forward")

    def forward(self, x):
        gc_free = [reference() is None for reference in self.live]
        self.sizes.append((len(x), all(gc_free)))
        hidden = self.extra(self.first(x).relu())
        self.live = [weakref.ref(hidden)]
        if self.where == "forward" and len(x) > self.limit:
            raise self.fault
        hidden = self.last(hidden)
        if self.where == "backward":
            hidden = Fails.apply(hidden, self.limit)
        return hidden


class Two(Short):
    def forward(self, x):
        out = super().forward(x)
        return {"a": out, "b": out[:, :1]}


def data(samples=SAMPLES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, FEATURES, generator=generator)
    return x, x[:, :CLASSES].argmax(1)


def trained(net, loss, batches, microbatch, metrics=None, **options):
    model = kt.Model(net)
    model.compile(
        loss, lambda parameters: torch.optim.SGD(parameters, lr=0.3), metrics, loss_weights=options.pop("w", None)
    )
    history = model.fit(2, batches, verbose=options.pop("verbose", 0), microbatch=microbatch, **options)
    return {name: value.detach() for name, value in net.state_dict().items()}, history


def same(one, other, **tolerance):
    (weights, history), (others, history_of_other) = one, other
    for name, value in weights.items():
        assert torch.allclose(value, others[name], atol=1e-6, **tolerance), name
    for name in history.history.keys() - {"seconds", "samples_per_second", "lr"}:
        assert history[name] == pytest.approx(history_of_other[name], rel=1e-5), name


def uneven():
    x, y = data()
    y[:11] = -100  # the first parts have no or few labels that count
    return [(x, y)]


CASES = {
    "mean": (nn.CrossEntropyLoss(), [data()], ["accuracy"]),
    "ignore_index": (nn.CrossEntropyLoss(), uneven(), ["accuracy"]),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 5.0])), [data()], None),
    "label smoothing": (nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 5.0]), label_smoothing=0.1), [data()], None),
    "sample weights": (nn.CrossEntropyLoss(), [(*data(), torch.linspace(0, 3, SAMPLES))], ["accuracy"]),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), [data()], None),
    "probabilities": (nn.CrossEntropyLoss(), [(data()[0], data()[0][:, :3].softmax(1))], None),
    "elements": (nn.MSELoss(), [(data()[0], data()[0][:, :3])], ["mae"]),
    "weighted elements": (nn.MSELoss(), [(data()[0], data()[0][:, :3], torch.linspace(0, 3, SAMPLES))], None),
    "own function": (lambda output, target: (output - target).abs().mean(), [(data()[0], data()[0][:, :3])], None),
    "nothing counts": (nn.CrossEntropyLoss(), [data(), (data()[0], torch.full((SAMPLES,), -100))], None),
}


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_that_does_not_fit_trains_as_if_it_did(name, where):
    loss, batches, metrics = CASES[name]
    whole = trained(Short(99), loss, batches, None, metrics)
    for limit in (13, 5):
        same(trained(Short(limit, where), loss, batches, "auto", metrics), whole)
    same(trained(Short(99), loss, batches, 7, metrics), whole)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_several_losses_have_shares_of_their_own(where):
    x, y = data()
    y[:11] = -100
    batches = [(x, {"a": y, "b": x[:, :1]}, {"a": torch.linspace(0, 3, SAMPLES), "b": torch.ones(SAMPLES)})]
    loss = {"a": nn.CrossEntropyLoss(), "b": nn.MSELoss()}
    arguments = {"metrics": {"a": ["accuracy"]}, "w": {"a": 2.0, "b": 0.5}}
    whole = trained(Two(99), loss, batches, None, **arguments)
    same(trained(Two(6, where), loss, batches, "auto", **arguments), whole)


def test_the_loss_of_a_net_weighs_its_labels():
    class Own(Short):
        def forward(self, x, labels):
            output = super().forward(x)
            return {"loss": functional.cross_entropy(output, labels), "logits": output}

    x, y = uneven()[0]
    batches = [{"x": x, "labels": y}]
    same(trained(Own(5), None, batches, "auto"), trained(Own(99), None, batches, None))


def test_class_weight_of_fit():
    options = {"class_weight": {0: 0.2, 1: 1.0, 2: 4.0}}
    x, y = data()
    whole = trained(Short(99), "cross_entropy", (x, y), None, batch_size=24, shuffle=False, **options)
    same(trained(Short(5), "cross_entropy", (x, y), "auto", batch_size=24, shuffle=False, **options), whole)


def test_a_loss_of_compute_loss():
    class Own(kt.Model):
        def compute_loss(self, batch, output):
            return {"loss": super().compute_loss(batch, output), "size": float(len(output))}

    results = []
    for limit, microbatch in ((99, None), (5, "auto")):
        model = Own(Short(limit))
        model.compile("cross_entropy", lambda parameters: torch.optim.SGD(parameters, lr=0.3))
        results.append(model.fit(2, [data()], verbose=0, microbatch=microbatch)["loss"])
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), limit=st.integers(1, 40))
def test_any_sizes(sizes, limit):
    batches = [data(size, seed) for seed, size in enumerate(sizes)]
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 5.0]))
    same(trained(Short(limit), loss, batches, "auto"), trained(Short(99), loss, batches, None))


def test_the_size_that_worked_is_kept_and_told_once(capsys):
    net = Short(7)
    trained(net, "cross_entropy", [data(4), data(), data(30)], "auto", verbose=2)
    sizes = [size for size, _ in net.sizes]
    assert sizes == [4, 24, 12, 6, 6, 6, 6, 6, 6, 6, 6, 6, 4, 6, 6, 6, 6, 6, 6, 6, 6, 6]
    lines = [line for line in capsys.readouterr().out.splitlines() if "memory" in line]
    assert lines == [
        "Batch 2 of 24 samples did not fit into memory: from here on it is split into 4 parts of 6; the numbers stay "
        "the same."
    ]


def test_a_part_that_fails_is_split_again_and_those_before_it_are_kept(capsys):
    class Shrinking(Short):
        def forward(self, x):
            if len(self.sizes) == 2:
                self.limit = 3
            return super().forward(x)

    net = Shrinking(12)
    whole = trained(Short(99), "cross_entropy", [data()], None, ["accuracy"])
    same(trained(net, "cross_entropy", [data()], "auto", ["accuracy"], verbose=1), whole)
    assert [size for size, _ in net.sizes][:8] == [24, 12, 12, 6, 3, 3, 3, 3]
    assert "8 parts of 3" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_what_failed_is_gone_when_the_next_try_begins(where):
    gc.disable()
    try:
        net = Short(5, where)
        trained(net, "cross_entropy", [data()], "auto")
    finally:
        gc.enable()
    assert [size for size, _ in net.sizes][:3] == [24, 12, 6]
    assert all(is_free for _, is_free in net.sizes)


class Draws(nn.Module):
    def forward(self, x):
        self.drawn = (random.random(), float(np.random.rand()))
        return functional.dropout(x, 0.5) * self.drawn[0] + self.drawn[1]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_random_numbers_and_statistics_are_those_of_the_same_parts_without_a_failure(where):
    results = []
    for limit, microbatch in ((6, "auto"), (99, 6)):
        random.seed(1)
        np.random.seed(1)
        net = Short(limit, where, nn.Sequential(nn.BatchNorm1d(8), Draws()))
        torch.manual_seed(1)
        weights, history = trained(net, "cross_entropy", [data(), data(12, 3)], microbatch)
        results.append((weights, history["loss"], random.random(), np.random.rand(), torch.rand(1)))
    (weights, *others), (expected, *rest) = results
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert others == rest


def test_a_net_that_draws_only_from_torch_costs_no_capture_after_the_first_step(monkeypatch):
    calls = []
    from kerastorch.memory import shortage

    capture = shortage.randomness.capture
    monkeypatch.setattr(shortage.randomness, "capture", lambda: calls.append(1) or capture())
    past = shortage.Past()
    for _ in range(5):
        past.keep(torch.zeros(2), None, None)
        past.settle()
    assert len(calls) == 2


def test_batch_norm_is_told(capsys):
    trained(Short(12, extra=nn.BatchNorm1d(8)), "cross_entropy", [data(23)], "auto", verbose=2)
    text = capsys.readouterr().out
    assert "split into 2 parts of 12 at most; the numbers stay the same, but for BatchNorm, which sees one" in text


def test_without_a_failure_all_is_bit_for_bit_the_same():
    batches = [data(), data(10, 1)]
    results = [trained(Short(99, extra=nn.BatchNorm1d(8)), "cross_entropy", batches, how) for how in (None, "auto", 99)]
    for weights, _ in results[1:]:
        assert all(torch.equal(value, results[0][0][name]) for name, value in weights.items())


@pytest.mark.parametrize("microbatch", ["auto", 6])
@pytest.mark.parametrize("bad", [0, 13])
def test_skip_leaves_the_whole_batch_out(microbatch, bad):
    x, y = data(seed=1)
    x[bad] = torch.nan
    batches = [data(), (x, y), data(12, 2)]
    results = []
    for limit, how in ((99, None), (6, microbatch)):
        with pytest.warns(UserWarning, match="makes no step"):
            results.append(
                trained(Short(limit, extra=nn.BatchNorm1d(8)), "cross_entropy", batches, how, ["accuracy"], nan="skip")
            )
    if microbatch == "auto":
        assert results[0][1]["accuracy"] is not None
    with pytest.warns(UserWarning, match="makes no step"):
        plain = [
            trained(Short(limit), "cross_entropy", batches, how, ["accuracy"], nan="skip")
            for limit, how in ((99, None), (6, microbatch))
        ]
    same(plain[1], plain[0])


def test_evaluate_and_predict_split_by_themselves():
    x, y = data()
    values = []
    for limit in (99, 5):
        net = Short(limit)
        model = kt.Model(net)
        model.compile("cross_entropy", "sgd", ["accuracy"])
        values.append((model.evaluate((x, y), batch_size=24), model.predict(x, batch_size=24)))
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-5)
    assert torch.allclose(values[1][1], values[0][1], atol=1e-6)


def test_validation_splits_without_being_told_to():
    net = Short(12)
    model = kt.Model(net)
    model.compile("cross_entropy", "sgd")
    history = model.fit(1, [data(12)], [data()], verbose=0)
    assert history["val_loss"][0] == pytest.approx(model.evaluate([data()])["loss"], rel=1e-5)


def test_training_does_not_split_without_being_told_to():
    with pytest.raises(torch.OutOfMemoryError, match="in forward"):
        trained(Short(12), "cross_entropy", [data()], None)


def test_other_errors_pass():
    net = Short(5)
    net.fault = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        trained(net, "cross_entropy", [data()], "auto")


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_these_mean_out_of_memory(fault):
    net = Short(5)
    net.fault = fault
    trained(net, "cross_entropy", [data()], "auto")
    assert net.sizes[-1][0] == 3


def test_torch_itself_says_so_on_the_cpu():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert memory.is_out_of_memory(caught.value)


def test_a_single_sample_that_does_not_fit_is_the_error_itself():
    with pytest.raises(torch.OutOfMemoryError, match="in forward") as caught:
        trained(Short(0), "cross_entropy", [data()], "auto")
    assert any("cannot be split: it is a single sample already" in note for note in caught.value.__notes__)


def test_inputs_that_were_written_into_are_not_used_again():
    class Writes(Short):
        def forward(self, x):
            return super().forward(x.mul_(2))

    with pytest.raises(torch.OutOfMemoryError) as caught:
        trained(Writes(12), "cross_entropy", [data()], "auto")
    assert any("changed its inputs in place" in note for note in caught.value.__notes__)


def test_what_cannot_be_cut_is_told():
    class Packed(Short):
        def forward(self, x):
            return super().forward(x.data)

    x = nn.utils.rnn.pack_sequence([torch.zeros(1, FEATURES)] * 4)
    batch = (x, torch.zeros(4, dtype=torch.long))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trained(Packed(2), "cross_entropy", [batch], "auto")
    assert any(
        "no input has the samples in dimension 0: x is PackedSequence" in note for note in caught.value.__notes__
    )
    with pytest.raises(DataError, match=r"Batch 1 cannot be split into parts of 2 samples: no input has"):
        trained(Packed(9), "cross_entropy", [batch], 2)


@pytest.mark.parametrize("wrong", ["aut", 0, -1, True, 2.5])
def test_wrong_arguments(wrong):
    model = kt.Model(Short(9))
    model.compile("cross_entropy")
    with pytest.raises(ValueError, match=re.escape(f"got {wrong!r}.")):
        model.fit(1, [data()], microbatch=wrong)


def test_gradients_of_before_are_kept_and_added_to():
    net = Short(99)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = data()
    twin = copy.deepcopy(net)
    for part in (slice(0, 9), slice(9, 24)):
        functional.cross_entropy(twin(x[part]), y[part]).backward()
    functional.cross_entropy(net(x[:9]), y[:9]).backward()
    held = [parameter.grad for parameter in net.parameters()]
    before = [gradient.clone() for gradient in held]
    with pytest.raises(KeyError), memory.shortage.gradients_aside(optimizer):
        functional.cross_entropy(net(x), y).backward()
        raise KeyError
    assert all(parameter.grad is gradient for parameter, gradient in zip(net.parameters(), held, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(held, before, strict=True))
    with memory.shortage.gradients_aside(optimizer):
        functional.cross_entropy(net(x[9:]), y[9:]).backward()
    for parameter, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_sparse_gradients_are_added(first, second):
    table = nn.Embedding(6, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)

    def step(sparse):
        table.sparse = sparse
        table(torch.tensor([1, 1, 3])).sum().backward()

    step(first)
    with memory.shortage.gradients_aside(optimizer):
        step(second)
    gradient = table.weight.grad
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    assert torch.equal(dense[:, 0], torch.tensor([0.0, 4, 0, 2, 0, 0]))
    with memory.shortage.gradients_aside(optimizer):
        pass
    assert table.weight.grad is gradient
