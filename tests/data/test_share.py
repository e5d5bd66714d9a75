"""Several processes read the same data: every sample once, the same steps, no filler in the main process."""

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import kerastorch as kt
from kerastorch import feed
from kerastorch.data import Share, adapt
from kerastorch.data.share import checksum
from kerastorch.errors import DataError
from tests.data.crew import crew

FORMS = ["arrays", "dataset", "loader", "own batches", "lengthless", "iterable", "generator", "stream"]
EPOCHS = 3


class Numbers(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, torch.tensor([torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)


class Stream(IterableDataset):
    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return iter(range(self.length))


class OwnBatches(Sampler):
    """A batch sampler of the user's own, which draws as it goes, and tells a wrong length."""

    def __init__(self, length, batch_size, wrong=0):
        self.length, self.batch_size, self.wrong = length, batch_size, wrong

    def __iter__(self):
        left = list(range(self.length))
        while left:
            yield [left.pop(random.randrange(len(left))) for _ in range(min(self.batch_size, len(left)))]

    def __len__(self):
        return -(-self.length // self.batch_size) + self.wrong


class Lengthless(Sampler):
    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return iter(torch.randperm(self.length).tolist())


def data_of(form, length, size, shuffle, drop_last):  # noqa: PLR0911
    if form == "arrays":
        return torch.arange(length), {"batch_size": size, "shuffle": shuffle, "drop_last": drop_last}
    if form == "dataset":
        return Numbers(length), {"batch_size": size, "shuffle": shuffle, "drop_last": drop_last}
    if form == "loader":
        return DataLoader(Numbers(length), size, shuffle=shuffle, drop_last=drop_last), {}
    if form == "own batches":
        return DataLoader(Numbers(length), batch_sampler=OwnBatches(length, size)), {}
    if form == "lengthless":
        return DataLoader(Numbers(length), size, sampler=Lengthless(length), drop_last=drop_last), {}
    if form == "stream":
        return DataLoader(Stream(length), size, drop_last=drop_last), {}
    batches = list(torch.arange(length).split(size))
    return (batches if form == "iterable" else Batches(batches)), {}


class Batches:
    """An iterable that does not know its length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


def flat(lists):
    return [each for one in lists for each in one]


def samples(batch):
    return batch.x.tolist()


def read(share, form, length, size, shuffle, drop_last, epochs=EPOCHS):
    data, arguments = data_of(form, length, size, shuffle, drop_last)
    source = adapt(data, name="dl", training=True, seed=5, share=share, **arguments)
    found = [
        [(batch.index, batch.is_filler, samples(batch)) for batch in source.batches(epoch)] for epoch in range(epochs)
    ]
    source.close()
    return source.steps, found


def steps_of(ranks, epoch):
    """Return the samples of each step, fillers left out, and see that the processes agree."""
    each = [found[epoch] for _, found in ranks]
    assert len({len(one) for one in each}) == 1
    steps = []
    for index, parts in enumerate(zip(*each, strict=True)):
        assert {part[0] for part in parts} == {index}
        assert not parts[0][1], "a filler in the main process"
        steps.append([number for _, is_filler, numbers in parts if not is_filler for number in numbers])
    return steps


sizes = {
    "form": st.sampled_from(FORMS),
    "length": st.integers(1, 40),
    "size": st.integers(1, 7),
    "processes": st.integers(1, 5),
    "shuffle": st.booleans(),
    "drop_last": st.booleans(),
}
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@many
@given(**sizes)
def test_every_sample_comes_once_and_in_the_step_where_one_process_has_it(
    form, length, size, processes, shuffle, drop_last
):
    drops = drop_last and form in ("arrays", "dataset", "loader", "lengthless", "stream")
    whole = length // (size * processes) * size * processes if drops else length
    if not whole:
        return
    ranks = crew(processes, read, form, length, size, shuffle, drop_last)
    alone = read(Share(), form, length, size * processes, shuffle, drop_last)
    for epoch in range(EPOCHS):
        steps = steps_of(ranks, epoch)
        numbers = [number for step in steps for number in step]
        assert len(numbers) == len(set(numbers)) == whole
        assert ranks[0][0] in (None, len(steps))
        if form != "own batches":  # which draws batch by batch, so another order for another size
            expected = [numbers for _, _, numbers in alone[1][epoch]]
            assert [sorted(step) for step in steps] == [sorted(step) for step in expected]


def stop_and_go_on(share, form, length, size, shuffle, behind, epoch):
    """Train until so many steps of an epoch are finished; return the state, and what was read of that epoch."""
    data, arguments = data_of(form, length, size, shuffle, False)
    source = adapt(data, name="dl", training=True, seed=5, share=share, **arguments)
    seen = []
    for earlier in range(epoch):
        for _ in source.batches(earlier):
            pass
    batches = source.batches(epoch)
    for _ in range(behind):
        batch = next(batches, None)
        if batch is None:
            break
        seen.extend([] if batch.is_filler else samples(batch))
        finished = batch.index + 1
    return source.state_dict(finished), seen


def go_on(share, form, length, size, shuffle, epoch, state):
    data, arguments = data_of(form, length, size, shuffle, False)
    source = adapt(data, name="dl", training=True, seed=5, share=share, **arguments)
    start = source.place(state)
    source.load_state_dict(state)
    first = [(batch.index - start, batch.is_filler, samples(batch)) for batch in source.batches(epoch, start)]
    second = [(batch.index, batch.is_filler, samples(batch)) for batch in source.batches(epoch + 1)]
    return start, source.steps, first, second


@many
@given(
    **{name: what for name, what in sizes.items() if name != "drop_last"},
    after=st.integers(1, 5),
    other=st.integers(1, 7),
    behind=st.integers(1, 6),
    epoch=st.integers(0, 2),
)
def test_another_number_of_processes_or_another_batch_size_goes_on_at_the_sample(
    form, length, size, processes, shuffle, after, other, behind, epoch
):
    if form not in ("arrays", "dataset", "loader"):
        other = size
    before = crew(processes, stop_and_go_on, form, length, size, shuffle, behind, epoch)
    then = crew(after, go_on, form, length, other, shuffle, epoch, before[0][0])
    seen = [number for _, numbers in before for number in numbers]
    rest = [number for step in steps_of([(None, [first]) for _, _, first, _ in then], 0) for number in step]
    assert sorted(seen + rest) == list(range(length))
    again = [number for step in steps_of([(None, [second]) for _, _, _, second in then], 0) for number in step]
    assert sorted(again) == list(range(length))
    start, steps, first, _ = then[0]
    assert steps is None or start + len(first) == steps


@pytest.mark.parametrize("form", ["own batches", "generator", "stream"])
def test_batches_of_another_size_cannot_go_on_where_samples_have_no_order(form):
    state = crew(2, stop_and_go_on, form, 20, 2, True, 2, 0)[0][0]
    if form == "stream":
        with pytest.raises(DataError, match=r"batches of another size \(2 before, 3 now\)"):
            crew(2, go_on, form, 20, 3, True, 0, state)
    else:
        assert crew(1, go_on, form, 20, 2, True, 0, state)


def augmented(share, workers, size, length=23):
    source = adapt(
        DataLoader(Numbers(length), size, shuffle=True, num_workers=workers),
        name="dl",
        training=True,
        seed=3,
        share=share,
    )
    found = {}
    for epoch in range(2):
        for batch in source.batches(epoch):
            if not batch.is_filler:
                found |= {(epoch, int(n)): row.tolist() for n, row in zip(batch.x, batch.y, strict=True)}
    source.close()
    return found


def test_augmentation_of_a_sample_is_the_same_for_any_number_of_processes_and_workers():
    expected = augmented(Share(), 0, 3)
    assert len(expected) == 46
    for processes, workers in [(1, 2), (2, 0), (3, 0), (5, 0), (2, 1), (3, 2)]:
        found = {}
        for part in crew(processes, augmented, workers, 3):
            assert not found.keys() & part.keys()
            found |= part
        assert found == expected


def limited(share, steps, epochs):
    source = adapt(torch.arange(10), name="dl", training=True, seed=1, share=share, batch_size=2, steps=steps)
    return source.steps, [[(b.index, b.is_filler, samples(b)) for b in source.batches(e)] for e in range(epochs)]


def test_steps_per_epoch_count_steps_and_go_on():
    ranks = crew(2, limited, 2, 3)
    steps = [step for epoch in range(3) for step in steps_of(ranks, epoch)]
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    assert sorted(flat(steps[:3])) == sorted(flat(steps[3:])) == list(range(10))


def limited_again(share, state, steps):
    source = adapt(torch.arange(16), name="dl", training=True, seed=1, share=share, batch_size=2, steps=steps)
    if state is None:
        batches = source.batches(0)
        seen = [samples(next(batches)) for _ in range(2)]
        return source.state_dict(2), seen
    source.load_state_dict(state)
    return [samples(batch) for batch in source.batches(0, source.place(state)) if not batch.is_filler]


def test_a_limit_goes_on_with_another_number_of_processes():
    before = crew(2, limited_again, None, 3)
    after = crew(4, limited_again, before[0][0], 4)
    numbers = [n for _, parts in before for part in parts for n in part] + [n for parts in after for n in parts[0]]
    assert sorted(numbers) == list(range(16))


def own(share, lengths, workers=0):
    loader = DataLoader(
        Stream(lengths[share.rank]) if workers is None else TensorDataset(torch.arange(lengths[share.rank])), 2
    )
    source = adapt(kt.Sharded(loader), name="dl", training=True, seed=1, share=share)
    return source.steps, [
        (b.index, b.is_filler, b.x.tolist() if torch.is_tensor(b.x) else b.x[0].tolist()) for b in source.batches(0)
    ]


@pytest.mark.parametrize("workers", [0, None])
def test_shares_of_the_users_own_are_read_whole(workers):
    (steps, first), (_, second) = crew(2, own, (3, 7), workers)
    assert steps == (4 if workers == 0 else None)
    assert first == [(0, False, [0, 1]), (1, False, [2]), (2, True, [2]), (3, True, [2])]
    assert second == [(0, False, [0, 1]), (1, False, [2, 3]), (2, False, [4, 5]), (3, False, [6])]


def test_an_empty_share_is_found():
    with pytest.raises(DataError, match="is empty in the process 1"):
        crew(2, own, (3, 0), None)


def test_in_one_process_it_changes_nothing():
    assert own(Share(), (3,)) == (2, [(0, False, [0, 1]), (1, False, [2])])
    assert repr(kt.Sharded(kt.Sharded([1]))) == "Sharded([1])"


def own_again(share, state):
    source = adapt(kt.Sharded(torch.arange(8)), name="dl", training=True, seed=1, share=share, batch_size=1)
    if state is None:
        batches = source.batches(0)
        seen = samples(next(batches)) + samples(next(batches))
        return source.state_dict(2), seen
    start = source.place(state)
    source.load_state_dict(state)
    return start, [n for batch in source.batches(0, start) for n in samples(batch)]


def test_own_shares_go_on_each_where_it_was():
    before = crew(2, own_again, None)
    after = crew(2, own_again, before[0][0])
    for (_, seen), (start, rest) in zip(before, after, strict=True):
        assert start == 2
        assert sorted(seen + rest) == list(range(8))
    with pytest.raises(DataError, match="among 2 processes, and here are 3"):
        crew(3, own_again, before[0][0])


def test_own_shares_have_orders_of_their_own():
    (_, first), (_, second) = crew(2, own_again, None)
    assert first != second


def test_other_orders_are_found():
    def unseeded(share):
        generator = torch.Generator().manual_seed(share.rank)
        loader = DataLoader(Numbers(9), 2, shuffle=True, generator=generator)
        return list(adapt(loader, name="dl_train", training=True, seed=0, share=share).batches(0))

    def shards_itself(share):
        loader = DataLoader(Numbers(8), 2, sampler=range(share.rank, 8, 2))
        return list(adapt(loader, name="dl_train", training=True, seed=0, share=share).batches(0))

    with pytest.raises(DataError, match=r"The processes read different data as dl_train.*manual_seed\(0\).*kt.Sharded"):
        crew(2, unseeded)
    with pytest.raises(
        DataError, match=r"process 0 begins with the samples \[0, 2\].*process 1 with the samples \[1, 3\]"
    ):
        crew(2, shards_itself)


def test_other_data_are_found():
    def arrays(share):
        return list(adapt(torch.arange(4) + share.rank, name="dl", training=True, seed=0, share=share).batches(0))

    def lengths(share):
        return list(adapt(torch.arange(4 + share.rank), name="dl", batch_size=1, seed=0, share=share).batches(0))

    def seeds(share):
        return list(adapt(torch.arange(4), name="dl", training=True, seed=share.rank, share=share).batches(0))

    def stream(share):
        return list(
            adapt(Batches([torch.ones(2) * share.rank]), name="dl", training=True, seed=0, share=share).batches(0)
        )

    for work in (arrays, lengths, seeds, stream):
        with pytest.raises(DataError, match="The processes read different data as dl: "):
            crew(2, work)


def test_without_a_seed_the_processes_agree_on_one():
    def work(share):
        torch.manual_seed(share.rank)
        source = adapt(torch.arange(9), name="dl", training=True, batch_size=2, share=share)
        first = [n for b in source.batches(0) if not b.is_filler for n in samples(b)]
        return first, source.fingerprint()["seed"], source.state_dict(0)["seed"]

    found = crew(2, work)
    assert sorted(found[0][0] + found[1][0]) == list(range(9))
    assert [told for _, told, _ in found] == [None, None]
    assert found[0][2] == found[1][2]


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_the_seed_they_agreed_on_goes_on(form):
    def work(share, state):
        torch.manual_seed(share.rank if state is None else 77)
        data, arguments = data_of(form, 12, 2, True, False)
        source = adapt(data, name="dl", training=True, share=share, **arguments)
        start = 0 if state is None else source.place(state)
        if state is not None:
            source.load_state_dict(state)
        seen, batches = [], source.batches(0, start)
        for batch in batches:
            seen += [] if batch.is_filler else samples(batch)
            if state is None:
                return source.state_dict(1), seen
        return seen

    before = crew(2, work, None)
    after = crew(3, work, before[0][0])
    assert sorted(flat([seen for _, seen in before]) + flat(after)) == list(range(12))


def test_a_distributed_sampler_gives_its_whole_order_unpadded():
    def work(share, shuffle, batches):
        sampler = DistributedSampler(range(11), num_replicas=share.size, rank=share.rank, shuffle=shuffle, seed=4)
        if batches:
            loader = DataLoader(Numbers(11), batch_sampler=BatchSampler(sampler, 2, False))
        else:
            loader = DataLoader(Numbers(11), 2, sampler=sampler)
        source = adapt(loader, name="dl", training=True, seed=0, share=share)
        assert source.replaces == "DistributedSampler"
        assert source.fingerprint()["sampler"] in ("DistributedSampler", "BatchSampler")
        return source.steps, [[(b.index, b.is_filler, samples(b)) for b in source.batches(e)] for e in range(2)]

    for batches in (False, True):
        ranks = crew(3, work, False, batches)
        assert steps_of(ranks, 0) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
        ranks = crew(3, work, True, batches)
        for epoch in range(2):
            expected = torch.randperm(11, generator=torch.Generator().manual_seed(4 + epoch)).tolist()
            assert flat(steps_of(ranks, epoch)) == expected


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: RandomSampler(range(20), replacement=True, num_samples=40),
        lambda: WeightedRandomSampler(torch.ones(20), 33),
        lambda: SequentialSampler(range(20)),
    ],
)
def test_samplers_of_torch_are_shared_out(sampler):
    def work(share, size):
        loader = DataLoader(Numbers(20), size, sampler=sampler())
        source = adapt(loader, name="dl", training=True, seed=2, share=share)
        assert share.size == 1 or source.is_certain
        return source.steps, [[(b.index, b.is_filler, samples(b)) for b in source.batches(e)] for e in range(2)]

    alone = work(Share(), 9)
    ranks = crew(3, work, 3)
    for epoch in range(2):
        assert steps_of(ranks, epoch) == [numbers for _, _, numbers in alone[1][epoch]]


def test_a_length_that_is_wrong_ends_all_together():
    def work(share, wrong):
        loader = DataLoader(Numbers(7), batch_sampler=OwnBatches(7, 2, wrong))
        source = adapt(loader, name="dl", training=True, seed=2, share=share)
        return source.steps, [[(b.index, b.is_filler, samples(b)) for b in source.batches(0)]]

    for wrong in (-2, 3):
        assert sorted(flat(steps_of(crew(3, work, wrong), 0))) == list(range(7))


def test_steps_without_a_batch_for_each_are_dropped_or_refused():
    def work(share):
        return adapt(torch.arange(5), name="dl", batch_size=2, drop_last=True, share=share)

    assert crew(2, work)[0].steps == 1
    with pytest.raises(DataError, match="its 2 batches of 2 samples are fewer than the 3 processes"):
        crew(3, work)


def options(**given):
    sizes = dict.fromkeys(("batch_size", "shuffle", "seed", "steps_per_epoch", "validation_steps", "validation_split"))
    return feed.Options(**{**sizes, "drop_last": False, "stratify": False, "class_weight": None, **given})


def test_a_global_batch_size_is_shared_out():
    data = (torch.zeros(64, 2), torch.zeros(64))
    net = nn.Linear(2, 1)

    def work(share, **given):
        return feed.for_training(net, data, data, options(**given), epochs=1, share=share)

    read = crew(4, lambda share: work(share, global_batch_size=32))[0]
    assert (read.train.batch_size, read.train.steps, read.val_sets[""].steps) == (8, 2, 2)
    assert work(Share(), global_batch_size=32).train.batch_size == 32
    with pytest.raises(
        ValueError, match=r"global_batch_size=30 cannot be shared out evenly among 4 processes\. Type 28 or 32"
    ):
        work(Share(0, 4), global_batch_size=30)
    with pytest.raises(ValueError, match="Type 4"):
        work(Share(0, 4), global_batch_size=3)
    with pytest.raises(ValueError, match="Give one of them"):
        work(Share(), global_batch_size=30, batch_size=3)
    with pytest.raises(ValueError, match="at least 1"):
        work(Share(), global_batch_size=0)
    with pytest.raises(ValueError, match="which makes its own batches"):
        feed.for_training(net, [data], None, options(global_batch_size=4), epochs=1)


def test_a_split_and_class_weights_are_the_same_in_all_processes():
    data = (torch.randn(20, 2), torch.arange(20) % 2)

    def work(share, data=data, **given):
        read = feed.for_training(
            nn.Linear(2, 2),
            data,
            None,
            options(validation_split=0.25, class_weight="balanced", batch_size=2),
            epochs=1,
            share=share,
        )
        return [b.x.tolist() for b in read.val_sets[""].batches(0) if not b.is_filler], read.by_class

    alone = work(Share())
    found = crew(2, work)
    assert sorted(flat(found[0][0] + found[1][0])) == sorted(flat(alone[0]))
    assert torch.equal(found[1][1], alone[1])
    with pytest.raises(ValueError, match="class_weight cannot be counted"):
        crew(2, work, kt.Sharded(data))
    assert torch.equal(work(Share(), kt.Sharded(data))[1], alone[1])


def test_the_user_is_told_once_of_a_sampler_that_is_not_needed():
    def loader(share):
        return DataLoader(
            TensorDataset(torch.zeros(6, 2)), 2, sampler=DistributedSampler(range(6), share.size, share.rank)
        )

    def work(share):
        return feed.for_training(nn.Linear(2, 1), loader(share), loader(share), options(), epochs=1, share=share).notes

    assert crew(2, work)[0] == [
        "The DistributedSampler of dl_train and dl_val would give some samples twice; in its place all samples, in its "
        "order, are shared out among the processes."
    ]
    assert work(Share()) == []


def test_evaluation_and_prediction_have_every_sample_once():
    def work(share, name):
        data = DataLoader(TensorDataset(torch.arange(11.0)[:, None]), 2, shuffle=name == "for_evaluation")
        read = getattr(feed, name)(nn.Linear(1, 1), data, batch_size=None, steps=None, share=share)
        source = next(iter(read.val_sets.values()))
        return source.steps, [
            [
                (b.index, b.is_filler, b.x[0].flatten().tolist() if isinstance(b.x, tuple) else b.x.flatten().tolist())
                for b in source.batches(0)
            ]
        ]

    for processes in (2, 3):
        assert sorted(flat(steps_of(crew(processes, work, "for_evaluation"), 0))) == list(range(11))
        assert flat(steps_of(crew(processes, work, "for_prediction"), 0)) == list(range(11))


def test_a_checksum_sees_shapes_and_values():
    one = torch.arange(6.0)
    assert checksum([one]) == checksum([one.clone()])
    assert len({checksum([one]), checksum([one.view(2, 3)]), checksum([one + 1]), checksum([one.bfloat16()])}) == 4
    assert checksum([torch.eye(2).to_sparse(), torch.ones(0)]) == 0
