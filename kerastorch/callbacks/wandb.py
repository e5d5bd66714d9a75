"""Runs for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from kerastorch.callbacks.logger import Logger, UpdateFreq, check_update_freq, configuration
from kerastorch.callbacks.values import drawn, finite, images, kind, number
from kerastorch.errors import did_you_mean, needs

WandBMode = Literal["offline", "online", "disabled"]


class WandB(Logger):
    """Writes each `fit` as a run of Weights & Biases.

    By default nothing leaves the machine: the run is written to a folder, which `wandb sync` uploads. Values are drawn
    over the steps of the optimizer. Images and figures that others hand to `run.log` are shown as such, other arrays
    as histograms; what is none of these is left out with a warning. A run that you have started yourself with
    `wandb.init` is written to, and is not ended.

    `evaluate(callbacks=[...])` with the same object adds its result to the run of the last `fit` in the mode
    `"online"`. Offline it is a run of its own: a folder that was closed cannot be added to. wandb has one run at a
    time, so of several such callbacks all write into that of the first, with a warning.

    A run that was killed goes on as the same run of wandb. Online, what the killed process has written after the
    checkpoint is not written again; offline there is one more folder, of the same id, and what was written twice has
    the same `optimizer_step`.

    Example:
        >>> kt.callbacks.WandB("cifar10", name="resnet", mode="online")

    Args:
        project: Its name.
        name: Of the run; made up by default.
        mode: `"offline"`; `"online"` to upload while training, after `wandb login`; `"disabled"` for nothing.
        config: Values of your own for the table of the runs, beside optimizer, loss, batch size and so on.
        dir: Where the folder `wandb` is made; by default where the program runs.
        update_freq: Steps between two points of the running means `batch_loss`, ...; 0 or `"epoch"` for none. By
            default what `fit` was told as `log_step_freq`.

    Attributes:
        folder: Of the last run; None before.

    Raises:
        MissingPackageError: The package wandb is not installed.
        ValueError: Another `mode` or `update_freq`.
    """

    def __init__(
        self,
        project: str = "kerastorch",
        *,
        name: str | None = None,
        mode: WandBMode = "offline",
        config: Mapping[str, Any] | None = None,
        dir: str | Path | None = None,
        update_freq: UpdateFreq = None,
    ) -> None:
        needs("wandb", purpose="The WandB callback")
        check_update_freq(update_freq)
        if mode not in get_args(WandBMode):
            hint = did_you_mean(str(mode), get_args(WandBMode))
            raise ValueError(f"mode is 'offline', 'online' or 'disabled'; got {mode!r}.{hint}")
        self.project = project
        self.name = name
        self.mode = mode
        self.config = dict(config or {})
        self.dir = dir
        self.update_freq = update_freq
        self.folder: Path | None = None
        self._tracked: Any = None
        self._id: str | None = None  # of the run of the last fit
        self._ends = False  # whether the run is ours to end
        self._there = (-1, -1)  # the last step and the last epoch that a killed process has written

    def __repr__(self) -> str:
        folder = None if self.dir is None else str(self.dir)
        return (
            f"WandB({self.project!r}, name={self.name!r}, mode={self.mode!r}, config={self.config or None}, "
            f"dir={folder!r}, update_freq={self.update_freq!r})"
        )

    def open(self) -> None:
        """Begin a run, or find the one that is there."""
        wandb = needs("wandb", purpose="The WandB callback")
        config = {**configuration(self.run), **self.config}
        self._ends, self._there = wandb.run is None, (-1, -1)
        if self._ends:
            # "disabled" and the rest of the process are left as they are; the terminal belongs to the display
            settings = wandb.Settings(silent=not self.run.verbose, console="off")
            places: dict[str, Any] = {"project": self.project, "name": self.name, "dir": self.dir}
            known = self._known_run()
            places |= {} if known is None else {"id": known, "resume": "allow"}
            self._tracked = wandb.init(**places, mode=self.mode, config=config, settings=settings)
            self._tracked.define_metric("*", step_metric="optimizer_step")
            self._id = self._tracked.id if self.run.trains else self._id
            if self.run.trains and known is not None:
                last = self._tracked.summary
                self._there = last.get("optimizer_step", -1), last.get("epoch", -1)
        else:
            self._warn_of_another()
            self._tracked = wandb.run
            self._tracked.config.update(config, allow_val_change=True)
        self.folder = Path(self._tracked.dir).parent

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write values in the form that they are shown in."""
        if step <= self._there[0] if self._epoch is None else self._epoch <= self._there[1]:
            return
        row = {}
        for name, value in values.items():
            with self.leaving_out(name):
                row[name] = self._shown(name, value)
        kept = {name: value for name, value in row.items() if value is not None}
        self._tracked.log({**kept, "optimizer_step": step})

    def close(self, error: BaseException | None) -> None:
        """End the run, if it was begun here."""
        tracked, self._tracked = self._tracked, None
        if self._ends:
            tracked.finish(exit_code=0 if error is None else 1)

    def state_dict(self) -> dict[str, Any]:
        """Return which run it is."""
        return {"project": self.project, "name": self.name, "id": self._id if self._ends else None}

    def _known_run(self) -> str | None:
        """Return the id of the run to go on with: one that was killed, or for an evaluation that of the last `fit`."""
        if not self.run.trains:
            return self._id if self.mode == "online" else None
        kept = self.kept()
        same = bool(kept) and (kept["project"], kept["name"]) == (self.project, self.name)
        return kept["id"] if same else None

    def _warn_of_another(self) -> None:
        owners = [getattr(write, "__self__", None) for write in self.run.writers]
        owner = next((owner for owner in owners if isinstance(owner, WandB) and owner._ends), None)
        if owner is not None:
            text = f"{self!r} writes into the run of {owner!r}: wandb has one run at a time. Pass one WandB callback."
            self.warn_once("another", text)

    def _shown(self, name: str, value: Any) -> Any:
        wandb = needs("wandb", purpose="The WandB callback")
        match kind(value):
            case "number":
                return number(value)
            case "text":
                return value
            case "figure":
                return wandb.Image(drawn(value))
            case "images":
                return [wandb.Image(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images(value)]
            case "array":
                numbers = finite(value)
                return wandb.Histogram(numbers) if numbers.size else None
        text = f"{self!r} leaves out {name!r}: there is no form to show {type(value).__name__} in."
        self.warn_once(f"{name} {type(value)}", text)
        return None
