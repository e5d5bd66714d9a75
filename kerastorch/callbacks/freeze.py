"""Parts of a net that are left as they are for the first epochs."""

from __future__ import annotations

from torch import nn

from kerastorch import isolate, parameters
from kerastorch.callbacks.monitor import check_counts
from kerastorch.hooks import Callback, Logs


class Freeze(Callback):
    """Freezes parts of the net for the first epochs of `fit`, such as a pretrained backbone while a new head learns.

    As `model.freeze` does, it holds the statistics of BatchNorm as well. What is frozen already stays so. All that this
    callback has frozen is trained again from epoch `until_epoch` on, and when `fit` ends before, also by an error: the
    net is as it was given. Every `fit` begins anew.

    Several of them unfreeze a net step by step, in any order of the list: what a later one holds as well stays frozen.

    Example:
        >>> kt.callbacks.Freeze("backbone", until_epoch=3)  # for three epochs: 0, 1 and 2

    Args:
        patterns: Names of modules or parameters, in which `*` stands for any text: `"backbone"`, `"*.bias"`.
        until_epoch: The first epoch to train them in, counted from 0; so it is for how many epochs they are frozen.

    Raises:
        TypeError: A pattern is no text.
        ValueError: There is no pattern, or a negative number; when training begins, a pattern matches nothing, or all
            that could be trained is frozen.
    """

    def __init__(self, *patterns: str, until_epoch: int) -> None:
        wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
        if wrong:
            raise TypeError(f"Patterns are names, one after the other: 'backbone.*', '*.bias'; got {wrong[0]!r}.")
        if not patterns:
            raise ValueError("Freeze needs a pattern; type Freeze('backbone', until_epoch=3).")
        check_counts(until_epoch=until_epoch)
        self.patterns = patterns
        self.until_epoch = until_epoch
        self._frozen: list[str] = []
        self._by_hand: list[nn.Module] = []

    def __repr__(self) -> str:
        return f"Freeze({', '.join(map(repr, self.patterns))}, until_epoch={self.until_epoch})"

    def on_train_begin(self, logs: Logs) -> None:
        """Freeze, if the first epoch is early enough."""
        self._frozen, self._by_hand = [], []
        state, resumed = self.run.state, self.run.resumed
        begins_first = resumed is not None and not state.batch  # what was frozen at the end of an epoch still is
        if state.epoch - begins_first < self.until_epoch:
            self._active.append(self)
            if not self._freeze():
                self._unfreeze()
                raise ValueError(f"{self!r} would freeze all that is trained. Give patterns that leave something.")

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Unfreeze, if it is time."""
        if self in self._active and epoch >= self.until_epoch:
            frozen = set(self._frozen)
            self._unfreeze()
            kept = frozen.intersection(name for other in self._active for name in other._frozen)
            if kept != frozen:
                rest = ", but for what another Freeze holds" if kept else ""
                self.run.say(f"From epoch {epoch + 1} on, {', '.join(self.patterns)} is trained as well{rest}.")

    def on_train_end(self, logs: Logs) -> None:
        """Unfreeze, if training ended early."""
        self._unfreeze()

    def on_exception(self, error: BaseException) -> None:
        """Unfreeze, if it was training that failed."""
        if self.run.trains:
            self._unfreeze()

    @property
    def _active(self) -> list[Freeze]:
        """Those of this run that hold something at present."""
        return self.run.peers["freeze"]

    def _freeze(self) -> bool:
        """Freeze what is trained and matches; return whether anything is left."""
        module = self.model
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        lively = {name: part for name, part in module.named_modules() if not isolate.is_held(part)}
        resting = {part for part in lively.values() if not part.training}
        parameters.freeze(module, *self.patterns)
        left = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        held = {name: part for name, part in lively.items() if isolate.is_held(part)}
        self._by_hand += [part for part in held.values() if part in resting]
        bare = [name for name, part in held.items() if not list(part.parameters(recurse=False))]
        self._frozen += [*sorted(trained - left), *bare]
        return bool(left)

    def _unfreeze(self) -> None:
        frozen, self._frozen = self._frozen, []
        if frozen:  # without a name, all would be unfrozen
            parameters.unfreeze(self.model, *frozen)
        by_hand, self._by_hand = self._by_hand, []
        for part in by_hand:  # in evaluation mode in the middle of training: the user's own doing
            part.training = False
        if self in self._active:
            self._active.remove(self)
            for other in self._active:
                other._freeze()  # what it matches as well is from now on its own
