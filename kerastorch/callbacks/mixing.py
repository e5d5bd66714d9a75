"""Samples of a batch that are mixed with each other, on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from kerastorch import isolate
from kerastorch.data import Batch
from kerastorch.errors import DataError, MismatchError, needs
from kerastorch.hooks import Callback, Logs
from kerastorch.losses import Loss
from kerastorch.run import Run
from kerastorch.tree import describe

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_OF_LOG_SOFTMAX = ("NLLLoss", "nll_loss")
_LABELS_ONLY = (*_OF_LOG_SOFTMAX, "MultiMarginLoss", "multi_margin_loss")


class MixUp(Callback):
    """Mixes each training sample with another of its batch, inputs and targets alike.

    A batch has one share, drawn from Beta(alpha, alpha); a sample becomes that share of itself and the rest of the
    sample before it, so the data should be shuffled (Zhang et al. 2018, https://arxiv.org/abs/1710.09412). torchvision
    does it. Evaluation and prediction see samples as they are, also inside `fit`.

    Inputs are one floating tensor of any shape: images, rows of a table, signals. Labels `(N,)` become probabilities
    `(N, C)`, as `"cross_entropy"` takes them; floating targets are mixed as they are. Where labels were mixed, metrics
    compare with the label that has the larger share: the training accuracy is that of a harder task, and usually lower
    than the one of the validation.

    Example:
        >>> model.fit(10, dl_train, dl_val, callbacks=[kt.callbacks.MixUp(0.2)])

    Args:
        alpha: Small: one of the two has nearly all. 1: every share is as likely.
        num_classes: The number of classes C. By default the number of scores in the output of the net: the first batch
            of a `fit` goes through it once more, in evaluation mode.

    Raises:
        ValueError: `alpha` is not above 0, or there are less than two classes.
        MissingPackageError: torchvision is not installed.
        MismatchError: The loss takes no probabilities, or there are weights of classes; at the start of the run.
        DataError: A batch cannot be mixed: it has sample weights, or several inputs or targets.
    """

    def __init__(self, alpha: float = 0.2, num_classes: int | None = None) -> None:
        self._mixer = _Mixer("MixUp", alpha, num_classes)

    def __repr__(self) -> str:
        return repr(self._mixer)

    def on_train_begin(self, logs: Logs) -> None:
        """Look at the loss."""
        self._mixer.begin(self.run)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Mix, in training."""
        return self._mixer(batch, self.run) if self.run.phase == "train" else batch


class CutMix(Callback):
    """Pastes a piece of another image of the batch into each training image; targets are mixed by area.

    A batch has one rectangle; the share of the area that is left of an image is drawn from Beta(alpha, alpha), the
    rectangle comes from the image before it, so the data should be shuffled (Yun et al. 2019,
    https://arxiv.org/abs/1905.04899). torchvision does it.

    Inputs are images `(N, channels, height, width)`, targets labels `(N,)`, or floating `(N,)` or `(N, C)`. All else is
    as for `MixUp`. For one or the other, batch by batch:

        >>> from torchvision.transforms import v2
        >>> either = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=10), v2.CutMix(num_classes=10)])
        >>> model.fit(10, dl_train, dl_val, callbacks=[kt.callbacks.BatchTransform(either, targets=True)])

    Args:
        alpha: As for `MixUp`; usually 1 here.
        num_classes: As for `MixUp`.

    Raises:
        ValueError: `alpha` is not above 0, or there are less than two classes.
        MissingPackageError: torchvision is not installed.
        MismatchError: The loss takes no probabilities, or there are weights of classes; at the start of the run.
        DataError: A batch cannot be mixed: it has sample weights, or several inputs or targets, or no images.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        self._mixer = _Mixer("CutMix", alpha, num_classes)

    def __repr__(self) -> str:
        return repr(self._mixer)

    def on_train_begin(self, logs: Logs) -> None:
        """Look at the loss."""
        self._mixer.begin(self.run)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Mix, in training."""
        return self._mixer(batch, self.run) if self.run.phase == "train" else batch


class _Mixer:
    """What both have in common."""

    def __init__(self, name: Literal["MixUp", "CutMix"], alpha: float, num_classes: int | None) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha is a number above 0; got {alpha!r}.")
        if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 2):
            raise ValueError(f"num_classes is a whole number from 2; got {num_classes!r}.")
        self.name = name
        self.alpha = alpha
        self.num_classes = num_classes
        transforms = needs("torchvision.transforms.v2", purpose=name)
        self._kind: Callable[..., Mix] = getattr(transforms, name)
        self._mix_values: Mix = self._kind(alpha=alpha)
        self._mix_labels: Mix = self._mix_values
        self._classes = 0  # not known yet

    def __repr__(self) -> str:
        return f"{self.name}(alpha={self.alpha}, num_classes={self.num_classes})"

    def begin(self, run: Run) -> None:
        """Forget the last net, and see that the loss takes what is mixed."""
        self._classes = 0
        losses: Mapping[Any, Any] = getattr(run.loss, "losses", {"": run.loss})
        for loss in losses.values():
            if isinstance(loss, Loss):
                self._see_loss(loss)
        if run.train_loss is not None:
            raise MismatchError(
                f"class_weight weighs a sample by its one class, but {self.name} gives it two. For weights of classes "
                "type loss=nn.CrossEntropyLoss(weight=...)."
            )

    def __call__(self, batch: Batch, run: Run) -> Batch:
        """Return the batch, mixed."""
        self._see(batch)
        x, y = batch.x, batch.y
        images = x if x.ndim == 4 else x.reshape(len(x), -1, 1, 1)  # torchvision mixes nothing but images
        if y.is_floating_point():
            mixed, target = self._mix_values(images, y.reshape(len(y), -1))
            batch.y = target.reshape(y.shape)
        else:
            mixed, batch.y = self._for_labels(batch, run)(images, y.long())
            batch.truth = batch.y.argmax(1)
        batch.x = mixed.reshape(x.shape)
        return batch

    def _see_loss(self, loss: Loss) -> None:
        makes = f"{self.name} makes probabilities of labels, and {loss.name}"
        if loss.name in _LABELS_ONLY:
            change = (
                "Leave out the LogSoftmax at the end of forward, and type" if loss.name in _OF_LOG_SOFTMAX else "Type"
            )
            raise MismatchError(f"{makes} takes labels only. {change} loss='cross_entropy'.")
        if loss.by_label and loss.ignore_index >= 0:
            raise MismatchError(
                f"{makes} takes them only without ignore_index={loss.ignore_index}. What is to be ignored cannot be "
                "mixed: leave out such samples, and ignore_index."
            )

    def _see(self, batch: Batch) -> None:
        x, y, has = batch.x, batch.y, f"batch {batch.index} has {batch.describe()}"
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not x.ndim or not y.ndim or len(x) != len(y):
            raise DataError(
                f"{self.name} mixes one tensor of inputs and one of targets; {has}. For others write a function f(x, "
                "y) of whole batches, and type BatchTransform(f, targets=True)."
            )
        if batch.weight is not None:
            raise DataError(f"{self.name} cannot mix samples that have weights; {has}. Leave out one of the two.")
        if self.name == "CutMix" and x.ndim != 4:
            raise DataError(f"CutMix needs images (N, channels, height, width); {has}. MixUp takes any shape.")
        if self.name == "MixUp" and not x.is_floating_point():
            raise DataError(
                f"MixUp needs floating inputs; {has}. For images as bytes put before it: "
                "BatchTransform(v2.ToDtype(torch.float32, scale=True), phase='both')."
            )
        if y.ndim > 1 and (not y.is_floating_point() or (self.name == "CutMix" and y.ndim > 2)):
            raise DataError(f"{self.name} mixes labels (N,), or targets of a floating dtype; {has}. Type y.float().")

    def _for_labels(self, batch: Batch, run: Run) -> Mix:
        is_first = not self._classes
        if is_first:
            self._classes = self.num_classes or self._count(batch, run)
            self._mix_labels = self._kind(alpha=self.alpha, num_classes=self._classes)
        if is_first or batch.y.is_cpu:  # elsewhere a look waits for the device
            self._see_range(batch)
        return self._mix_labels

    def _count(self, batch: Batch, run: Run) -> int:
        with isolate.evaluation(run.state.module):
            output: Any = run.predict_step(batch)
        run.call = None  # how inputs go into the net in training is for the step to decide
        if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1:
            return output.shape[1]
        raise MismatchError(
            f"{self.name} makes probabilities of labels, but the output of the net, {describe(output)}, does not tell "
            f"how many classes there are. Type {self.name}(num_classes=10), for 10; or give binary targets as floats."
        )

    def _see_range(self, batch: Batch) -> None:
        low, high = int(batch.y.min()), int(batch.y.max())
        if low < 0 or high >= self._classes:
            raise DataError(
                f"{self.name} mixes labels from 0 to {self._classes - 1}, for {self._classes} classes; those of batch "
                f"{batch.index} go from {low} to {high}. What is to be ignored cannot be mixed: leave it out."
            )
