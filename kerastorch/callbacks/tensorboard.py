"""Curves, histograms, pictures and the graph for TensorBoard."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from kerastorch.callbacks.events import (
    add_graph,
    add_histogram,
    add_histograms,
    add_precision_recall,
    go_back,
    hparams_event,
    sizes_of,
)
from kerastorch.callbacks.logger import Logger, UpdateFreq, check_update_freq
from kerastorch.callbacks.monitor import check_counts
from kerastorch.callbacks.values import as_array, drawn, images, kind, number
from kerastorch.errors import needs
from kerastorch.hooks import Logs
from kerastorch.metrics import PrecisionRecallCurve


class TensorBoard(Logger):
    """Writes loss and metrics as curves: `tensorboard --logdir logs` shows them.

    Training goes to `log_dir/train`, validation to `log_dir/validation`, both under `epoch_<name>`, so that they are
    drawn into one chart. Every `update_freq` steps the running values of training are written as `batch_<name>`.
    Epochs count from 0, steps are those of the optimizer since `compile`. The result of `evaluate` goes to
    `log_dir/test`.

    What others hand to `run.log` is written by what it is: numbers as curves, text, matplotlib figures, images, and
    other arrays as histograms. Images are `(C, H, W)` or `(N, C, H, W)`, or have the channels last, 1, 3 or 4 of them;
    sides are 8 or more, floats from 0 to 1. A metric `kt.metrics.PrecisionRecallCurve` is drawn as such, each class.

    Where a run goes on that was killed, so do its curves: what was written after the checkpoint is taken out of the
    files of this training, which have an ending of their own. In another `log_dir` than before, what was written before
    the checkpoint is copied.

    Example:
        >>> kt.callbacks.TensorBoard("logs/wide", histogram_freq=1, hparams={"lr": 1e-3, "width": 64})
        >>> self.run.log({"val_samples": images})  # in a callback; to log_dir/validation, since it begins with val_

    Args:
        log_dir: Where to; made before the first batch. One for each run lets runs be compared.
        update_freq: Steps between two points of the `batch_` curves; 0 or `"epoch"` for none. By default what `fit` was
            told as `log_step_freq`.
        histogram_freq: Epochs between two histograms of each parameter and of its last gradient; 0 for none. All of
            them are copied to the CPU for it.
        write_graph: Draw the net once, from the first batch. A copy of it is traced, so it must fit twice. Inputs must
            be tensors, or a tuple of them.
        hparams: What distinguishes this run from others, for the tab HPARAMS, which shows it beside the last values.

    Raises:
        MissingPackageError: The package tensorboard is not installed.
        OSError: At the start of a run, `log_dir` is no folder that can be written to.
        ValueError: A number is negative, or `update_freq` is something else.
    """

    def __init__(
        self,
        log_dir: str | Path = "logs",
        *,
        update_freq: UpdateFreq = None,
        histogram_freq: int = 0,
        write_graph: bool = False,
        hparams: Mapping[str, Any] | None = None,
    ) -> None:
        needs("tensorboard", purpose="The TensorBoard callback")
        check_update_freq(update_freq)
        check_counts(histogram_freq=histogram_freq)
        self.log_dir = Path(log_dir)
        self.update_freq = update_freq
        self.histogram_freq = histogram_freq
        self.write_graph = write_graph
        self.hparams = None if hparams is None else dict(hparams)
        self._writers: dict[str, Any] = {}
        self._draws = False  # whether the graph is still to be drawn
        self._ending = ""  # of the names of the files of this fit

    def __repr__(self) -> str:
        given: dict[str, Any] = {"histogram_freq": self.histogram_freq or None, "write_graph": self.write_graph or None}
        given["hparams"] = self.hparams
        rest = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
        return f"TensorBoard({str(self.log_dir)!r}, update_freq={self.update_freq!r}{rest})"

    def open(self) -> None:
        """See that files can be written, before an epoch is spent, and whether there is something to write already."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.log_dir):
            pass
        kept = self.kept()
        self._draws = self.write_graph and self.run.trains and kept.get("draws", True)
        self._ending = f".{uuid.uuid4().hex[:12]}" if self.run.trains else ""
        if kept:
            self._ending = kept["ending"]
            go_back(self.log_dir, self._ending, kept["files"], Path(kept["log_dir"]))
        elif self.hparams is not None and self.run.trains:
            self._write_hparams(ends=False)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Draw the net after its first batch, when lazy modules have their shapes; write the running means."""
        if self._draws:
            self._draws = False
            self._draw()
        super().on_train_batch_end(batch, logs)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write each value by what it is; after an error of the files the next values begin new ones."""
        try:
            for name, value in values.items():
                with self.leaving_out(name):
                    self._write(step, name, value)
            if self._epoch is not None:
                self._finish_epoch(self._epoch)
        except Exception:
            with suppress(Exception):  # a writer that has failed once refuses everything
                self._close_writers()
            raise

    def close(self, error: BaseException | None) -> None:
        """Close the files."""
        self._close_writers()
        if self.hparams is not None and self.run.trains and error is None:
            self._write_hparams(ends=True)

    def state_dict(self) -> dict[str, Any]:
        """Return which files there are, and how much is in them."""
        for writer in self._writers.values():
            with suppress(Exception):  # a full disk costs the curves, not the checkpoint
                writer.flush()
        files = sizes_of(self.log_dir, self._ending) if self._ending else {}
        return {"log_dir": str(self.log_dir.resolve()), "ending": self._ending, "files": files, "draws": self._draws}

    def _writer(self, place: str) -> Any:
        if place not in self._writers:
            module = needs("torch.utils.tensorboard", purpose="The TensorBoard callback", install="tensorboard")
            resumed = self.run.resumed
            # A TensorBoard that is open has read what was cut off, and forgets it from this step on
            purged = None if resumed is None else resumed.step + 1
            folder = str(self.log_dir / place)
            self._writers[place] = module.SummaryWriter(folder, purge_step=purged, filename_suffix=self._ending)
        return self._writers[place]

    def _close_writers(self) -> None:
        with ExitStack() as stack:  # whatever happens to one of them, the others are closed
            for writer in self._writers.values():
                stack.callback(writer.close)
            self._writers.clear()

    def _write(self, step: int, name: str, value: Any) -> None:
        epoch = self._epoch
        if epoch is not None and name == "epoch":
            return
        writer, tag = self._writer(_place(name)), name.removeprefix("val_")
        if (epoch is not None or name.startswith("test_")) and self._is_curve(name):
            add_precision_recall(writer, tag, value, step if epoch is None else epoch)
        elif epoch is not None:
            self._add(writer, f"epoch_{tag}", value, epoch)
        else:
            self._add(writer, tag, value, step)

    def _finish_epoch(self, epoch: int) -> None:
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            add_histograms(self._writer("train"), self.run.state.module, epoch)
        for writer in self._writers.values():
            writer.flush()

    def _is_curve(self, name: str) -> bool:
        """Whether a value of an epoch or of an evaluation is that of a PrecisionRecallCurve."""
        metrics = dict(self.run.state.metrics.metrics)
        kind = "val" if self.run.trains else "test"
        for prefix in self.run.val_sets:
            metrics |= {f"{kind}_{prefix}{key}": metric for key, metric in self.run.val_metrics.metrics.items()}
        return isinstance(metrics.get(name), PrecisionRecallCurve)

    def _draw(self) -> None:
        batch = self.run.current
        try:
            if batch is not None:
                add_graph(self._writer("train"), self.run.state.module, batch.x)
        except Exception as error:  # what torch cannot trace fails in many ways
            self._warn_of_graph(error)

    def _warn_of_graph(self, error: Exception) -> None:
        text = " ".join(str(error).split())
        text = text if len(text) < 300 else f"{text[:300]} ..."
        self.warn_once("graph", f"{self!r} cannot draw the net: {type(error).__name__}: {text} Training goes on.")

    def _write_hparams(self, *, ends: bool) -> None:
        module = needs("torch.utils.tensorboard.writer", purpose="The TensorBoard callback", install="tensorboard")
        # In the folder above, so that the values of both belong to it
        writer = module.FileWriter(str(self.log_dir), filename_suffix=self._ending)
        writer.add_summary(hparams_event(self.hparams or {}, ends=ends))
        writer.close()

    def _add(self, writer: Any, tag: str, value: Any, step: int) -> None:
        match kind(value):
            case "number":
                writer.add_scalar(tag, number(value), step)
            case "text":
                writer.add_text(tag, value, step)
            case "figure":
                writer.add_image(tag, drawn(value), step, dataformats="HWC")
            case "images":
                writer.add_images(tag, images(value), step, dataformats="NHWC")
            case "array":
                add_histogram(writer, tag, as_array(value), step)
            case _:
                text = f"{self!r} leaves out {tag!r}: there is no form to show {type(value).__name__} in."
                self.warn_once(f"{tag} {type(value)}", text)


def _place(name: str) -> str:
    if name.startswith("val_"):
        return "validation"
    return "test" if name.startswith("test_") else "train"
