"""Loss by learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kerastorch.errors import needs

if TYPE_CHECKING:  # the module takes a while
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

FEWEST = 10  # batches that tell how much losses vary
_REACH = 0.5  # decades of learning rate to either side that a smoothed loss is a mean over
_NOISE = 6  # standard deviations of a smoothed loss; pure noise falls as far in one trial of a thousand


@dataclass(frozen=True, repr=False)
class LRFinderResult:
    """What `Model.find_lr` found; `float(result)` is the learning rate to train with.

    The suggestion is where the smoothed loss falls fastest, by decade of learning rate, before it is lowest. There a
    rate does most good, and is not yet near those that do harm. It is None where the loss falls no further than noise
    would: the rates were too low, or too high from the first, or the batches too few or too small to tell.

    Example:
        >>> result = model.find_lr(dl_train)
        >>> result
        LRFinderResult(suggestion=0.00486, 76 learning rates from 1e-07 to 0.115)
        >>> model.compile("cross_entropy", torch.optim.Adam(model.parameters(), lr=float(result)))

    Attributes:
        lrs: Learning rates of the first parameter group, one for each batch.
        losses: The loss of each batch, before the step with that rate.
    """

    lrs: list[float]
    losses: list[float]

    @property
    def smoothed(self) -> list[float]:
        """The losses, each a mean over half a decade of learning rate to either side, near ones counting most."""
        places = np.log10(self.lrs)
        smoothed: list[float] = smoothed_at(self.losses, places, places).tolist()
        return smoothed

    @property
    def suggestion(self) -> float | None:
        """The learning rate to train with; None where the losses do not tell."""
        if len(self.losses) < FEWEST:
            return None
        places, losses = np.log10(self.lrs), np.array(self.losses)
        # However high the loss rises at the end, it must not lift its mean over rates that are good
        losses = np.minimum(losses, losses[: losses.argmin() + 1].max())
        smoothed = smoothed_at(losses, places, places)
        lowest = int(smoothed.argmin())
        rounding = 1e-9 * float(np.abs(losses).max())
        if smoothed[: lowest + 1].max() - smoothed[lowest] <= _NOISE * _deviation(losses, places) + rounding:
            return None
        slopes = np.gradient(smoothed, places)
        return self.lrs[int(slopes[: lowest + 1].argmin())]

    def plot(self) -> Any:
        """Return a `matplotlib.figure.Figure`: losses by learning rate, and the suggestion.

        Raises:
            MissingPackageError: The package matplotlib is not installed.
        """
        figure = needs("matplotlib.figure", purpose="LRFinderResult.plot").Figure(layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.plot(self.lrs, self.losses, color="0.8", label="of a batch")
        axes.plot(self.lrs, self.smoothed, color="C0", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggestion {self.suggestion:.3g}")
        if self.losses:  # not up to where it ends: that may be a thousand times as high
            low, high = min(self.losses), max(self.losses[: self.losses.index(min(self.losses)) + 1])
            margin = 0.2 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        axes.legend()
        return figure

    def __float__(self) -> float:
        if not self.losses:
            raise ValueError(
                "No learning rate can be suggested: the loss of the first batch was no number. For where that begins, "
                "type model.fit(1, dl_train, callbacks=[kt.callbacks.TerminateOnNaN(diagnose=True)])."
            )
        if self.suggestion is None:
            raise ValueError(
                f"No learning rate can be suggested: {self._tried()}, and the loss fell no further than by noise. Look "
                "at result.plot(); then try more steps, larger batches, or other limits: find_lr(..., min_lr=1e-9, "
                "max_lr=100, steps=300)."
            )
        return self.suggestion

    def __repr__(self) -> str:
        found = None if self.suggestion is None else float(f"{self.suggestion:.3g}")
        return f"LRFinderResult(suggestion={found}, {self._tried()})"

    def _tried(self) -> str:
        if not self.lrs:
            return "no learning rate with a loss"
        return f"{len(self.lrs)} learning rates from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"


def smoothed_at(losses: Sequence[float], places: FloatArray, at: FloatArray) -> FloatArray:
    """Return the mean of the losses around each of some places, on the scale of log10 of the learning rate."""
    weights = _weights(places, at)
    mean: FloatArray = weights @ np.asarray(losses) / weights.sum(1)
    return mean


def _weights(places: FloatArray, at: FloatArray) -> FloatArray:
    # Beyond its reach the mean sees nothing: where the loss explodes, that does not lift it far below
    reach = max(_REACH, 2 * float(places[1] - places[0])) if len(places) > 1 else _REACH
    weights: FloatArray = np.clip(1 - ((at[:, None] - places) / reach) ** 2, 0, None) ** 2
    return weights


def _deviation(losses: FloatArray, places: FloatArray) -> float:
    """Return the standard deviation of a smoothed loss, told from the differences of losses that are neighbours."""
    weights = _weights(places, places)
    share = np.sqrt((weights**2).sum(1)) / weights.sum(1)
    return float(np.sqrt(np.mean(np.diff(losses) ** 2) / 2) * share.max())
