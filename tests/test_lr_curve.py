"""What losses by learning rate tell."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from kerastorch.lr_curve import LRFinderResult

RATES = np.geomspace(1e-7, 10, 100).tolist()


def valley(*, top=2.3, bottom=0.3, steepest=1e-3, noise=0.0, seed=0):
    """Losses that fall most at a rate, and rise again two decades above it."""
    places = np.log10(RATES)
    fall = 1 / (1 + np.exp(-4 * (places - math.log10(steepest))))
    rise = np.exp(np.clip(6 * (places - math.log10(steepest) - 2), None, 50))
    return (top - (top - bottom) * fall + rise + noise * np.random.default_rng(seed).normal(size=100)).tolist()


def decades(rate, other):
    return abs(math.log10(rate / other))


def test_the_steepest_descent_is_suggested():
    result = LRFinderResult(RATES, valley())
    assert decades(result.suggestion, 1e-3) < 0.1
    assert float(result) == result.suggestion
    assert result.suggestion in RATES


@given(st.floats(1e-5, 1e-2), st.floats(0, 0.2), st.integers(0, 1000), st.floats(-5, 5), st.sampled_from([0.5, 1, 3]))
def test_it_stands_noise_and_any_scale_of_the_loss(steepest, noise, seed, level, scale):
    losses = [level + scale * loss for loss in valley(steepest=steepest, noise=noise, seed=seed)]
    assert decades(LRFinderResult(RATES, losses).suggestion, steepest) < 0.75


@pytest.mark.parametrize("explosion", [10.0, 1e6, 1e30])
def test_how_high_the_loss_rises_at_the_end_does_not_matter(explosion):
    losses = valley()[:70]
    before = LRFinderResult(RATES[:70], losses).suggestion
    assert decades(LRFinderResult(RATES[:73], [*losses, 5.0, explosion, explosion]).suggestion, before) < 0.1


def test_noise_alone_suggests_nothing():
    found = []
    for seed in range(500):
        random = np.random.default_rng(seed)
        for noise in (random.normal(2.3, 0.3, 100), random.exponential(1, 100)):
            found.append(LRFinderResult(RATES, noise.tolist()).suggestion)
    assert sum(rate is not None for rate in found) <= 3


@pytest.mark.parametrize(
    "losses",
    [[2.3] * 100, np.linspace(2.3, 9.0, 100).tolist(), [2.3] * 9, [3.0]],
    ids=["flat", "rising from the first", "few", "one"],
)
def test_without_a_descent_nothing_is_suggested_and_a_number_is_an_error(losses):
    result = LRFinderResult(RATES[: len(losses)], losses)
    assert result.suggestion is None
    assert repr(result).startswith("LRFinderResult(suggestion=None, ")
    with pytest.raises(ValueError, match=r"No learning rate can be suggested: .*fell no further than by noise.*steps="):
        float(result)
    assert isinstance(result.plot(), Figure)


def test_it_says_in_a_line_what_was_found():
    assert repr(LRFinderResult(RATES, valley())) == (
        f"LRFinderResult(suggestion={float(f'{LRFinderResult(RATES, valley()).suggestion:.3g}')}, "
        "100 learning rates from 1e-07 to 10)"
    )
    assert repr(LRFinderResult([], [])) == "LRFinderResult(suggestion=None, no learning rate with a loss)"


def test_smoothing_lags_to_neither_side():
    step = [1.0] * 50 + [0.0] * 50
    smoothed = LRFinderResult(RATES, step).smoothed
    assert smoothed == pytest.approx([1 - value for value in reversed(smoothed)])
    assert smoothed[:40] == pytest.approx([1.0] * 40)
    assert smoothed[60:] == pytest.approx([0.0] * 40)
    assert LRFinderResult(RATES[:1], [3.0]).smoothed == [3.0]
    few = np.geomspace(1e-7, 10, 10).tolist()  # neighbours are further apart than what a mean is over
    assert LRFinderResult(few, step[45:55]).smoothed[4:6] != [1.0, 0.0]


def test_a_picture_has_a_logarithmic_axis_and_the_suggestion(tmp_path):
    losses = [*valley()[:75], 1e9]
    result = LRFinderResult(RATES[:76], losses)
    figure = result.plot()
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "loss")
    raw, smoothed, mark = axes.get_lines()
    assert raw.get_ydata().tolist() == losses
    assert smoothed.get_ydata().tolist() == result.smoothed
    assert set(mark.get_xdata()) == {result.suggestion}
    assert axes.get_ylim()[1] < 5
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["of a batch", "smoothed", f"suggestion {result.suggestion:.3g}"]
    figure.savefig(tmp_path / "lr.png")
    assert len(LRFinderResult(RATES, [1.0] * 100).plot().axes[0].get_lines()) == 2


def test_without_a_loss_it_says_how_to_find_out_why():
    result = LRFinderResult([], [])
    assert result.suggestion is None
    assert repr(result) == "LRFinderResult(suggestion=None, no learning rate with a loss)"
    assert result.plot().axes
    with pytest.raises(
        ValueError, match=r"the loss of the first batch was no number\..*TerminateOnNaN\(diagnose=True\)"
    ):
        float(result)
