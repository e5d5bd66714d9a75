"""A function of whole batches, on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor, nn

from kerastorch.data import Batch
from kerastorch.data.batch import count_samples
from kerastorch.errors import DataError, did_you_mean
from kerastorch.hooks import Callback, Logs

Phase = Literal["train", "val", "both"]


class BatchTransform(Callback):
    """Hands each batch through a function, on the device where the work is done.

    A random transform of `torchvision.transforms.v2` draws once for the batch: all of its images are flipped, or none.
    That is faster than a transform of each sample by the data set, and a weaker augmentation.

    What is done with `"both"` in training is needed in `evaluate` and `predict` as well, which have callbacks of their
    own. Random numbers that are drawn in an evaluation do not change those of the training. Where a transform makes
    probabilities `(N, C)` of labels `(N,)`, metrics compare with the label of the largest, as for `MixUp`.

    Example:
        >>> from torchvision.transforms import v2
        >>> flip = kt.callbacks.BatchTransform(v2.RandomHorizontalFlip())
        >>> scale = kt.callbacks.BatchTransform(v2.ToDtype(torch.float32, scale=True), phase="both")
        >>> model.fit(10, dl_train, dl_val, callbacks=[scale, flip])
        >>> model.evaluate(dl_test, callbacks=[scale])

    Args:
        transform: Called as `transform(x)`; it returns what goes into the net instead. A module is moved to the device.
        phase: `"train"`, `"val"` for evaluation and prediction, or `"both"`.
        targets: Call it as `transform(x, y)`; it returns both. `y` is None where the data have no targets.

    Raises:
        TypeError: `transform` is no function.
        ValueError: `phase` is something else.
        DataError: The transform returns something else.
    """

    def __init__(self, transform: Callable[..., Any], *, phase: Phase = "train", targets: bool = False) -> None:
        if isinstance(transform, type):
            raise TypeError(f"transform is the class {transform.__name__}; pass an object: {transform.__name__}(...).")
        if not callable(transform):
            raise TypeError(f"transform is a function of a batch; got {transform!r}. For several: v2.Compose([...]).")
        if phase not in get_args(Phase):
            hint = did_you_mean(str(phase), get_args(Phase))
            raise ValueError(f"phase is 'train', 'val' or 'both'; got {phase!r}.{hint}")
        self.transform = transform
        self.phase = phase
        self.targets = targets

    def __repr__(self) -> str:
        return f"BatchTransform({self.transform!r}, phase={self.phase!r}, targets={self.targets})"

    def on_train_begin(self, logs: Logs) -> None:
        """Move the transform."""
        self._move()

    def on_test_begin(self, logs: Logs) -> None:
        """Move the transform."""
        self._move()

    def on_predict_begin(self, logs: Logs) -> None:
        """Move the transform."""
        self._move()

    def prepare_batch(self, batch: Batch) -> Batch:
        """Transform, where it is to be done."""
        if self.phase != "both" and (self.phase == "train") != (self.run.phase == "train"):
            return batch
        samples, y = count_samples(batch.x), batch.y
        if self.targets:
            batch.x, batch.y = self._both(batch)
            if _are_labels(y) and _are_probabilities(batch.y):
                batch.truth = batch.y.argmax(1)
        else:
            batch.x = self.transform(batch.x)
        if batch.x is None:
            raise DataError(f"{self!r} must return the inputs to use instead; it returned None.")
        transformed = count_samples(batch.x)
        if transformed != samples:
            batch.size = transformed
        return batch

    def _both(self, batch: Batch) -> tuple[Any, Any]:
        returned = self.transform(batch.x, batch.y)
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            raise DataError(
                f"{self!r} must return (x, y); it returned {returned if returned is None else type(returned).__name__}."
            )
        return returned[0], returned[1]

    def _move(self) -> None:
        if isinstance(self.transform, nn.Module):
            self.transform.to(self.run.device)


def _are_labels(y: Any) -> bool:
    return isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point()


def _are_probabilities(y: Any) -> bool:
    return isinstance(y, Tensor) and y.ndim == 2 and y.is_floating_point()
