import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerastorch import randomness


def draw():
    return [torch.rand(2).tolist(), np.random.normal(), np.random.rand(), random.gauss(0, 1), random.random()]


def through_file(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_what_was_captured_comes_back_from_a_file():
    np.random.normal()  # NumPy and Python draw two normal numbers at once, and keep one
    random.gauss(0, 1)
    state = through_file(randomness.capture())
    first = draw()
    assert not randomness.same(state, randomness.capture())
    randomness.restore(state)
    assert randomness.same(state, randomness.capture())
    assert draw() == first


@pytest.mark.parametrize("context", [randomness.kept, lambda: randomness.derived(1, 2)])
def test_random_numbers_are_as_before(context):
    state = randomness.capture()
    with pytest.raises(KeyError), context():
        draw()
        raise KeyError
    assert randomness.same(state, randomness.capture())


@pytest.mark.parametrize("known", [True, False])
@given(st.integers(0, 2**32 - 1), st.integers(0, 700), st.booleans(), st.booleans())
def test_numpys_generator_comes_back_from_anywhere(known, seed, drawn, waits, waits_inside):
    with pytest.MonkeyPatch.context() as patch:
        if not known:  # a NumPy whose memory is another one
            patch.setattr(randomness, "_words_of_numpy", lambda: None)
        with randomness.kept():
            np.random.seed(seed)
            np.random.bytes(4 * drawn)
            if waits:
                np.random.normal()
            before = randomness.state_of(np.random.mtrand._rand)
            with randomness.derived(seed):
                first = np.random.rand()
                if waits_inside:
                    np.random.normal()
            assert before["has_gauss"] == waits
            assert randomness.same(before, randomness.state_of(np.random.mtrand._rand))
            with randomness.derived(seed):
                assert np.random.rand() == first
            assert randomness.same(before, randomness.state_of(np.random.mtrand._rand))


def test_numpys_memory_is_known_here():
    words = randomness._words_of_numpy()
    state = np.random.get_state(legacy=False)["state"]
    assert words.tolist() == [*state["key"].tolist(), state["pos"]]


def test_another_generator_of_numpys_is_not_read_as_if_it_were_known():
    if not hasattr(np.random, "set_bit_generator"):
        pytest.skip("before NumPy 1.24 there is no other")
    bits = np.random.get_bit_generator()
    with randomness.kept():
        try:
            np.random.set_bit_generator(np.random.PCG64(1))
            assert randomness._words_of_numpy() is None
        finally:
            np.random.set_bit_generator(bits)
    assert randomness._words_of_numpy() is not None


@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=4))
def test_numbers_follow_the_seeds(numbers):
    def drawn(*seeds):
        with randomness.derived(*seeds):
            return draw()

    first = drawn(*numbers)
    assert drawn(*numbers) == first
    others = [drawn(*numbers, 0), drawn(0, *numbers), drawn(*numbers[:-1], numbers[-1] + 1)]
    for other in others:
        assert all(one != another for one, another in zip(first, other, strict=True))


MAKERS = [
    lambda: torch.Generator().manual_seed(1),
    lambda: random.Random(1),
    lambda: np.random.RandomState(1),
    lambda: np.random.default_rng(1),
    lambda: np.random.Generator(np.random.Philox(1)),
    lambda: np.random.Generator(np.random.SFC64(1)),
    lambda: np.random.Generator(np.random.MT19937(1)),
]


def number_of(generator):
    if isinstance(generator, torch.Generator):
        return torch.rand(1, generator=generator).item()
    return generator.random() if hasattr(generator, "random") else generator.rand()


@pytest.mark.parametrize("make", MAKERS)
def test_a_generator_is_put_back_from_a_file(make):
    generator = make()
    number_of(generator)
    state = through_file(randomness.state_of(generator))
    first = number_of(generator)
    other = make()
    randomness.set_state(other, state)
    assert number_of(other) == first


def test_generators_are_named_by_their_paths():
    class Part:
        pass

    root, dataset, jitter = Part(), Part(), Part()
    jitter.rng = np.random.default_rng(0)
    dataset.transform, dataset.several = jitter, [1, random.Random(0)]
    root.dataset, root.sampler, root.generator, root.again = dataset, root, torch.Generator(), jitter.rng
    found = randomness.generators(root)
    assert found == {"generator": root.generator, "again": jitter.rng, "dataset.several.1": dataset.several[1]}
    assert randomness.generators(3) == {}


def test_global_generators_are_known():
    assert randomness.is_global(torch.default_generator)
    assert randomness.is_global(np.random.mtrand._rand)
    assert not randomness.is_global(random.Random(0))
