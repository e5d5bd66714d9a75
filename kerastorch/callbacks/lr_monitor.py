"""Curves of the learning rates."""

from __future__ import annotations

from typing import Any, Literal

from kerastorch.hooks import Callback, Logs, Stage


class LearningRateMonitor(Callback):
    """Hands the learning rate of every parameter group to the loggers, such as `TensorBoard`.

    The history has `lr`, the rate of the first group, in any case. Where there are several groups, it gets a column for
    each: `lr_0`, `lr_1`, or the group's `"name"` behind `lr_`.

    Example:
        >>> model.fit(3, dl_train, callbacks=[kt.callbacks.LearningRateMonitor(every=10), kt.callbacks.TensorBoard()])

    Args:
        every: After each `"epoch"`, or a number: after so many steps of the optimizer.
        momentum: Whether to hand on the momentum as well, or what stands for it in Adam, the first of its `betas`.

    Raises:
        ValueError: Another `every`.
    """

    stage: Stage = "transfer"  # at the end of an epoch, before others set the rates of the next

    def __init__(self, every: Literal["epoch"] | int = "epoch", *, momentum: bool = False) -> None:
        if every != "epoch" and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every is 'epoch', or a number of steps, 1 or more; got {every!r}.")
        self.every = every
        self.momentum = momentum
        self._step = 0

    def __repr__(self) -> str:
        return f"LearningRateMonitor({self.every!r}, momentum={self.momentum})"

    def on_train_begin(self, logs: Logs) -> None:
        """Note where steps begin."""
        self._step = self.run.state.step

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Hand on what a step was made with, every so many steps."""
        step = self.run.state.step
        if self.every != "epoch" and step > self._step and step % self.every == 0:
            self._log(self._values())
        self._step = step  # while gradients are only added up, there is no step

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Hand on the values of the last step of the epoch."""
        values = self._values()
        logs.update({name: value for name, value in values.items() if name != "lr"})
        if self.every == "epoch":
            self._log(values)

    def _log(self, values: dict[str, float]) -> None:
        if values:
            self.run.log(values)

    def _values(self) -> dict[str, float]:
        optimizer = self.run.state.optimizer  # None where a train_step of the user's own has others
        groups = [] if optimizer is None else optimizer.param_groups
        values = {f"lr{ending}": float(group["lr"]) for ending, group in _endings(groups).items()}
        if self.momentum:
            for ending, group in _endings(groups).items():
                found = group["momentum"] if "momentum" in group else next(iter(group.get("betas", ())), None)
                if found is not None:
                    values[f"momentum{ending}"] = float(found)
        return values


def _endings(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the groups by what tells them apart: nothing where there is one."""
    if len(groups) == 1:
        return {"": groups[0]}
    names = [str(group.get("name", number)) for number, group in enumerate(groups)]
    if len(set(names)) < len(names):
        names = [str(number) for number in range(len(groups))]
    return {f"_{name}": group for name, group in zip(names, groups, strict=True)}
